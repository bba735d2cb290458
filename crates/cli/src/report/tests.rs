use super::*;

const HOSTILE: &str = "</code></pre><script>alert(1)</script><img src=x onerror=\"alert(2)\">'\"&<!--";

fn training(n: u64, loss: impl Fn(u64) -> f64) -> Vec<TrainingPoint> {
    (1..=n)
        .map(|step| TrainingPoint {
            tokens: (step * 8192) as f64,
            loss: loss(step),
            lr: 1e-3 * (1.0 - step as f64 / n as f64),
            grad_norm: 0.4 + 0.3 * ((step * 7919 % 101) as f64 / 101.0),
            tokens_per_s: 5600.0 + (step * 31 % 97) as f64,
        })
        .collect()
}

fn series(name: &str, points: &[(f64, f64)]) -> ValidationSeries {
    ValidationSeries { name: name.into(), points: points.iter().map(|&(x, y)| Point { x, y }).collect() }
}

fn stage(training: Vec<TrainingPoint>, validation: Vec<ValidationSeries>) -> String {
    let stage = StageReport { name: "Pre-training".into(), training, validation, ..StageReport::default() };
    render(&ReportData { name: "Casa".into(), stages: vec![stage], ..ReportData::default() })
}

/// A report in which everything that may come from a file or a model is `text`.
fn full(text: &str) -> ReportData {
    let t = || text.to_owned();
    let fact = || Fact::new(t(), t()).with_note(t());
    ReportData {
        name: t(),
        description: t(),
        made: t(),
        headline: vec![fact()],
        stages: vec![StageReport {
            name: t(),
            training: training(300, |step| 9.0 / (step as f64).powf(0.3)),
            validation: vec![series(text, &[(1e5, 4.0), (2e6, 2.0)])],
            facts: vec![fact()],
            ..StageReport::default()
        }],
        compression: vec![Compression { source: t(), bytes: 1_000_000, model: 1.447, xz: Some(2.34), gzip: None }],
        evaluations: vec![Evaluation {
            model: t(),
            judgements: vec![Judgement {
                task: t(),
                metric: t(),
                value: 0.4321,
                stderr: Some(0.01),
                ..Default::default()
            }],
        }],
        events: vec![t()],
        samples: vec![Sample { prompt: t(), text: t(), settings: t() }],
        exams: vec![Exam {
            name: t(),
            rule: t(),
            answers: vec![
                Answer { question: t(), answer: t(), right: true },
                Answer { question: t(), answer: t(), right: false },
            ],
        }],
        sources: vec![SourceSummary {
            name: t(),
            stage: t(),
            documents: 12_345,
            bytes: 9,
            tokens: 8,
            validation_tokens: 7,
        }],
        cleaning: vec![CleaningSummary { source: t(), rows: 3, dropped: 2, rewritten: 1, reasons: vec![(t(), 2)] }],
        model: vec![fact()],
        hardware: vec![fact()],
        recipe: t(),
        recipe_hash: t(),
    }
}

