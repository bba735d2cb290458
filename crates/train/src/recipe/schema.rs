//! The names of all sections and keys, and the answer to a key that is none of them.

/// Sections and their keys, in groups of which stages share some. The empty name is the file itself.
const SECTIONS: &[(&str, &[&[&str]])] = &[
    ("", &[&["identity", "tokenizer", "data", "model", "run", "pretrain", "sft", "dpo"]]),
    ("identity", &[&["name", "maker", "description"]]),
    ("tokenizer", &[&["vocab_size", "sample_bytes", "digits"]]),
    ("data", &[DATA, &["pretrain", "sft", "dpo"]]),
    ("data.pretrain", &[&["name", "path", "text_field", "weight"], KEEPING]),
    ("data.sft", &[&["name", "path", "max_rows"]]),
    ("data.dpo", &[&["name", "path", "held_out", "max_rows"]]),
    ("model", &[MODEL]),
    ("run", &[&["dir", "seed", "device", "precision", "threads", "offload", "checkpoint", "guard"]]),
    ("run.guard", &[&["window", "z", "spike", "non_finite", "before"]]),
    ("pretrain", &[&["tokens", "steps"], BATCH, OPTIMIZATION, EVALUATION, CHECKPOINTS]),
    ("sft", &[&["from", "epochs"], BATCH, &["identity_rate", "system_rate"], OPTIMIZATION, EVALUATION, CHECKPOINTS]),
    ("dpo", &[&["epochs"], BATCH, PREFERENCE, OPTIMIZATION, EVALUATION, &["eval_pairs"], CHECKPOINTS]),
];

const DATA: &[&str] =
    &["validation_fraction", "seed", "decontaminate", "duplicates_across_sources", "duplicates_memory"];
const KEEPING: &[&str] = &[
    "language",
    "language_field",
    "min_score",
    "score_field",
    "min_chars",
    "max_chars",
    "drop_duplicates",
    "similarity",
];
const MODEL: &[&str] = &[
    "preset",
    "block",
    "n_layer",
    "n_embd",
    "n_head",
    "n_kv_head",
    "head_dim",
    "n_ff",
    "context",
    "norm",
    "norm_eps",
    "qk_norm",
    "activation",
    "bias",
    "tie_embeddings",
    "rope_theta",
    "dropout",
];
const BATCH: &[&str] = &["batch_tokens", "micro_batch", "recompute", "context"];
const PREFERENCE: &[&str] = &["beta", "label_smoothing", "length_normalised", "validation_fraction"];
const OPTIMIZATION: &[&str] = &[
    "lr",
    "min_lr",
    "warmup",
    "schedule",
    "cooldown",
    "optimizer",
    "muon_lr",
    "moments",
    "weight_rounding",
    "weight_decay",
    "beta1",
    "beta2",
    "eps",
    "clip",
];
const EVALUATION: &[&str] = &["eval_every", "eval_tokens", "samples"];
const CHECKPOINTS: &[&str] = &["checkpoint_every", "keep_last", "keep_every"];

/// The keys of a section given by the path of a key in it: `data.pretrain[2]` has those of `data.pretrain`.
pub(super) fn keys_of(path: &str) -> Vec<&'static str> {
    let name = path.split('[').next().unwrap_or_default();
    SECTIONS.iter().find(|(section, _)| *section == name).map_or_else(Vec::new, |(_, groups)| groups.concat())
}

/// What to write instead of `key`, which the section at `path` does not have.
pub(super) fn remedy_for_unknown(path: &str, key: &str) -> String {
    let known = keys_of(path);
    let lower = key.to_lowercase();
    let nearest = known
        .iter()
        .map(|candidate| (edit_distance(&lower, candidate), *candidate))
        .min_by_key(|(distance, _)| *distance);
    if let Some((distance, candidate)) = nearest
        && distance <= (key.chars().count() / 3).max(1)
    {
        return format!("did you mean `{candidate}`?");
    }
    let has_it = |groups: &[&[&str]]| groups.iter().any(|keys| keys.contains(&lower.as_str()));
    if let Some((section, _)) = SECTIONS.iter().find(|(_, groups)| has_it(groups)) {
        return match *section {
            "" => format!("`{lower}` is a section of its own: write [{lower}]"),
            "data.pretrain" | "data.sft" | "data.dpo" => format!("`{lower}` belongs to [[{section}]]"),
            _ => format!("`{lower}` belongs to [{section}]"),
        };
    }
    format!("known keys here are {}", known.join(", "))
}

/// Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("lr", "rl", 1),
            ("warm_up", "warmup", 1),
            ("tokesn", "tokens", 1),
            ("größe", "grösse", 2),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn the_remedy_is_the_nearest_key_then_the_right_section_then_the_list() {
        assert!(remedy_for_unknown("pretrain", "warm_up").contains("`warmup`"));
        assert!(remedy_for_unknown("pretrain", "LR").contains("`lr`"));
        assert!(remedy_for_unknown("data.pretrain[0]", "weigth").contains("`weight`"));
        assert!(remedy_for_unknown("pretrain", "vocab_size").contains("[tokenizer]"));
        assert!(remedy_for_unknown("sft", "text_field").contains("[[data.pretrain]]"));
        assert!(remedy_for_unknown("run", "model").contains("[model]"));
        assert!(remedy_for_unknown("identity", "favourite_colour").contains("name, maker, description"));
    }
}
