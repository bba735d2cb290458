//! `casallm import` on a model made here: what comes out is a model directory like any other.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use support::{Seeded, casallm, conversations, run};

/// GPT-2's stand-in for a byte, as every byte-level vocabulary spells it.
fn spelled(byte: u8) -> char {
    let plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match plain(&byte) {
        true => char::from(byte),
        false => char::from_u32(256 + (0..byte).filter(|before| !plain(before)).count() as u32).unwrap(),
    }
}

const CONTROLS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A GGUF file of one layer of width 32 and random weights, with or without a chat template.
fn gguf(path: &Path, template: Option<&str>) {
    gguf_cut(path, template, "smollm");
}

/// The same, which cuts text in the way that llama.cpp knows by the name `pre`.
fn gguf_cut(path: &Path, template: Option<&str>, pre: &str) {
    let (width, n_ff) = (32usize, 64usize);
    let tokens: Vec<String> =
        CONTROLS.iter().map(|c| (*c).to_owned()).chain((0..=255).map(|byte| spelled(byte).to_string())).collect();
    // Two rows to spare.
    let rows = tokens.len() + 2;
    let mut seeded = Seeded(7);
    let mut random = |n: usize, around: f32| -> Vec<u8> {
        (0..n).flat_map(|_| (around + seeded.below(2001) as f32 / 5000.0 - 0.2).to_le_bytes()).collect()
    };
    let shapes: [(&str, &[usize]); 11] = [
        ("token_embd", &[width, rows]),
        ("blk.0.attn_norm", &[width]),
        ("blk.0.attn_q", &[width, width]),
        ("blk.0.attn_k", &[width, 16]),
        ("blk.0.attn_v", &[width, 16]),
        ("blk.0.attn_output", &[width, width]),
        ("blk.0.ffn_norm", &[width]),
        ("blk.0.ffn_gate", &[width, n_ff]),
        ("blk.0.ffn_up", &[width, n_ff]),
        ("blk.0.ffn_down", &[n_ff, width]),
        ("output_norm", &[width]),
    ];
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let mut keys: Vec<(&str, Vec<u8>)> = Vec::new();
    let string = |value: &str| {
        let mut out = 8u32.to_le_bytes().to_vec();
        text(&mut out, value);
        out
    };
    let number = |value: usize| [4u32.to_le_bytes(), (value as u32).to_le_bytes()].concat();
    let list = |kind: u32, count: usize| {
        [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(count as u64).to_le_bytes()].concat()
    };
    keys.push(("general.architecture", string("llama")));
    for (key, value) in [
        ("llama.block_count", 1),
        ("llama.context_length", 128),
        ("llama.embedding_length", width),
        ("llama.feed_forward_length", n_ff),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
        ("tokenizer.ggml.bos_token_id", 1),
        ("tokenizer.ggml.eos_token_id", 2),
    ] {
        keys.push((key, number(value)));
    }
    keys.push(("llama.attention.layer_norm_rms_epsilon", [6u32.to_le_bytes(), 1e-5f32.to_le_bytes()].concat()));
    keys.push(("tokenizer.ggml.model", string("gpt2")));
    keys.push(("tokenizer.ggml.pre", string(pre)));
    let mut listed = list(8, tokens.len());
    tokens.iter().for_each(|token| text(&mut listed, token));
    keys.push(("tokenizer.ggml.tokens", listed));
    let mut kinds = list(5, tokens.len());
    (0..tokens.len()).for_each(|id| kinds.extend(if id < CONTROLS.len() { 3i32 } else { 1 }.to_le_bytes()));
    keys.push(("tokenizer.ggml.token_type", kinds));
    keys.push(("tokenizer.ggml.merges", list(8, 0)));
    keys.extend(template.map(|template| ("tokenizer.chat_template", string(template))));

    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((shapes.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut out, key);
        out.extend(value);
    }
    let mut offset = 0u64;
    for (name, shape) in shapes {
        text(&mut out, &format!("{name}.weight"));
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|&n| out.extend((n as u64).to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (shape.iter().product::<usize>() as u64 * 4).next_multiple_of(32);
    }
    for (name, shape) in shapes {
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(random(shape.iter().product(), if name.contains("norm") { 1.0 } else { 0.0 }));
    }
    fs::write(path, out).unwrap();
}

const CHAT: [&str; 8] = ["chat", "--model", "model", "--temperature", "0", "--max-new-tokens", "12", "--prompt"];

#[test]
fn an_imported_model_talks() {
    let folder = tempfile::tempdir().unwrap();
    gguf(&folder.path().join("tiny.gguf"), Some(TEMPLATE));
    let done = run(folder.path(), &["import", "tiny.gguf", "--out", "model", "--json"]).succeeded();
    let row: Value = serde_json::from_str(done.stdout.trim()).unwrap();
    assert_eq!((&row["vocab_size"], &row["spare_rows"], &row["stored"]), (&259.into(), &2.into(), &"f32".into()));
    assert_eq!(row["tensors"], serde_json::json!({"F32": 11}));
    let chat = serde_json::json!({"takes_system": true, "stop": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]});
    assert_eq!((&row["chat"], &row["chat_error"]), (&chat, &Value::Null));
    let answer = |prompt: &str| run(folder.path(), &[&CHAT[..], &[prompt]].concat()).succeeded().stdout;
    assert_eq!(answer("Hi"), answer("Hi"));
    // Random weights may end an answer at once, or say nothing but spaces; not always.
    assert!(["Hi", "You", "and", "123", "what?", "no"].iter().any(|prompt| !answer(prompt).trim().is_empty()));
    // A name of a control token is text, for which the prompt is longer and the answer another.
    answer("<|im_end|>\n<|im_start|>system\n");
    let long = "word ".repeat(60);
    run(folder.path(), &[&CHAT[..], &[&long]].concat()).refused(&["do not fit the context of 128"]);

    // For people.
    let told = run(folder.path(), &["import", "tiny.gguf", "-o", "again"]).succeeded().stderr;
    for line in
        ["1 layer of width 32", "11 F32; kept as f32", "2 spare rows", "ends at <|endoftext|>", "chat --model again"]
    {
        assert!(told.contains(line), "{line}: {told}");
    }
    let weights = |model: &str| fs::read(folder.path().join(model).join("model.safetensors")).unwrap();
    assert_eq!(weights("model"), weights("again"));
}

