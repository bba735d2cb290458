use proptest::prelude::*;

use super::*;
use crate::seeded::SplitMix64;

fn document(text: impl Into<String>) -> Document {
    Document::from(text.into())
}

fn near() -> Curation {
    Curation { duplicates: Duplicates::Near(0.8), ..Curation::default() }
}

/// A text of invented words.
fn text(words: usize, seed: u64) -> String {
    let mut random = SplitMix64::new(seed, 5);
    (0..words).map(|_| format!("w{:x} ", random.below(1 << 20))).collect()
}

fn judged(curation: &Curation, documents: &[Document], batch: usize) -> (Vec<bool>, Report) {
    let mut seen = Seen::new(curation.duplicates).unwrap();
    let mut curator = Curator::new(curation, &mut seen).unwrap();
    let kept = documents.chunks(batch.max(1)).flat_map(|batch| curator.judge(batch).unwrap()).collect();
    (kept, curator.report().clone())
}

#[test]
fn every_reason_is_counted_once_in_the_order_of_the_stages() {
    let question = "which of these animals sleeps through the whole of a long and cold winter without any food";
    let english = |text: &str, score| Document { text: text.to_owned(), language: Some("en".into()), score };
    let long = text(100, 1);
    let like = format!("{long} and one more");
    let documents = [
        english(&long, Some(3.0)),
        Document { language: Some("fr".into()), ..english(&long, Some(3.0)) },
        english(&long, Some(1.0)),
        english("short", Some(3.0)),
        english(&text(400, 2), Some(3.0)),
        english(&format!("  {}", long.replace(' ', "\n ")), Some(3.0)),
        english(&like, Some(3.0)),
        english(&format!("{} {question}", text(30, 3)), Some(3.0)),
        // The same as one that went is no repetition.
        english(&format!("{}\n{question}", text(30, 3)), Some(3.0)),
        english(&text(30, 4), Some(3.0)),
    ];
    let curation = Curation {
        filter: Filter {
            languages: vec!["en".into()],
            min_score: Some(2.0),
            min_chars: Some(10),
            max_chars: Some(2000),
        },
        eval_sets: Some(Arc::new(EvalSets::of_texts([
            ("animals", question),
            ("other", question),
            ("unmet", &text(20, 9)),
        ]))),
        ..near()
    };
    let (kept, report) = judged(&curation, &documents, 3);
    assert_eq!(kept, [true, false, false, false, false, false, false, false, false, true]);
    use Reason::*;
    let dropped: Vec<(Reason, u64)> = report.dropped.iter().map(|(reason, count)| (*reason, count.documents)).collect();
    let expected = [
        (Language, 1),
        (Score, 1),
        (TooShort, 1),
        (TooLong, 1),
        (ExactDuplicate, 1),
        (NearDuplicate, 1),
        (Contaminated, 2),
    ];
    assert_eq!(dropped, expected);
    assert_eq!(report.dropped[&NearDuplicate].bytes, like.len() as u64);
    let met: Vec<u64> = report.eval_sets.values().map(|set| set.documents).collect();
    assert_eq!(met, [2, 2, 0]);
    let bytes: u64 = documents.iter().map(|document| document.text.len() as u64).sum();
    assert_eq!(report.read, Count { documents: 10, bytes });
    let went: u64 = report.dropped.values().map(|count| count.bytes).sum();
    assert_eq!(report.kept, Count { documents: 2, bytes: bytes - went });
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["dropped"]["contaminated"]["documents"], 2);
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}

#[test]
fn what_resembles_a_contaminated_document_stays() {
    let question = "which of these animals sleeps through the whole of a long and cold winter without any food";
    let page = text(300, 7);
    let documents = [document(format!("{page} {question}")), document(page.clone()), document(format!("{page} again"))];
    let eval_sets = Some(Arc::new(EvalSets::of_texts([("animals", question)])));
    let (kept, report) = judged(&Curation { eval_sets, ..near() }, &documents, 2);
    assert_eq!(kept, [false, true, false]);
    assert_eq!(
        (report.dropped[&Reason::Contaminated].documents, report.dropped[&Reason::NearDuplicate].documents),
        (1, 1)
    );
}

#[test]
fn memory_past_the_limit_is_refused_with_what_to_do() {
    let documents: Vec<Document> = (0..40_000).map(|i| document(format!("document {i} of many"))).collect();
    for (duplicates, memory) in [(Duplicates::Exact, 1 << 20), (Duplicates::Near(0.8), 10 << 20)] {
        let mut seen = Seen::new(duplicates).unwrap();
        let mut curator = Curator::new(&Curation { duplicates, memory, ..Curation::default() }, &mut seen).unwrap();
        let refused = documents.chunks(500).find_map(|batch| curator.judge(batch).err()).unwrap();
        let Error::DuplicateMemory { documents, limit, bytes_each } = &refused else { panic!("{refused}") };
        assert!(*limit == memory && *documents > 1000 && documents * bytes_each < 3 * memory, "{refused}");
        for said in ["--duplicates-memory", "duplicates_memory", "exact"] {
            assert!(refused.to_string().contains(said), "{refused}");
        }
    }
    let enough = Curation { duplicates: Duplicates::Exact, memory: 64 * 40_000 * 2, ..Curation::default() };
    assert_eq!(judged(&enough, &documents, 500).1.kept.documents, 40_000);
}

#[test]
fn similarity_out_of_range_is_an_error() {
    for similarity in [0.69, 1.01, f64::NAN] {
        let refused = Seen::new(Duplicates::Near(similarity));
        assert!(matches!(refused, Err(Error::LoaderSetting { expected: "from 0.7 to 1", .. })));
    }
}

#[test]
fn documents_without_words_are_only_ever_the_same() {
    let documents = ["--- ***", "...", "--- ***", "= ="].map(document);
    let (kept, report) = judged(&near(), &documents, 9);
    assert_eq!(kept, [true, true, false, true]);
    assert_eq!(report.dropped[&Reason::ExactDuplicate].documents, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Copies of some documents, a few of their words changed, are strewn among others.
    #[test]
    fn decisions_do_not_depend_on_threads_or_batches(seed: u64, batches in prop::collection::vec(1usize..40, 3)) {
        let mut random = SplitMix64::new(seed, 0);
        // Of shorter ones a copy with three words changed is no longer alike, and by chance too many stay.
        let originals: Vec<String> = (0..30).map(|i| text(150 + random.below(150), seed ^ i)).collect();
        let mut documents: Vec<Document> = Vec::new();
        for _ in 0..120 {
            let mut words: Vec<String> = random.pick(&originals).split(' ').map(str::to_owned).collect();
            for _ in 0..random.below(4) {
                let at = random.below(words.len());
                words[at] = "changed".to_owned();
            }
            documents.push(document(words.join(" ")));
        }
        let mut found = Vec::new();
        for (threads, batch) in [1, 2, 5].into_iter().zip(batches) {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            found.push(pool.install(|| judged(&near(), &documents, batch)));
        }
        prop_assert!(found[0] == found[1] && found[1] == found[2]);
        // The first of each stays; of long ones no copy does.
        prop_assert!(found[0].0[0]);
        prop_assert!(found[0].1.kept.documents < 90, "{:?}", found[0].1);
    }

    #[test]
    fn unrelated_documents_stay(seed: u64) {
        let documents: Vec<Document> = (0..60).map(|i| document(text(5 + i as usize, seed ^ (i << 32)))).collect();
        prop_assert!(judged(&near(), &documents, 20).0.iter().all(|kept| *kept));
    }
}