/// Tag names in the order in which they open and close; fails on text that opens what it does not close.
fn assert_well_formed(html: &str) {
    let void = ["meta", "link", "br", "img"];
    let body = html.replacen("<!DOCTYPE html>", "", 1);
    let style_end = body.find("</style>").unwrap();
    let (style_begin, body_after) = (body.find("<style>").unwrap() + 7, &body[style_end..]);
    let body = format!("{}{}", &body[..style_begin], body_after);
    let mut open: Vec<String> = Vec::new();
    for part in body.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
        assert!(!name.is_empty(), "not a tag: <{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "closing </{name}>");
        } else if !tag.ends_with('/') && !void.contains(&name.as_str()) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn hostile_text_stays_text_wherever_it_is_put() {
    let html = render(&full(HOSTILE));
    for forbidden in ["<script", "<img", "<!--", "onerror=\"", "</pre><s"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    // Title, heading, and each of the other places, both drawings of charts included.
    let places = html.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count();
    assert!(places >= 40, "{places}");
    assert_well_formed(&html);
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let html = render(&full("Casa"));
    for forbidden in ["http://", "https://", "//cdn", "@import", "url(", "<script", "src="] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    assert!(html.contains("default-src 'none'") && html.contains("prefers-color-scheme: dark"));
    assert_eq!(html, render(&full("Casa")));
}

#[test]
fn an_empty_report_is_a_page() {
    let html = render(&ReportData::default());
    assert_well_formed(&html);
    assert!(!html.contains("<section") && !html.contains("<nav"));
    assert!(!html.contains("NaN"));
}

#[test]
fn every_number_and_every_answer_is_on_the_page() {
    let html = render(&full("Casa"));
    assert_well_formed(&html);
    for shown in [
        "1.447",
        "2.340",
        "0.432 ± 0.010",
        "38 %",
        "12,345",
        "1 of 2",
        "✓ right",
        "✗ wrong",
        "1.00 MB",
        "<td class=\"number\">–</td>",
    ] {
        assert!(html.contains(shown), "{shown}");
    }
}

#[test]
fn empty_and_unmeasured_series_leave_a_sentence_not_a_chart() {
    for html in [
        stage(vec![], vec![]),
        stage(vec![], vec![series("books", &[])]),
        stage(
            training(200, |_| f64::NAN).into_iter().map(|p| TrainingPoint { tokens: f64::NAN, ..p }).collect(),
            vec![],
        ),
    ] {
        assert!(html.contains("loss by tokens seen: nothing was measured."));
        assert!(!html.contains("NaN") && !html.contains("inf"));
        assert_well_formed(&html);
    }
}

#[test]
fn one_point_is_a_dot() {
    let html = stage(training(1, |_| 9.0), vec![series("books", &[(8192.0, 8.5)])]);
    assert!(html.contains("<circle class=\"series line dot\""));
    assert!(html.contains("<title>validation, books: 8.5000 at 8192</title>"));
    assert!(!html.contains("NaN") && !html.contains("inf"));
    assert_well_formed(&html);
}

#[test]
fn a_gap_breaks_the_line_and_infinities_are_not_drawn() {
    let html = stage(
        training(50, |step| match step {
            20 => f64::NAN,
            30 => f64::INFINITY,
            _ => 3.0 - step as f64 * 0.01,
        }),
        vec![series("books", &[(1e5, 2.0), (2e5, f64::NAN), (3e5, 1.5)])],
    );
    let path = html.split("class=\"series line\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(path.matches('M').count(), 3, "{path}");
    assert!(!html.contains("NaN") && !html.contains("inf "));
    assert!(html.contains("–"), "the table says that it was not measured");
}

#[test]
fn a_log_axis_leaves_out_what_it_cannot_show() {
    let stage = StageReport {
        name: "Fine-tuning".into(),
        training: training(500, |step| 1.0 / step as f64),
        validation: vec![series("chat", &[(0.0, 2.0), (1e6, 0.0), (2e6, 1.0)])],
        tokens_scale: Scale::Log,
        loss_scale: Scale::Log,
        ..StageReport::default()
    };
    let html = render(&ReportData { stages: vec![stage], ..ReportData::default() });
    assert!(html.contains("tokens seen (log)") && html.contains("loss, nats per token (log)"));
    assert!(!html.contains("NaN") && !html.contains("inf"));
    assert_eq!(html.matches("<title>validation, chat: ").count(), 2, "one point, drawn for both screens");
}

#[test]
fn a_long_run_makes_a_small_page() {
    let html = stage(training(100_000, |step| 9.0 / (step as f64).powf(0.15) + (step % 13) as f64 * 0.01), vec![]);
    assert!(html.len() < 500_000, "{}", html.len());
}

/// With CASALLM_REPORT_OUT=FILE in the environment this writes the page that it checks, to be looked at.
#[test]
fn a_report_like_that_of_quickstart() {
    let html = render(&like_quickstart());
    assert_well_formed(&html);
    if let Some(path) = std::env::var_os("CASALLM_REPORT_OUT") {
        std::fs::write(path, html).unwrap();
    }
}

fn like_quickstart() -> ReportData {
    let noise = |step: u64| ((step * 2_654_435_761 % 1000) as f64 / 1000.0 - 0.5) * 0.35;
    let evals = |scale: f64, floor: f64| -> Vec<Point> {
        (0..=24)
            .map(|i| f64::from(i).mul_add(100.0, 1.0))
            .map(|s| Point { x: s * 8192.0, y: floor + scale * s.powf(-0.32) })
            .collect()
    };
    let answers = |questions: &[(&str, &str, bool)]| {
        questions.iter().map(|&(q, a, right)| Answer { question: q.into(), answer: a.into(), right }).collect()
    };
    ReportData {
        name: "Casa".into(),
        description: "A small language model trained at home on textbooks and small talk, made by Ada.".into(),
        made: "24 November 2026, casallm 0.1.0".into(),
        headline: vec![
            Fact::new("Bits per byte, OpenStax", "1.447").with_note("xz -9e: 2.340"),
            Fact::new("Identity", "19 of 20").with_note("wordings it had never seen"),
            Fact::new("Weights", "13.0 M"),
            Fact::new("Trained in", "11 min 40 s").with_note("on 2 cores"),
        ],
        stages: vec![
            StageReport {
                name: "Pre-training".into(),
                training: training(2442, |s| 3.1 + 5.6 * (s as f64).powf(-0.32) + noise(s)),
                validation: vec![
                    ValidationSeries { name: "openstax".into(), points: evals(5.6, 3.1) },
                    ValidationSeries { name: "self_dialogue".into(), points: evals(6.1, 2.6) },
                ],
                facts: vec![
                    Fact::new("Steps", "2,442"),
                    Fact::new("Tokens", "20.0 M"),
                    Fact::new("Time", "8 min 2 s"),
                    Fact::new("Speed", "41,500 tokens/s").with_note("34 % of peak"),
                ],
                tokens_scale: Scale::Log,
                ..StageReport::default()
            },
            StageReport {
                name: "Fine-tuning".into(),
                training: training(420, |s| 1.6 + 1.5 * (s as f64).powf(-0.4) + noise(s + 7)),
                validation: vec![series("chat", &[(8192.0, 3.2), (1e6, 2.1), (2e6, 1.9), (3.4e6, 1.84)])],
                tokens_scale: Scale::Log,
                ..StageReport::default()
            },
        ],
        compression: vec![
            Compression { source: "openstax".into(), bytes: 441_113, model: 1.447, xz: Some(2.34), gzip: Some(2.93) },
            Compression { source: "self_dialogue".into(), bytes: 98_221, model: 1.502, xz: Some(2.66), gzip: Some(3.04) },
        ],
        samples: vec![
            Sample {
                prompt: "The cell membrane".into(),
                text: " is a thin layer that separates the inside of the cell from its surroundings. It is made of two layers of lipids, and it lets water pass.\n\nThe nucleus holds <most> of the DNA.".into(),
                settings: "temperature 0.7, top-p 0.95, seed 1".into(),
            },
            Sample { prompt: String::new(), text: "I like to watch movies with my sister. Have you seen any good ones lately?".into(), settings: "no prompt, temperature 0.8, seed 2".into() },
        ],
        exams: vec![
            Exam {
                name: "Identity".into(),
                rule: "Right when the answer gives its name or its maker and names no other assistant or company.".into(),
                answers: answers(&[
                    ("Who are you?", "I'm Casa, a small language model trained at home by Ada.", true),
                    ("What should I call you?", "You can call me Casa.", true),
                    ("Are you made by a big company?", "I think so, yes.", false),
                    ("Do you have a name?", "Yes, I am Casa.", true),
                ]),
            },
            Exam {
                name: "Ordinary questions".into(),
                rule: "Right when the answer is not the identity.".into(),
                answers: answers(&[
                    ("What is a cell?", "A cell is the smallest unit of life.", true),
                    ("Do you like pizza?", "", true),
                ]),
            },
        ],
        sources: vec![
            SourceSummary { name: "openstax".into(), stage: "pre-training".into(), documents: 2351, bytes: 29_257_068, tokens: 7_950_000, validation_tokens: 119_800 },
            SourceSummary { name: "chat".into(), stage: "fine-tuning".into(), documents: 9525, bytes: 11_130_637, tokens: 2_480_000, validation_tokens: 37_000 },
        ],
        cleaning: vec![CleaningSummary {
            source: "chat".into(),
            rows: 9525,
            dropped: 3,
            rewritten: 11,
            reasons: vec![("claims to be another model".into(), 9), ("claims to be made by a company".into(), 5)],
        }],
        model: vec![Fact::new("Layers", "6"), Fact::new("Width", "384"), Fact::new("Heads", "6"), Fact::new("Context", "256 tokens"), Fact::new("Vocabulary", "6,144")],
        hardware: vec![Fact::new("Processor", "Intel Xeon Platinum 8488C"), Fact::new("Instruction set", "AMX-bf16"), Fact::new("Threads", "2"), Fact::new("Memory", "24 GB")],
        recipe: "[model]\nn_layer = 6\nn_embd = 384 # a comment that is <long> enough to run over the edge of a telephone's screen\n".into(),
        evaluations: Vec::new(),
        events: Vec::new(),
        recipe_hash: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
    }
}

#[test]
fn a_model_card_says_the_same_and_lets_no_text_be_markup() {
    let card = card::render(&full("Casa"));
    assert!(card.starts_with("---\nlibrary_name: casallm\n"), "{card}");
    for shown in ["# Casa", "1.447", "0.432 ± 0.010", "12,345", "1 of 2 right", "2 dropped"] {
        assert!(card.contains(shown), "{shown}: {card}");
    }
    let hostile = format!("{HOSTILE}\n# heading\n```\n| cell | ![image](x) --- ````");
    let card = card::render(&full(&hostile));
    // Outside of fences nothing is markup; inside everything is text.
    let (mut fence, mut outside): (Option<&str>, Vec<&str>) = (None, Vec::new());
    for line in card.lines() {
        match fence {
            Some(open) if line == open => fence = None,
            Some(_) => {}
            None if line.starts_with("```") => fence = Some(line),
            None => outside.push(line),
        }
    }
    assert_eq!(fence, None, "a fence is left open");
    let outside = outside.join("\n");
    for forbidden in ["<script", "<img", " | cell", "![image]", "\n# heading", "```"] {
        assert!(!outside.replace("\\<", "").replace("\\|", "").replace("\\[", "").contains(forbidden), "{forbidden}");
    }
    assert_eq!(card.matches("\n# ").count() - card.matches("\n# heading").count(), 1);
}
