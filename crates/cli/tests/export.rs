//! `casallm export`: a trained model leaves in both forms and comes back as it was.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{RECIPE, Tree, run, trained_folder};

const TEXTS: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// What both folders hold of a model is the same.
fn same_model(folder: &Path, one: &str, other: &str) {
    let read = |model: &str, name: &str| fs::read(folder.join(model).join(name)).unwrap();
    for name in TEXTS {
        assert!(read(one, name) == read(other, name), "{name} of {one} and {other}");
    }
}

#[test]
fn a_model_leaves_and_comes_back_in_both_forms() {
    let trained = trained_folder();
    let folder = trained.path();
    // The base model is stored in f32, and dropout is among its settings.
    let export = |more: &[&str]| run(folder, &[&["export", "run/base"], more].concat());
    let done = export(&["--to", "hf", "--out", "hf", "--json"]).succeeded();
    let row: Value = serde_json::from_str(done.stdout.trim()).unwrap();
    assert_eq!((&row["to"], &row["files"][0]["name"]), (&"hf".into(), &"model.safetensors".into()));
    run(folder, &["import", "hf", "--out", "back", "--quiet"]).succeeded();
    same_model(folder, "run/base", "back");
    let kept = Tree::of(folder);
    for name in ["tokenizer_config.json", "generation_config.json"] {
        assert_eq!(kept.file(&format!("run/base/{name}")), kept.file(&format!("back/{name}")), "{name}");
    }

    let done = export(&["--to", "gguf", "--type", "f32", "--out", "files/model.gguf", "--json"]).succeeded();
    let row: Value = serde_json::from_str(done.stdout.trim()).unwrap();
    // Our way of cutting text is one that llama.cpp has a name for.
    assert_eq!(row["remark"], Value::Null);
    let sum = fs::read_to_string(folder.join("files/model.gguf.sha256")).unwrap();
    assert_eq!(sum, format!("{}  model.gguf\n", row["files"][0]["sha256"].as_str().unwrap()));
    run(folder, &["import", "files/model.gguf", "--out", "back-gguf", "--quiet"]).succeeded();
    same_model(folder, "run/base", "back-gguf");
    let kept = Tree::of(folder);
    let settings = |model: &str, name: &str, key: &str| -> Value {
        serde_json::from_slice::<Value>(kept.file(&format!("{model}/{name}"))).unwrap()[key].clone()
    };
    for (name, keys) in [
        ("tokenizer_config.json", &["chat_template", "bos_token", "eos_token", "pad_token", "add_bos_token"][..]),
        ("generation_config.json", &["bos_token_id", "pad_token_id", "temperature", "top_k", "top_p"]),
    ] {
        for key in keys {
            assert_eq!(settings("run/base", name, key), settings("back-gguf", name, key), "{key}");
        }
    }
    // It can be talked to, and fine-tuning can begin with it.
    let chat = |model| {
        run(
            folder,
            &[
                "chat",
                "--model",
                model,
                "--prompt",
                "Where is the cat?",
                "--temperature",
                "0",
                "--max-new-tokens",
                "12",
            ],
        )
        .succeeded()
        .stdout
    };
    assert_eq!(chat("back"), chat("run/base"));
    fs::create_dir(folder.join("tuned")).unwrap();
    fs::rename(folder.join("back"), folder.join("tuned/base")).unwrap();
    run(folder, &["sft", "tiny.toml", "--set", "run.dir=tuned"]).succeeded();
    let kept = Tree::of(folder);
    assert!(kept.file("tuned/model/model.safetensors") == kept.file("run/model/model.safetensors"));
}

#[test]
fn a_card_says_what_the_model_is() {
    let trained = trained_folder();
    let folder = trained.path();
    let arguments = ["export", "run/model", "--to", "hf", "--dtype", "bf16", "--license", "Apache-2.0", "--out", "hf"];
    run(folder, &arguments).succeeded();
    let card = fs::read_to_string(folder.join("hf/README.md")).unwrap();
    let (head, body) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    let expected = "library_name: transformers\npipeline_tag: text-generation\nlicense: apache-2.0\ntags:\n- casallm\n- conversational";
    assert_eq!(head, expected);
    for line in ["# run\n", "| Layers | 2 |", "| Numbers | bfloat16 |", "<s><|user|>Hello!</s><|assistant|>"] {
        assert!(body.contains(line), "{line}: {body}");
    }
    let config: Value = serde_json::from_slice(&fs::read(folder.join("hf/config.json")).unwrap()).unwrap();
    assert_eq!((&config["torch_dtype"], &config["bos_token_id"]), (&"bfloat16".into(), &0.into()));
    // Fine-tuned models are stored in bf16 and come back so.
    run(folder, &["import", "hf", "--out", "back", "--quiet"]).succeeded();
    same_model(folder, "run/model", "back");
}

