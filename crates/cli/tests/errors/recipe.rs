//! Recipes that cannot be run, and flags that cannot be meant.

use std::fs;

use crate::support::{RECIPE, run, trained, trained_folder};

/// Runs both the recipe with `from` replaced by `to`, which must be refused.
fn refused_with(from: &str, to: &str, named: &[&str]) {
    let folder = trained_folder();
    assert!(RECIPE.contains(from), "{from}");
    fs::write(folder.path().join("wrong.toml"), RECIPE.replacen(from, to, 1)).unwrap();
    for arguments in [&["pretrain", "wrong.toml"][..], &["pretrain", "wrong.toml", "--resume"], &["sft", "wrong.toml"]]
    {
        run(folder.path(), arguments).refused(&[&["wrong.toml"][..], named].concat());
    }
    trained().assert_kept_in(folder.path());
}

/// Sets a value of the recipe by a flag, which must be refused.
fn refused_set(value: &str, named: &[&str]) {
    let folder = trained_folder();
    run(folder.path(), &["pretrain", "tiny.toml", "--resume", "--set", value]).refused(&[&[value][..], named].concat());
    trained().assert_kept_in(folder.path());
}

/// A quickstart goes on with what is there; what is asked for besides is not passed over.
#[test]
fn a_quickstart_of_another_name() {
    let folder = trained_folder();
    let quick = folder.path().join("quick");
    fs::create_dir(&quick).unwrap();
    let written = format!("# Written by `casallm quickstart --minutes 2`; run it again by hand.\n{RECIPE}");
    fs::write(quick.join("recipe.toml"), &written).unwrap();
    fs::write(quick.join("chat.jsonl"), "").unwrap();
    let quickstart =
        |more: &[&str]| run(folder.path(), &[&["quickstart", "--dir", "quick", "--no-chat"], more].concat());
    for (flag, value, found) in
        [("--name", "Ada", "Tiny"), ("--maker", "Ada", "a test"), ("--minutes", "3", "\"2\""), ("--seed", "7", "\"1\"")]
    {
        quickstart(&[flag, value]).refused(&[flag, value, found, "the run in quick", "another --dir"]);
    }
    // What is so may be said: it goes on, as far as the text that is not there.
    quickstart(&["--name", "Tiny", "--maker", "a test", "--minutes", "2", "--seed", "1"]).refused(&["text.jsonl"]);
    assert!(fs::read_to_string(quick.join("recipe.toml")).unwrap() == written);
}

#[test]
fn a_quickstart_that_is_refused_leaves_no_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let quickstart = ["quickstart", "--dir", "quick", "--no-chat", "--minutes", "0.5", "--name", ""];
    run(folder.path(), &quickstart).refused(&["`identity.name`", "write some text"]);
    assert!(!folder.path().join("quick/recipe.toml").exists());
}

#[test]
fn unknown_key() {
    refused_with("lr = 3e-3", "learning_rate = 3e-3", &["unknown key `pretrain.learning_rate`", "known keys here are"]);
    refused_with("eval_every = 4", "evalevery = 4", &["`pretrain.evalevery`", "did you mean `eval_every`?"]);
    refused_with("[model]", "[modell]", &["`modell`", "did you mean `model`?"]);
}

#[test]
fn wrong_type() {
    refused_with("lr = 3e-3", "lr = \"fast\"", &["`pretrain.lr`", "\"fast\"", "expected a number", "3e-4"]);
    refused_with("n_layer = 2", "n_layer = 2.5", &["`model.n_layer`", "2.5", "expected"]);
    refused_with("path = \"text.jsonl\"", "path = 7", &["`data.pretrain[0].path`", "7", "expected"]);
}

#[test]
fn context_over_the_models() {
    for stage in ["pretrain", "sft"] {
        let (section, key) = (format!("[{stage}]\n"), format!("`{stage}.context`"));
        let longer = format!("[{stage}]\ncontext = 128\n");
        refused_with(&section, &longer, &[&key, "128", "model.context = 64", "lower this, or raise model.context"]);
    }
}

#[test]
fn context_over_that_of_the_model_to_be_tuned() {
    let folder = trained_folder();
    let longer = ["--set", "model.context=128"];
    let named = ["run/base", "context is 64", "128", "restore the recipe"];
    run(folder.path(), &[&["sft", "tiny.toml", "--resume"][..], &longer].concat()).refused(&named);
    trained().assert_kept_in(folder.path());
}

#[test]
fn sizes_that_no_model_has() {
    refused_with("n_layer = 2", "n_layer = 0", &["`model.n_layer` = 0", "from 1 to"]);
    refused_with("n_head = 2", "n_head = 5", &["`model.n_head` = 5", "divisor of n_embd = 32"]);
    refused_with("n_head = 2", "n_head = 32", &["`model.n_head` = 32", "must be even"]);
    refused_with("vocab_size = 320", "vocab_size = 100", &["`tokenizer.vocab_size` = 100", "262"]);
    refused_with("batch_tokens = 256", "batch_tokens = 100", &["`pretrain.batch_tokens` = 100", "64"]);
    refused_with("micro_batch = 2", "micro_batch = 3", &["`pretrain.micro_batch` = 3", "divisor of 4"]);
    refused_with("steps = 40", "steps = 0", &["`pretrain.steps` = 0", "from 1 to"]);
    refused_with("validation_fraction = 0.1", "validation_fraction = 1.5", &["`data.validation_fraction` = 1.5"]);
}

