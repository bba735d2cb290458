//! A run so small that both of its stages are trained in about a second: two layers of width 32, and text from a seeded
//! generator.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::json;
use tempfile::TempDir;

use super::{Seeded, Tree, run};

/// The recipe, in its file `tiny.toml`. Checkpoints and validations do not fall on the same steps.
pub const RECIPE: &str = r#"
[identity]
name = "Tiny"
maker = "a test"
description = "a very small language model"

[tokenizer]
vocab_size = 320

[data]
validation_fraction = 0.1

[[data.pretrain]]
name = "stories"
path = "text.jsonl"

[[data.sft]]
name = "talk"
path = "chat.jsonl"

[model]
n_layer = 2
n_embd = 32
n_head = 2
context = 64
dropout = 0.1

[run]
dir = "run"

[pretrain]
steps = 40
batch_tokens = 256
micro_batch = 2
lr = 3e-3
eval_every = 4
eval_tokens = 256
checkpoint_every = 3

[sft]
epochs = 2
batch_tokens = 256
micro_batch = 2
identity_rate = 0.2
lr = 1e-3
eval_every = 4
eval_tokens = 256
checkpoint_every = 3
"#;

const WORDS: &[&str] = &[
    "the", "a", "small", "house", "garden", "cat", "dog", "river", "walks", "sings", "sleeps", "near", "under", "old",
    "red", "blue", "happy", "child", "book", "reads", "stone", "tree", "green", "wind", "rain", "light", "door",
    "opens",
];

/// `count` documents of a few sentences each.
pub fn documents(count: usize, seed: u64) -> Vec<String> {
    let mut seeded = Seeded(seed);
    let mut document = || {
        let mut text = String::new();
        for _ in 0..3 + seeded.below(5) {
            for _ in 0..4 + seeded.below(5) {
                text += seeded.pick(WORDS);
                text.push(' ');
            }
            text.pop();
            text += ". ";
        }
        text.trim_end().to_owned()
    };
    (0..count).map(|_| document()).collect()
}

/// `count` conversations of one exchange each, as lines of JSON.
pub fn conversations(count: usize, seed: u64) -> String {
    let mut seeded = Seeded(seed);
    let mut line = || {
        let question = format!("Where is the {}?", seeded.pick(WORDS));
        let answer = format!("It is near the {} {}.", seeded.pick(WORDS), seeded.pick(WORDS));
        json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    };
    (0..count).map(|_| format!("{}\n", line())).collect()
}

/// Writes the recipe and its data.
pub fn write_inputs(folder: &Path) {
    let lines: String = documents(240, 1).iter().map(|text| format!("{}\n", json!({ "text": text }))).collect();
    fs::write(folder.join("text.jsonl"), lines).unwrap();
    fs::write(folder.join("chat.jsonl"), conversations(60, 2)).unwrap();
    fs::write(folder.join("tiny.toml"), RECIPE).unwrap();
}

/// The recipe, its data, and the run after both stages, never interrupted; trained once in each test binary.
pub fn trained() -> &'static Tree {
    static TRAINED: OnceLock<Tree> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        write_inputs(folder.path());
        run(folder.path(), &["pretrain", "tiny.toml"]).succeeded();
        run(folder.path(), &["sft", "tiny.toml"]).succeeded();
        Tree::of(folder.path())
    })
}

/// A folder with all of [`trained`] in it.
pub fn trained_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    trained().write_to(folder.path());
    folder
}