#[test]
fn a_file_that_llama_cpp_cuts_otherwise_says_so() {
    let trained = trained_folder();
    let folder = trained.path();
    let recipe = RECIPE.replace("vocab_size = 320", "vocab_size = 320\ndigits = 2").replace("steps = 40", "steps = 2");
    fs::write(folder.join("pairs.toml"), recipe.replace("\"run\"", "\"pairs\"")).unwrap();
    run(folder, &["pretrain", "pairs.toml"]).succeeded();
    let export = |out, more: &[&str]| {
        run(folder, &[&["export", "pairs/base", "--to", "gguf", "--out", out], more].concat()).succeeded()
    };
    for remark in [export("a.gguf", &[]).stderr, export("b.gguf", &["--json"]).stdout] {
        for part in ["smaug-bpe", "numbers of three and more digits", "digits = 1 or 3"] {
            assert!(remark.contains(part), "{part}: {remark}");
        }
    }
    // It comes back as it was all the same.
    run(folder, &["import", "a.gguf", "--out", "back", "--quiet"]).succeeded();
    let kept = Tree::of(folder);
    assert!(kept.file("back/tokenizer.json") == kept.file("pairs/base/tokenizer.json"));
}

#[test]
fn what_will_not_be_exported_is_said_before_it_is_trained() {
    let trained = trained_folder();
    let folder = trained.path();
    let pretrain = |dir: &str, block: &str, activation: &str| {
        let set = [format!("run.dir={dir}"), format!("model.block={block}"), format!("model.activation={activation}")];
        let set = set.iter().flat_map(|value| ["--set", value]);
        let command: Vec<&str> =
            ["pretrain", "tiny.toml", "--set", "pretrain.steps=2"].into_iter().chain(set).collect();
        run(folder, &command).succeeded().stderr
    };
    let told = pretrain("squared", "modern", "relusquared");
    assert!(told.contains("`casallm export` will refuse this model") && told.contains("a GGUF file"), "{told}");
    let told = pretrain("mixed", "classic", "swiglu");
    assert!(told.contains("will refuse this model") && told.contains("only gelu"), "{told}");
    assert!(!pretrain("plain", "modern", "swiglu").contains("will refuse"));
}

#[test]
fn what_cannot_be_exported_is_said_and_nothing_is_lost() {
    let trained = trained_folder();
    let folder = trained.path();
    let refused = |more: &[&str], named: &[&str]| {
        run(folder, &[&["export"], more].concat()).refused(named);
    };
    fs::write(folder.join("there.gguf"), "mine").unwrap();
    refused(&["run/base", "--to", "gguf", "--out", "there.gguf"], &["there.gguf", "is there already"]);
    refused(&["run/base", "--to", "gguf", "--out", "run"], &["run: a folder", "--out run/model.gguf"]);
    refused(&["run/base", "--to", "gguf", "--out", "new/"], &["new/: a folder", "--out new/model.gguf"]);
    refused(&["run/base", "--to", "hf", "--out", "run/model"], &["run/model", "holds a model already"]);
    // A card that somebody wrote, or the tokenizer of a run.
    for (name, command) in
        [("README.md", "export run/base --to hf --out mine"), ("tokenizer.json", "import kept --out mine")]
    {
        run(folder, &["export", "run/base", "--to", "hf", "--out", "kept", "--quiet"]);
        fs::create_dir_all(folder.join("mine")).unwrap();
        fs::write(folder.join("mine").join(name), "mine").unwrap();
        let named = [&format!("mine/{name}"), "would be overwritten"];
        run(folder, &command.split(' ').collect::<Vec<_>>()).refused(&named);
        assert_eq!(fs::read_dir(folder.join("mine")).unwrap().count(), 1);
        fs::remove_dir_all(folder.join("mine")).unwrap();
    }
    refused(&["run/base", "--to", "hf", "--type", "f16", "--out", "x"], &["--type is of --to gguf", "--dtype"]);
    refused(&["run/base", "--to", "gguf", "--dtype", "f32", "--out", "x"], &["--dtype is of --to hf", "--type"]);
    refused(&["nowhere", "--to", "hf", "--out", "x"], &["nowhere", "is missing"]);
    let error =
        |more: &[&str]| run(folder, &[&["export", "run/base", "--to", "hf", "--out", "x"], more].concat()).stderr;
    assert!(error(&["--license", "my own: terms"]).contains("like apache-2.0"));
    assert!(error(&["--max-shard-size", "5"]).contains("write a number and a unit"));
    // A model of a shape that no other program knows.
    let recipe = RECIPE.replace("context = 64", "context = 64\nblock = \"modern\"\nactivation = \"relusquared\"");
    fs::write(folder.join("squared.toml"), recipe.replace("\"run\"", "\"squared\"").replace("steps = 40", "steps = 4"))
        .unwrap();
    run(folder, &["pretrain", "squared.toml"]).succeeded();
    let before = Tree::of(folder);
    refused(
        &["squared/base", "--to", "gguf", "--out", "x"],
        &["activation = relusquared", "squared ReLU", "--to hf", "activation = \"swiglu\""],
    );
    before.assert_kept_in(folder);
    assert_eq!(Tree::of(folder).0.len(), before.0.len());
    // transformers has it, by a gate.
    run(folder, &["export", "squared/base", "--to", "hf", "--out", "x"]).succeeded();
    run(folder, &["import", "x", "--out", "back", "--quiet"]).succeeded();
    same_model(folder, "squared/base", "back");
}