#[test]
fn set_of_what_is_none() {
    refused_set("pretrain.lrr=1e-3", &["unknown key `pretrain.lrr`", "did you mean `lr`?"]);
    refused_set("nonsense=1", &["unknown key `nonsense`"]);
    refused_set("pretrain.lr=quick", &["`pretrain.lr`", "quick", "expected a number"]);
    refused_set("pretrain.lr", &["there is no `=`", "pretrain.lr=1e-3"]);
    refused_set("data.pretrain.7.path=x.txt", &["`data.pretrain`", "list of 1"]);
}

// Elsewhere free memory is not known, and the attempt would be made.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_is_not_there() {
    // Before anything is allocated or written.
    let large = ["model.n_layer=1000", "model.n_embd=65536", "model.n_head=1024"];
    let folder = trained_folder();
    let mut arguments = vec!["pretrain", "tiny.toml", "--set", "run.dir=elsewhere"];
    large.iter().for_each(|value| arguments.extend(["--set", value]));
    let named = ["the plan needs", "MiB are free", "optimizer moments", "choose a smaller model"];
    run(folder.path(), &arguments).refused(&named);
    let batch = ["pretrain", "tiny.toml", "--set", "run.dir=elsewhere", "--set", "pretrain.batch_tokens=1099511627776"];
    run(folder.path(), &batch).refused(&["the plan needs", "batches of a step", "choose a smaller model, batch"]);
    assert!(!folder.path().join("elsewhere/tokenizer.json").exists());
    trained().assert_kept_in(folder.path());
}

#[test]
fn recipe_that_cannot_be_read() {
    let folder = trained_folder();
    fs::write(folder.path().join("latin1.toml"), b"# caf\xE9\n").unwrap();
    for stage in ["pretrain", "sft"] {
        run(folder.path(), &[stage, "nowhere.toml"]).refused(&["nowhere.toml", "No such file", "check that the path"]);
        run(folder.path(), &[stage, "run"]).refused(&["run", "directory"]);
        run(folder.path(), &[stage, "text.jsonl"]).refused(&["text.jsonl", "not valid TOML", "line 1"]);
        run(folder.path(), &[stage, "latin1.toml"]).refused(&["latin1.toml", "not valid TOML", "UTF-8"]);
    }
    trained().assert_kept_in(folder.path());
}

#[test]
fn recipe_without_the_stage_or_its_data() {
    let (pretraining, tuning) = RECIPE.split_once("[sft]").unwrap();
    let folder = trained_folder();
    fs::write(folder.path().join("one.toml"), pretraining).unwrap();
    run(folder.path(), &["sft", "one.toml"]).refused(&["one.toml", "`sft` is missing", "add an [sft] section"]);
    let only_tuning = format!("{}[sft]{tuning}", pretraining.split("[pretrain]").next().unwrap());
    fs::write(folder.path().join("two.toml"), only_tuning).unwrap();
    run(folder.path(), &["pretrain", "two.toml"]).refused(&["two.toml", "`pretrain` is missing", "[pretrain]"]);
    for (path, named) in
        [("nowhere.jsonl", "nowhere.jsonl"), ("no/*.txt", "no file matches"), ("embedded:x", "openstax")]
    {
        let value = format!("data.pretrain.0.path={path}");
        let refused = run(folder.path(), &["pretrain", "tiny.toml", "--set", "run.dir=new", "--set", &value]);
        refused.refused(&["tiny.toml", "`data.pretrain.stories.path`", path, named]);
    }
    run(folder.path(), &["sft", "tiny.toml", "--set", "run.dir=new"]).refused(&["new/base", "casallm pretrain"]);
    trained().assert_kept_in(folder.path());
}

#[test]
fn flags_of_bench_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let small = ["--n-layer", "1", "--n-embd", "64", "--n-head", "2", "--vocab-size", "512"];
    let bench = |what: &str, flags: &[&str]| {
        let given = |flag: &str| flags.contains(&flag);
        let rest = small.chunks_exact(2).filter(|pair| !given(pair[0])).flatten().copied();
        run(folder.path(), &["bench", what].into_iter().chain(flags.iter().copied()).chain(rest).collect::<Vec<_>>())
    };
    bench("train", &["--n-layer", "0"]).refused(&["n_layer = 0", "from 1 to"]);
    bench("train", &["--n-embd", "100", "--n-head", "3"]).refused(&["n_head = 3", "divisor of n_embd = 100"]);
    bench("train", &["--steps", "0"]).refused(&["--steps", "at least 1"]);
    bench("train", &["--context", "0"]).refused(&["context = 0", "from 1 to"]);
    let most = u64::MAX.to_string();
    bench("train", &["--batch", &most]).refused(&["--batch", &most, "use at most"]);
    bench("generate", &["--prompt-tokens", &most]).refused(&["context", &most, "use a number"]);
    bench("generate", &["--new-tokens", "0"]).refused(&["--new-tokens", "at least 1"]);
    bench("generate", &["--threads", "0"]).refused(&["0 threads", "use 1 to"]);
    bench("generate", &["--isa", "abacus"]).refused(&["'abacus'", "this machine has", "portable"]);
    bench("train", &["--n-kv-head", "1"]).refused(&["--n-kv-head", "--block modern"]);
    let fp8 = ["--precision", "fp8", "--device", "cpu"];
    bench("train", &fp8).refused(&["fp8", "8.9", "this is cpu", "precision = \"bf16\""]);
    bench("roofline", &fp8).refused(&["fp8", "--precision bf16"]);
}

#[test]
fn eight_bits_on_a_processor() {
    let folder = trained_folder();
    let fp8 = |stage: &str| {
        let arguments = [stage, "tiny.toml", "--device", "cpu", "--set", "run.precision=fp8", "--set", "run.dir=new"];
        run(folder.path(), &arguments).refused(&["fp8", "8.9", "this is cpu", "precision = \"bf16\""]);
    };
    fp8("pretrain");
    fp8("sft");
    trained().assert_kept_in(folder.path());
}