#[test]
fn what_is_there_is_kept_and_what_cannot_be_read_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    gguf(&path, Some(TEMPLATE));
    run(folder.path(), &["import", "tiny.gguf", "--out", "model", "--quiet"]).succeeded();
    run(folder.path(), &["import", "tiny.gguf", "--out", "model"]).refused(&["model", "holds a model already"]);
    run(folder.path(), &["import", "model", "--out", "again"]).refused(&["model: is a model directory already"]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 40]).unwrap();
    run(folder.path(), &["import", "tiny.gguf", "--out", "cut"]).refused(&["tiny.gguf", "damaged or was cut"]);
    run(folder.path(), &["import", "nothing.gguf", "--out", "cut"]).refused(&["nothing.gguf"]);
    run(folder.path(), &["import", ".", "--out", "cut"]).refused(&["neither a GGUF file nor a folder"]);
    assert!(!folder.path().join("cut").exists());
}

#[test]
fn what_begins_a_text_goes_along_whoever_says_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(path(name)).unwrap()).unwrap() };
    let command = |line: &str| drop(run(folder.path(), &line.split(' ').collect::<Vec<_>>()).succeeded());
    for (pre, begins) in [("llama-bpe", true), ("smollm", false)] {
        // A GGUF file does not say it of Llama 3: all who read such files know.
        gguf_cut(&path(&format!("{pre}.gguf")), Some(TEMPLATE), pre);
        command(&format!("import {pre}.gguf --out {pre} --quiet"));
        assert_eq!(read(&format!("{pre}/tokenizer_config.json"))["add_bos_token"], begins);
    }
    // A folder of transformers says it in tokenizer.json.
    command("export llama-bpe --to hf --out folder --quiet");
    let mut settings = read("folder/tokenizer_config.json");
    settings.as_object_mut().unwrap().remove("add_bos_token");
    fs::write(path("folder/tokenizer_config.json"), settings.to_string()).unwrap();
    let mut tokenizer = read("folder/tokenizer.json");
    let opening = serde_json::json!({"SpecialToken": {"id": "<|im_start|>", "type_id": 0}});
    tokenizer["post_processor"] = serde_json::json!({"type": "TemplateProcessing", "single": [opening]});
    fs::write(path("folder/tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::remove_file(path("folder/checksums.json")).unwrap();
    command("import folder --out imported --quiet");
    command("export imported --to gguf --out again.gguf --quiet");
    command("import again.gguf --out again --quiet");
    assert_eq!(read("again/tokenizer_config.json")["add_bos_token"], true);
}

#[test]
fn a_text_to_continue_begins_as_the_imported_model_has_learned_it() {
    let folder = tempfile::tempdir().unwrap();
    for (pre, tokens) in [("llama-bpe", 3), ("smollm", 2)] {
        gguf_cut(&folder.path().join(format!("{pre}.gguf")), Some(TEMPLATE), pre);
        run(folder.path(), &["import", &format!("{pre}.gguf"), "--out", pre, "--quiet"]).succeeded();
        let arguments = ["serve", "--model", pre, "--port", "0", "--json", "--device", "cpu", "--ephemeral"];
        let mut child = casallm(folder.path(), &arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        lines.next().unwrap().unwrap();
        let body = r#"{"prompt": "Hi", "max_tokens": 1}"#;
        let mut stream = TcpStream::connect(("127.0.0.1", listening["port"].as_u64().unwrap() as u16)).unwrap();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let answer: Value = serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(answer["usage"]["prompt_tokens"], tokens, "{pre}: {answer}");
    }
}

#[test]
fn a_model_without_a_template_is_imported_but_does_not_chat() {
    let folder = tempfile::tempdir().unwrap();
    gguf(&folder.path().join("tiny.gguf"), None);
    let told = run(folder.path(), &["import", "tiny.gguf", "--out", "model"]).succeeded().stderr;
    assert!(told.contains("not for chats"), "{told}");
    run(folder.path(), &[&CHAT[..], &["Hi"]].concat()).refused(&["model", "chat_template", "use an instruct model"]);
}

#[test]
fn a_template_that_refuses_is_told_in_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
    gguf(&folder.path().join("tiny.gguf"), Some(strict));
    run(folder.path(), &["import", "tiny.gguf", "--out", "model", "--quiet"]).succeeded();
    run(folder.path(), &[&CHAT[..], &["Hi", "--system", "Be kind."]].concat()).refused(&["no system, please"]);
    assert!(casallm(folder.path(), &[&CHAT[..], &["Hi"]].concat()).output().unwrap().status.success());
}

/// Says nothing of the model's shape: that is the model's own.
const TUNE: &str = r#"
[[data.sft]]
name = "talk"
path = "chat.jsonl"

[data]
validation_fraction = 0.1

[run]
dir = "run"

[sft]
epochs = 1
context = 64
batch_tokens = 256
micro_batch = 2
identity_rate = 0.0
lr = 1e-3
eval_every = 2
checkpoint_every = 2
"#;

#[test]
fn no_system_messages_are_mixed_in_for_a_model_that_takes_none() {
    let folder = tempfile::tempdir().unwrap();
    let strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}";
    gguf(&folder.path().join("tiny.gguf"), Some(&(strict.to_owned() + TEMPLATE)));
    run(folder.path(), &["import", "tiny.gguf", "--out", "imported", "--quiet"]).succeeded();
    fs::write(folder.path().join("chat.jsonl"), conversations(40, 3)).unwrap();
    let recipe = TUNE.replace("[sft]", "[sft]\nfrom = \"imported\"\nsystem_rate = 0.9");
    fs::write(folder.path().join("tune.toml"), recipe).unwrap();
    let seen = run(folder.path(), &["data", "inspect", "tune.toml", "--batches", "0"]).succeeded();
    assert!(seen.stderr.contains("the model takes no system message"), "{}", seen.stderr);
    assert!(seen.stdout.contains("mixed in: 0 system messages"), "{}", seen.stdout);
    assert!(!seen.stdout.contains("refused"), "{}", seen.stdout);
}

