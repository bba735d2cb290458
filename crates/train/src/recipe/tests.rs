use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::schedule::Shape;
use casallm_model::config::ModelConfig;
use casallm_model::directory::{StoredDtype, save_model};
use casallm_model::specification::ParameterSpec;
use casallm_model::workspace::Recompute;

const SMALLEST: &str = r#"
[[data.pretrain]]
name = "books"
path = "books"

[model]
n_layer = 2
n_embd = 64
n_head = 4
context = 128

[run]
dir = "run"

[pretrain]
steps = 100
batch_tokens = 1024
"#;

const WITH_SFT: &str = r#"
[identity]
name = "Casa"
maker = "Ada"
description = "a small model"

[[data.sft]]
name = "chat"
path = "chat.jsonl"

[model]
preset = "gpt3-nano"

[run]
dir = "run"

[sft]
"#;

fn parse_with(text: &str, overrides: &[&str]) -> Result<Recipe, TrainError> {
    let mut raw = RawRecipe::parse(text, "my.toml", Path::new("somewhere"))?;
    for text in overrides {
        raw.apply_override(text)?;
    }
    raw.validate()
}

fn parse(text: &str) -> Result<Recipe, TrainError> {
    parse_with(text, &[])
}

/// The recipe in the repository's `recipes/`.
fn shipped(name: &str) -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name);
    Recipe::load::<&str>(&path, &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// FLOPs a token by the formula of the headers, from the recipe alone (classic block, tied embeddings).
fn flops_per_token(recipe: &Recipe) -> f64 {
    let m = &recipe.model;
    assert!(m.block == Block::Classic && m.tie_embeddings);
    let (l, d, t, v) = (m.n_layer as f64, m.n_embd as f64, m.context as f64, recipe.tokenizer.vocab_size as f64);
    let n = l * (12.0 * d * d + 10.0 * d) + v * d + 2.0 * d;
    6.0 * n + 6.0 * l * d * t
}

#[test]
fn the_350m_recipe_is_the_original_run() {
    let recipe = shipped("casallm-350m.toml");
    assert_eq!(
        (recipe.model.n_layer, recipe.model.n_embd, recipe.model.n_head, recipe.model.context),
        (24, 1024, 16, 2048)
    );
    assert_eq!(recipe.tokenizer.vocab_size, 40_960);
    assert_eq!(recipe.data.validation_fraction, 0.015);
    let pretrain = recipe.pretrain().unwrap();
    assert_eq!((pretrain.steps, pretrain.batch_tokens, pretrain.accumulation()), (19_074, 1 << 19, 64));
    let o = &pretrain.optimization;
    assert_eq!(
        (o.lr, o.min_lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.clip),
        (3e-4, 3e-5, 0.9, 0.95, 1e-8, 0.1, 1.0)
    );
    assert_eq!(pretrain.schedule().warmup, 572);
    assert_eq!(pretrain.schedule().lr(19_073), 3e-5);
    let sft = recipe.sft().unwrap();
    assert_eq!((sft.epochs, sft.optimization.lr, sft.optimization.min_lr), (3, 5e-5, 1e-5));
    assert!((flops_per_token(&recipe) / 1e9 - 2.37).abs() < 0.01, "the header says 2.37");
}

#[test]
fn the_350m_recipe_spells_out_defaults_only() {
    let text = include_str!("../../../../recipes/casallm-350m.toml");
    let mut raw = RawRecipe::parse(text, "my.toml", Path::new("")).unwrap();
    let written = raw.validate().unwrap();
    let mut table = text.parse::<toml::Table>().unwrap();
    let pretrain = table["pretrain"].as_table_mut().unwrap();
    pretrain.retain(|key, _| ["tokens", "micro_batch", "eval_tokens", "samples"].contains(&key));
    raw = RawRecipe::parse(&table.to_string(), "my.toml", Path::new("")).unwrap();
    assert_eq!(raw.validate().unwrap().pretrain, written.pretrain);
}

#[test]
fn the_small_recipe_runs_on_the_corpus_of_this_repository() {
    let recipe = shipped("small-cpu.toml");
    let pretrain = recipe.pretrain().unwrap();
    assert_eq!((pretrain.steps, pretrain.accumulation()), (2442, 1));
    assert_eq!(pretrain.optimization.schedule, Shape::Linear);
    assert_eq!((pretrain.schedule().warmup, pretrain.schedule().cooldown), (100, 1221));
    assert!((flops_per_token(&recipe) / 1e6 - 81.5).abs() < 0.1, "the header says 81.5");
    for source in &recipe.data.pretrain {
        recipe.pretrain_files(source).unwrap();
    }
    for source in &recipe.data.sft {
        recipe.sft_files(source).unwrap();
    }
}

#[test]
fn defaults_follow_the_block_and_the_preset() {
    let recipe = parse_with(WITH_SFT, &["model.block=modern", "model.n_kv_head=2", "model.n_layer=3"]).unwrap();
    let m = &recipe.model;
    assert_eq!((m.n_layer, m.n_embd, m.n_head, m.n_kv_head, m.head_dim, m.n_ff), (3, 256, 4, 2, 64, 704));
    assert_eq!((m.norm, m.qk_norm, m.activation, m.bias), (Norm::RmsNorm, true, Activation::SwiGlu, false));
    let recipe = parse(WITH_SFT).unwrap();
    let m = &recipe.model;
    assert_eq!(
        (m.n_ff, m.norm, m.activation, m.bias, m.context),
        (1024, Norm::LayerNorm, Activation::Gelu, true, 2048)
    );
    let sft = recipe.sft().unwrap();
    assert_eq!((sft.context, sft.batch_tokens, sft.micro_batch), (2048, 65_536, Choice::Given(4)));
    assert!(matches!(recipe.pretrain(), Err(TrainError::RecipeMissingKey { key, .. }) if key == "pretrain"));
    assert!(matches!(parse(SMALLEST).unwrap().sft(), Err(TrainError::RecipeMissingKey { key, .. }) if key == "sft"));
}

#[test]
fn tokens_become_whole_steps() {
    let steps = |tokens: &str| parse_with(SMALLEST, &[tokens]).unwrap().pretrain.unwrap().steps;
    assert_eq!(steps("pretrain.tokens=1"), 1);
    assert_eq!(steps("pretrain.tokens=1024"), 1);
    assert_eq!(steps("pretrain.tokens=1025"), 2);
}

#[test]
fn the_canonical_form_reads_back_as_itself() {
    for recipe in [
        shipped("casallm-350m.toml"),
        shipped("small-cpu.toml"),
        parse(SMALLEST).unwrap(),
        parse(WITH_SFT).unwrap(),
        parse_with(SMALLEST, &["pretrain.optimizer=muon", "pretrain.schedule=linear", "pretrain.warmup=7"]).unwrap(),
        parse_with(SMALLEST, KEEPING).unwrap(),
        parse_with(SMALLEST, &["tokenizer.digits=1"]).unwrap(),
        parse_with(SMALLEST, &["tokenizer.digits=2"]).unwrap(),
    ] {
        let text = recipe.to_toml().unwrap();
        let mut again = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        again.base_dir.clone_from(&recipe.base_dir);
        again.file.clone_from(&recipe.file);
        assert_eq!(again, recipe);
        assert_eq!(again.to_toml().unwrap(), text);
        assert_eq!(again.hash().unwrap(), recipe.hash().unwrap());
    }
}

const KEEPING: &[&str] = &[
    "data.decontaminate=evals",
    "data.duplicates_memory=8000000000",
    "data.duplicates_across_sources=true",
    "data.pretrain.0.language=[\"en\", \"de\"]",
    "data.pretrain.0.language_field=lang",
    "data.pretrain.0.min_score=-2.5",
    "data.pretrain.0.score_field=quality",
    "data.pretrain.0.min_chars=100",
    "data.pretrain.0.max_chars=100000",
    "data.pretrain.0.drop_duplicates=near",
    "data.pretrain.0.similarity=0.85",
];

#[test]
fn what_is_kept_is_read_and_its_memory_decides_nothing() {
    let recipe = parse_with(SMALLEST, KEEPING).unwrap();
    let keeping = &recipe.data.pretrain[0].keeping;
    let filter = keeping.filter();
    assert_eq!((&filter.languages[..], filter.min_score), (&["en".to_owned(), "de".to_owned()][..], Some(-2.5)));
    assert_eq!((filter.min_chars, filter.max_chars), (Some(100), Some(100_000)));
    assert_eq!(keeping.duplicates(), casallm_data::curation::Duplicates::Near(0.85));
    let reading = keeping.reading("text");
    assert_eq!((reading.language_field.as_deref(), reading.score_field.as_deref()), (Some("lang"), Some("quality")));
    assert_eq!(recipe.data.decontaminate, ["evals"]);
    let hash = |recipe: &Recipe| recipe.stage_hash(Stage::Pretrain).unwrap();
    let with = |flag: &str| hash(&parse_with(SMALLEST, &[KEEPING, &[flag]].concat()).unwrap());
    assert_eq!(hash(&recipe), with("data.duplicates_memory=9000000000"));
    assert_ne!(hash(&recipe), with("data.pretrain.0.min_chars=101"));
    assert_ne!(hash(&recipe), with("data.duplicates_across_sources=false"));
    // Without these keys a recipe means what it meant before there were any.
    let plain = parse(SMALLEST).unwrap();
    assert_eq!(plain.data.pretrain[0].keeping, Keeping::default());
    let text = plain.to_toml().unwrap();
    assert!(!text.contains("duplicates") && !text.contains("score") && !text.contains("language"), "{text}");
    let error = parse_with(SMALLEST, &["data.pretrain.0.min_chars=9", "data.pretrain.0.max_chars=8"]).unwrap_err();
    assert!(error.to_string().contains("at least min_chars = 9"), "{error}");
}

#[test]
fn the_hash_sees_meaning_not_spelling() {
    let hash = |text: &str, overrides: &[&str]| parse_with(text, overrides).unwrap().hash().unwrap();
    let plain = hash(SMALLEST, &[]);
    assert_eq!(plain.len(), 64);
    assert_eq!(hash(&format!("# a comment\n{SMALLEST}clip = 1\n"), &[]), plain);
    assert_eq!(hash(SMALLEST, &["pretrain.lr=0.0003"]), plain);
    assert_ne!(hash(SMALLEST, &["pretrain.lr=0.0004"]), plain);
    assert_ne!(hash(SMALLEST, &["run.seed=2"]), plain);
}

#[test]
fn a_stage_may_be_resumed_from_another_place_but_not_with_another_rate() {
    let both = format!("{WITH_SFT}\n[pretrain]\nsteps = 10\n[[data.pretrain]]\nname = \"b\"\npath = \"b\"\n");
    let saved = parse(&both).unwrap();
    let moved = parse_with(
        &both,
        &[
            "run.dir=elsewhere",
            "run.threads=1",
            "pretrain.keep_last=9",
            "sft.lr=2e-4",
            "identity.name=Bo",
            "data.sft.0.path=c",
        ],
    )
    .unwrap();
    assert_eq!(moved.stage_hash(Stage::Pretrain).unwrap(), saved.stage_hash(Stage::Pretrain).unwrap());
    let kept = saved.stage_toml(Stage::Pretrain).unwrap();
    assert_eq!(moved.differences(Stage::Pretrain, &kept).unwrap(), []);

    let kept = saved.stage_toml(Stage::Sft).unwrap();
    let keys = |recipe: &Recipe| -> Vec<String> {
        recipe.differences(Stage::Sft, &kept).unwrap().into_iter().map(|d| d.key).collect()
    };
    assert_eq!(keys(&moved), ["data.sft[0].path", "identity.name", "sft.lr", "sft.min_lr"]);

    let changed = parse_with(&both, &["sft.epochs=4"]).unwrap();
    assert_ne!(changed.stage_hash(Stage::Sft).unwrap(), saved.stage_hash(Stage::Sft).unwrap());
    assert_eq!(
        changed.differences(Stage::Sft, &kept).unwrap(),
        [Difference { key: "sft.epochs".into(), saved: Some("3".into()), now: Some("4".into()) }]
    );
    assert!(saved.differences(Stage::Sft, "not toml").is_err());
}

/// File, key, found and the whole message of an error about a key.
fn named(error: &TrainError) -> (String, String, String, String) {
    let message = error.to_string();
    match error {
        TrainError::RecipeUnknownKey { file, key, found, .. }
        | TrainError::RecipeWrongType { file, key, found, .. }
        | TrainError::RecipeValue { file, key, found, .. } => (file.clone(), key.clone(), found.clone(), message),
        TrainError::RecipeMissingKey { file, key, .. } => (file.clone(), key.clone(), String::new(), message),
        other => panic!("not about a key: {other:?}"),
    }
}

#[test]
fn every_wrong_value_is_named_with_its_key_its_flag_and_a_remedy() {
    for (text, flag, key, found, remedy) in [
        (SMALLEST, "pretrain.learning_rate=1e-3", "pretrain.learning_rate", "0.001", "known keys here are"),
        (SMALLEST, "pretrain.warm_up=1", "pretrain.warm_up", "1", "did you mean `warmup`?"),
        (SMALLEST, "model.vocab_size=1000", "model.vocab_size", "1000", "[tokenizer]"),
        (SMALLEST, "pretrian.lr=1", "pretrian", "a table", "did you mean `pretrain`?"),
        (SMALLEST, "pretrain.steps=many", "pretrain.steps", "\"many\" (string)", "a whole number"),
        (SMALLEST, "pretrain.steps=1e3", "pretrain.steps", "1000.0 (float)", "a whole number"),
        (SMALLEST, "pretrain.steps=0", "pretrain.steps", "0", "from 1 to"),
        (SMALLEST, "pretrain.steps=-5", "pretrain.steps", "-5", "from 1 to"),
        (SMALLEST, "pretrain.lr=fast", "pretrain.lr", "\"fast\" (string)", "a number"),
        (SMALLEST, "pretrain.lr=nan", "pretrain.lr", "NaN", "finite number above 0"),
        (SMALLEST, "pretrain.lr=inf", "pretrain.lr", "inf", "finite number above 0"),
        (SMALLEST, "pretrain.lr=-1e-3", "pretrain.lr", "-0.001", "finite number above 0"),
        (SMALLEST, "pretrain.lr=0", "pretrain.lr", "0", "finite number above 0"),
        (SMALLEST, "pretrain.min_lr=1", "pretrain.min_lr", "1", "at most lr = 0.0003"),
        (SMALLEST, "pretrain.beta2=1", "pretrain.beta2", "1", "to 0.9999999"),
        (SMALLEST, "pretrain.beta2=0.99999999", "pretrain.beta2", "0.99999999", "to 0.9999999"),
        (SMALLEST, "pretrain.beta1=-0.1", "pretrain.beta1", "-0.1", "from 0"),
        (SMALLEST, "pretrain.eps=0", "pretrain.eps", "0", "above 0"),
        (SMALLEST, "pretrain.clip=-1", "pretrain.clip", "-1", "from 0 up"),
        (SMALLEST, "pretrain.weight_decay=nan", "pretrain.weight_decay", "NaN", "from 0"),
        (SMALLEST, "pretrain.context=256", "pretrain.context", "256", "model.context = 128"),
        (SMALLEST, "pretrain.batch_tokens=1000", "pretrain.batch_tokens", "1000", "896 or 1024"),
        (SMALLEST, "pretrain.batch_tokens=100", "pretrain.batch_tokens", "100", "like 128"),
        (SMALLEST, "pretrain.micro_batch=3", "pretrain.micro_batch", "3", "divisor of 8, like 2"),
        (SMALLEST, "pretrain.micro_batch=0", "pretrain.micro_batch", "0", "from 1"),
        (SMALLEST, "pretrain.micro_batch=Auto", "pretrain.micro_batch", "\"Auto\" (string)", "or \"auto\""),
        (SMALLEST, "pretrain.warmup=101", "pretrain.warmup", "101", "the run has 100 steps"),
        (SMALLEST, "pretrain.warmup=1.5", "pretrain.warmup", "1.5", "below 1"),
        (SMALLEST, "pretrain.warmup=long", "pretrain.warmup", "\"long\" (string)", "a share of the run"),
        (SMALLEST, "pretrain.cooldown=10", "pretrain.cooldown", "10", "schedule = \"linear\""),
        (SMALLEST, "pretrain.schedule=square", "pretrain.schedule", "\"square\"", "\"cosine\" or \"linear\""),
        (SMALLEST, "pretrain.optimizer=sgd", "pretrain.optimizer", "\"sgd\"", "\"adamw\" or \"muon\""),
        (SMALLEST, "pretrain.moments=16", "pretrain.moments", "16 (integer)", "text"),
        (SMALLEST, "pretrain.moments=4bit", "pretrain.moments", "\"4bit\"", "\"f32\", \"bf16\" or \"8bit\""),
        (
            SMALLEST,
            "pretrain.weight_rounding=up",
            "pretrain.weight_rounding",
            "\"up\"",
            "\"nearest\" or \"stochastic\"",
        ),
        (SMALLEST, "run.offload=all", "run.offload", "\"all\"", "\"none\" or \"optimizer\""),
        (SMALLEST, "pretrain.muon_lr=0.02", "pretrain.muon_lr", "0.02", "optimizer = \"muon\""),
        (SMALLEST, "pretrain.eval_every=0", "pretrain.eval_every", "0", "from 1"),
        (SMALLEST, "pretrain.keep_last=0", "pretrain.keep_last", "0", "from 1"),
        (SMALLEST, "pretrain.keep_every=7", "pretrain.keep_every", "7", "checkpoint_every = 5, like 10"),
        (SMALLEST, "run.checkpoint=later", "run.checkpoint", "\"later\"", "\"background\" or \"between_steps\""),
        (SMALLEST, "run.guard=5", "run.guard", "5 (integer)", "[run.guard]"),
        (SMALLEST, "run.guard.zscore=5", "run.guard.zscore", "5", "known keys here are window, z"),
        (SMALLEST, "run.guard.z=0", "run.guard.z", "0", "above 0"),
        (SMALLEST, "run.guard.window=1", "run.guard.window", "1", "from 2"),
        (SMALLEST, "run.guard.spike=stop", "run.guard.spike", "\"stop\"", "\"warn\", \"skip\" or \"rollback\""),
        (SMALLEST, "run.guard.non_finite=warn", "run.guard.non_finite", "\"warn\"", "\"stop\", \"skip\" or"),
        (SMALLEST, "run.guard.before=-1", "run.guard.before", "-1", "from 0"),
        (WITH_SFT, "identity.name=\"A\\nB\"", "identity.name", "\"A\\nB\"", "without line breaks, braces"),
        (WITH_SFT, "identity.maker=\"{them}\"", "identity.maker", "\"{them}\"", "1 to 200 characters of plain text"),
        (SMALLEST, "pretrain=5", "pretrain", "5 (integer)", "[pretrain]"),
        (SMALLEST, "data.pretrain=books", "data.pretrain", "\"books\" (string)", "[[data.pretrain]]"),
        (SMALLEST, "data.pretrain=[1]", "data.pretrain", "1 (integer)", "[[data.pretrain]]"),
        (SMALLEST, "data.pretrain=[]", "data.pretrain", "", "[[data.pretrain]]"),
        (SMALLEST, "data.pretrain.0.weight=0", "data.pretrain[0].weight", "0", "above 0"),
        (SMALLEST, "data.pretrain.0.path=", "data.pretrain[0].path", "\"\"", "write some text"),
        (SMALLEST, "data.pretrain.0.name=../up", "data.pretrain[0].name", "\"../up\"", "it becomes a file name"),
        (SMALLEST, "data.pretrain.0.min_chars=0", "data.pretrain[0].min_chars", "0", "from 1"),
        (SMALLEST, "data.pretrain.0.min_score=high", "data.pretrain[0].min_score", "\"high\" (string)", "number"),
        (SMALLEST, "data.pretrain.0.language=5", "data.pretrain[0].language", "5 (integer)", "list of texts"),
        (SMALLEST, "data.pretrain.0.similarity=0.5", "data.pretrain[0].similarity", "0.5", "from 0.7 to 1"),
        (
            SMALLEST,
            "data.pretrain.0.drop_duplicates=all",
            "data.pretrain[0].drop_duplicates",
            "\"all\"",
            "\"exact\" or \"near\"",
        ),
        (
            SMALLEST,
            "data.duplicates_across_sources=true",
            "data.duplicates_across_sources",
            "true",
            "the same drop_duplicates",
        ),
        (SMALLEST, "data.duplicates_memory=5", "data.duplicates_memory", "5", "from 1048576"),
        (SMALLEST, "data.decontaminate=true", "data.decontaminate", "true (boolean)", "list of texts"),
        (SMALLEST, "data.validation_fraction=1", "data.validation_fraction", "1", "below 1"),
        (SMALLEST, "data.validation_fraction=0", "data.validation_fraction", "0", "above 0"),
        (SMALLEST, "data.seed=-1", "data.seed", "-1", "from 0"),
        (SMALLEST, "tokenizer.vocab_size=256", "tokenizer.vocab_size", "256", "from 262"),
        (SMALLEST, "model.preset=gpt4", "model.preset", "\"gpt4\"", "\"gpt3-xl\""),
        (SMALLEST, "model.n_head=5", "model.n_head", "5", "divisor of n_embd = 64"),
        (SMALLEST, "model.n_head=64", "model.n_head", "64", "1 wide: it must be even"),
        (SMALLEST, "model.head_dim=7", "model.head_dim", "7", "must be even"),
        (SMALLEST, "model.n_kv_head=3", "model.n_kv_head", "3", "divisor of n_head = 4"),
        (SMALLEST, "model.n_layer=99999999999", "model.n_layer", "99999999999", "to 1024"),
        (SMALLEST, "model.dropout=1.0", "model.dropout", "1", "below 1"),
        (SMALLEST, "model.rope_theta=1", "model.rope_theta", "1", "above 1"),
        (SMALLEST, "model.norm_eps=0.5", "model.norm_eps", "0.5", "to 0.1"),
        (SMALLEST, "model.qk_norm=1", "model.qk_norm", "1 (integer)", "true or false"),
        (SMALLEST, "run.device=gpu", "run.device", "\"gpu\"", "--device cuda"),
        (SMALLEST, "run.precision=fp4", "run.precision", "\"fp4\"", "\"bf16\", \"f32\" or \"fp8\""),
        (SMALLEST, "run.threads=-1", "run.threads", "-1", "from 0"),
        (SMALLEST, "run.dir=5", "run.dir", "5 (integer)", "text in quotes"),
        (WITH_SFT, "sft.epochs=0", "sft.epochs", "0", "from 1"),
        (WITH_SFT, "sft.identity_rate=1", "sft.identity_rate", "1", "below 1"),
        (WITH_SFT, "sft.system_rate=1", "sft.system_rate", "1", "below 1"),
        (WITH_SFT, "sft.from=nowhere", "sft.from", "\"nowhere\"", "casallm import"),
        (WITH_SFT, "sft.context=4096", "sft.context", "4096", "model.context = 2048"),
        (WITH_SFT, "sft.steps=100", "sft.steps", "100", "belongs to [pretrain]"),
        (WITH_SFT, "data.sft.0.max_rows=0", "data.sft[0].max_rows", "0", "from 1"),
        (WITH_SFT, "identity.name= ", "identity.name", "\"\"", "write some text"),
    ] {
        let error = parse_with(text, &[flag]).expect_err(flag);
        let (file, at, value, message) = named(&error);
        assert_eq!((at.as_str(), value.as_str()), (key, found), "{flag}: {message}");
        assert!(message.contains(remedy), "{flag}: {message}");
        if !matches!(error, TrainError::RecipeMissingKey { .. }) && !flag.starts_with("pretrian") {
            assert_eq!(file, format!("flag {flag}"));
        }
    }
}

#[test]
fn a_guard_goes_back_only_where_checkpoints_are_kept_for_it() {
    let guard = |flags: &[&str]| parse_with(SMALLEST, &[&["run.guard.spike=rollback"], flags].concat());
    // A checkpoint each 5 steps, of which the last two stay.
    let error = guard(&[]).unwrap_err();
    let (_, key, found, message) = named(&error);
    assert_eq!((&*key, &*found), ("run.guard.before", "16"));
    assert!(message.contains("keep_last = 2") && message.contains("none older than 5"), "{message}");
    guard(&["run.guard.before=5"]).unwrap();
    let recipe = guard(&["pretrain.checkpoint_every=16"]).unwrap();
    assert!(recipe.run.guard.goes_back() && parse(&recipe.to_toml().unwrap()).unwrap().run == recipe.run);
    // What is not said changes no recipe's text; and a run may be resumed with another guard.
    assert!(!parse(SMALLEST).unwrap().to_toml().unwrap().contains("guard"));
    let settings = |recipe: &Recipe| recipe.stage_toml(Stage::Pretrain).unwrap();
    let kept = guard(&["run.guard.before=5", "run.checkpoint=between_steps", "pretrain.keep_every=10"]).unwrap();
    assert_eq!(settings(&kept), settings(&parse(SMALLEST).unwrap()));
}

#[test]
fn a_missing_key_is_named_with_its_file_and_what_to_write() {
    let without = |text: &str, line: &str| {
        assert!(text.contains(line));
        text.replacen(line, "", 1)
    };
    for (text, key, remedy) in [
        (without(SMALLEST, "dir = \"run\""), "run.dir", "dir = "),
        (without(SMALLEST, "n_embd = 64"), "model.n_embd", "preset"),
        (without(SMALLEST, "context = 128"), "model.context", "preset"),
        (without(SMALLEST, "steps = 100"), "pretrain.tokens", "steps = 1000"),
        (without(SMALLEST, "name = \"books\""), "data.pretrain[0].name", "name = "),
        (without(SMALLEST, "path = \"books\""), "data.pretrain[0].path", "folder"),
        (without(SMALLEST, "[pretrain]\nsteps = 100\nbatch_tokens = 1024"), "pretrain", "[sft]"),
        (SMALLEST.replacen("data.pretrain", "data.sft", 1), "data.pretrain", "[[data.pretrain]]"),
        (WITH_SFT.replacen("data.sft", "data.pretrain", 1), "data.sft", "[[data.sft]]"),
        (without(WITH_SFT, "maker = \"Ada\""), "identity.maker", "maker = "),
        (
            without(WITH_SFT, "[identity]\nname = \"Casa\"\nmaker = \"Ada\"\ndescription = \"a small model\""),
            "identity",
            "identity_rate = 0",
        ),
    ] {
        let error = parse(&text).expect_err(key);
        let (file, at, _, message) = named(&error);
        assert_eq!((file.as_str(), at.as_str()), ("my.toml", key), "{message}");
        assert!(message.contains(remedy) && message.contains("my.toml"), "{message}");
    }
}

#[test]
fn contradictions_are_refused() {
    let (_, key, _, message) = named(&parse(&format!("{SMALLEST}tokens = 5\n")).unwrap_err());
    assert_eq!(key, "pretrain.steps");
    assert!(message.contains("tokens is given too"));

    let flags = ["pretrain.schedule=linear", "pretrain.warmup=60", "pretrain.cooldown=60"];
    let (_, key, _, message) = named(&parse_with(SMALLEST, &flags).unwrap_err());
    assert_eq!(key, "pretrain.cooldown");
    assert!(message.contains("100 steps"), "{message}");

    let twice = format!("{SMALLEST}\n[[data.pretrain]]\nname = \"Books\"\npath = \"more\"\n");
    let (_, key, found, _) = named(&parse(&twice).unwrap_err());
    assert_eq!((key.as_str(), found.as_str()), ("data.pretrain[1].name", "\"Books\""));
}

#[test]
fn a_file_that_is_no_recipe_says_where() {
    let error = parse("[run\ndir = 1").unwrap_err();
    assert!(matches!(&error, TrainError::RecipeSyntax { file, .. } if file == "my.toml"));
    assert!(error.to_string().contains("line 1"), "{error}");
    let error = parse("[run]\ndir = \"a\"\ndir = \"b\"").unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("latin1.toml");
    std::fs::write(&path, b"[run]\ndir = \"caf\xe9\"").unwrap();
    let error = Recipe::load::<&str>(&path, &[]).unwrap_err();
    assert!(matches!(error, TrainError::RecipeSyntax { .. }) && error.to_string().contains("UTF-8"), "{error}");
    let error = Recipe::load::<&str>(&dir.path().join("none.toml"), &[]).unwrap_err();
    assert!(matches!(error, TrainError::Io { doing: "read", .. }) && error.to_string().contains("none.toml"));
}

#[test]
fn overrides_take_text_without_quotes_and_create_sections() {
    let recipe = parse_with(
        SMALLEST,
        &[
            "run.dir=runs/a b=c",
            "identity.name=Bo",
            "identity.maker=\"2001\"",
            "identity.description=a model",
            "pretrain.tokens=2048",
        ],
    )
    .unwrap();
    assert_eq!(recipe.run.dir, "runs/a b=c");
    assert_eq!(recipe.identity.unwrap().maker, "2001");
    assert_eq!(recipe.pretrain.unwrap().steps, 2);
}

#[test]
fn an_override_that_is_none_is_refused() {
    for (text, remedy) in [
        ("pretrain.lr", "no `=`"),
        ("=5", "empty"),
        ("pretrain..lr=5", "empty"),
        ("pretrain.lr.x=5", "not a section"),
        ("data.pretrain.path=x", "list of 1"),
        ("data.pretrain.1.path=x", "below 1"),
    ] {
        let flags = ["pretrain.lr=1e-3", text];
        match parse_with(SMALLEST, &flags) {
            Err(error @ TrainError::RecipeOverride { .. }) => assert!(error.to_string().contains(remedy), "{error}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_path_to_nothing_names_the_source() {
    let recipe = parse(SMALLEST).unwrap();
    let error = recipe.pretrain_files(&recipe.data.pretrain[0]).unwrap_err();
    assert!(matches!(&error, TrainError::RecipeNoFiles { key, .. } if key == "data.pretrain.books.path"), "{error:?}");
    assert!(error.to_string().contains("somewhere"), "{error}");
}

#[test]
fn micro_batch_and_recomputation_may_be_left_open() {
    let auto = parse_with(SMALLEST, &["pretrain.micro_batch=auto", "pretrain.recompute=block"]).unwrap();
    let pretrain = auto.pretrain().unwrap();
    assert_eq!((pretrain.micro_batch, pretrain.recompute), (Choice::Auto, Choice::Given(Recompute::Block)));
    // For what is not training, a number all the same: that of a recipe that says nothing.
    let silent = parse(SMALLEST).unwrap();
    let usual = silent.pretrain().unwrap();
    assert_eq!((usual.micro_batch, usual.recompute), (Choice::Given(pretrain.micro_rows()), Choice::Auto));
    assert!(auto.to_toml().unwrap().contains("micro_batch = \"auto\""));
    // Rounding depends on the micro-batch and no number on what is recomputed.
    let settled = auto.with_micro_batch(Stage::Pretrain, 4);
    let keys = settled.differences(Stage::Pretrain, &auto.stage_toml(Stage::Pretrain).unwrap()).unwrap();
    assert_eq!(keys.iter().map(|d| d.key.as_str()).collect::<Vec<_>>(), ["pretrain.micro_batch"]);
    let block = parse_with(SMALLEST, &["pretrain.recompute=block"]).unwrap();
    assert_eq!(block.stage_toml(Stage::Pretrain).unwrap(), silent.stage_toml(Stage::Pretrain).unwrap());
    for (flag, found) in [("pretrain.micro_batch=most", "most"), ("pretrain.recompute=all", "all")] {
        let error = parse_with(SMALLEST, &[flag]).unwrap_err().to_string();
        assert!(error.contains(found) && error.contains("pretrain."), "{error}");
    }
}

proptest! {
    #[test]
    fn no_text_and_no_flag_panics(text in "\\PC*", flag in "[a-z_.0-9]{0,24}=?\\PC{0,8}") {
        let _ = parse(&text);
        let _ = parse_with(SMALLEST, &[&flag]);
    }

    #[test]
    fn any_size_is_either_refused_or_consistent(
        context in 1usize..5000, batch in 1usize..100_000, micro in proptest::option::of(1usize..64), steps in 1u64..10_000,
    ) {
        let mut flags = vec![
            format!("pretrain.context={context}"), format!("model.context={context}"),
            format!("pretrain.batch_tokens={batch}"), format!("pretrain.steps={steps}"),
        ];
        flags.extend(micro.map(|micro| format!("pretrain.micro_batch={micro}")));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        match parse_with(SMALLEST, &flags) {
            Ok(recipe) => {
                let p = recipe.pretrain.unwrap();
                prop_assert_eq!(p.accumulation() * p.micro_rows() * p.context, p.batch_tokens);
                prop_assert!(p.accumulation() >= 1);
            }
            Err(error) => {
                prop_assert!(batch % context != 0 || micro.is_some_and(|m| (batch / context) % m != 0), "{}", error);
            }
        }
    }
}

#[test]
fn a_recipe_that_begins_with_a_model_has_its_shape() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        ModelConfig { rope_theta: 1e6, norm_eps: 1.1e-5, ..ModelConfig::modern(2, 16, 2, 1, 100, 96).unwrap() };
    let zeros = |spec: &ParameterSpec| Ok(vec![0.0; spec.shape.iter().product()].into());
    save_model(&folder.path().join("given"), &config, StoredDtype::F32, &[], zeros).unwrap();
    let text =
        WITH_SFT.replace("[sft]", "[sft]\nfrom = \"given\"").replace("gpt3-nano\"", "gpt3-nano\"\ndropout = 0.1");
    let recipe = RawRecipe::parse(&text, "my.toml", folder.path()).unwrap().validate().unwrap();
    let expected = ModelConfig { dropout: 0.1, ..config };
    assert_eq!(crate::stages::model_config(&recipe).unwrap(), expected);
    assert_eq!(recipe.sft_from(), Some(folder.path().join("given")));
    assert_eq!((recipe.sft().unwrap().context, recipe.sft().unwrap().system_rate), (96, 0.0));
    // What the run leaves is read where the model is not.
    let again = RawRecipe::parse(&recipe.to_toml().unwrap(), "settings.toml", Path::new("elsewhere")).unwrap();
    assert_eq!(again.validate().unwrap().model, recipe.model);
    let lost = RawRecipe::parse(&text, "my.toml", Path::new("elsewhere")).unwrap().validate().unwrap_err().to_string();
    assert!(lost.contains("sft.from") && lost.contains("given") && lost.contains("my.toml"), "{lost}");
}