#[test]
fn an_imported_model_is_fine_tuned_by_its_own_template() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    gguf(&path("tiny.gguf"), Some(TEMPLATE));
    run(folder.path(), &["import", "tiny.gguf", "--out", "models/imported", "--quiet"]).succeeded();
    fs::write(path("chat.jsonl"), conversations(40, 3)).unwrap();
    fs::write(path("tune.toml"), TUNE).unwrap();
    run(folder.path(), &["sft", "tune.toml", "--model", "nowhere"]).refused(&["sft.from", "nowhere", "casallm import"]);
    // By a key, from the recipe's folder, or by a flag, from where the command is run.
    let keyed = ["--set", "sft.from=models/imported"];
    let seen = run(folder.path(), &[&["data", "inspect", "tune.toml"][..], &keyed].concat()).succeeded().stdout;
    assert!(seen.contains("‹<|im_start|>›user\nWhere is the "), "{seen}");
    assert!(seen.contains("‹<|im_end|>›\n‹<|im_start|>›assistant\n⟦It is near the "), "{seen}");
    assert!(seen.contains(".‹<|im_end|>›⟧\n"), "{seen}");
    run(folder.path(), &[&["sft", "tune.toml"][..], &keyed].concat()).succeeded();
    run(folder.path(), &["sft", "tune.toml", "--model", "models/imported", "--set", "run.dir=flagged"]).succeeded();
    let read = |model: &str, name: &str| fs::read(path(model).join(name)).unwrap();
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    {
        assert!(read("run/model", name) == read("flagged/model", name), "{name}");
    }
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(read("run/model", name) == read("models/imported", name), "{name}");
    }
    assert!(read("run/model", "model.safetensors") != read("models/imported", "model.safetensors"));
    let ask = |model: &str| {
        run(folder.path(), &["chat", "--model", model, "--temperature", "0", "--prompt", "Where is the cat?"])
    };
    assert_eq!(ask("run/model").succeeded().stdout, ask("flagged/model").succeeded().stdout);
    // What the run has left can be read without the model that it began with.
    fs::rename(path("models"), path("elsewhere")).unwrap();
    run(folder.path(), &["report", "run", "--no-exam"]).succeeded();
    fs::rename(path("elsewhere"), path("models")).unwrap();
    let pair = |i: u32| {
        format!(
            "{{\"prompt\": \"Where is the {i}?\", \"chosen\": \"It is near the door.\", \"rejected\": \"No {i}.\"}}\n"
        )
    };
    fs::write(path("pairs.jsonl"), (0..40).map(pair).collect::<String>()).unwrap();
    let dpo = "\n[[data.dpo]]\nname = \"p\"\npath = \"pairs.jsonl\"\n[dpo]\nbatch_tokens = 256\nmicro_batch = 2\ncontext = 64\n";
    fs::write(path("dpo.toml"), TUNE.replace("[sft]", "[sft]\nfrom = \"models/imported\"") + dpo).unwrap();
    // It learns to prefer by its own template too.
    let seen = run(folder.path(), &["data", "inspect", "dpo.toml", "--stage", "dpo"]).succeeded().stdout;
    assert!(seen.contains("‹<|im_start|>›assistant\n⟦It is near the door.‹<|im_end|>›⟧"), "{seen}");
    assert!(seen.contains("⟦No "), "{seen}");
    run(folder.path(), &["dpo", "dpo.toml"]).succeeded();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(read("run/dpo", name) == read("models/imported", name), "{name}");
    }
    assert!(read("run/dpo", "model.safetensors") != read("run/model", "model.safetensors"));
    ask("run/dpo").succeeded();
    run(folder.path(), &["report", "run", "--no-exam"]).succeeded();
}
