//! `casallm data inspect`: a person sees what the model will see.

mod support;

use std::fs;

use serde_json::Value;
use support::{RECIPE, Tree, casallm, run, trained_folder, write_inputs};

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn fine_tuning_is_seen_with_its_mask_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let recipe = RECIPE.replace("identity_rate = 0.2", "identity_rate = 0.2\nsystem_rate = 0.3");
    fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
    let shown = run(folder.path(), &["data", "inspect", "tiny.toml"]).succeeded().stdout;
    // Without a terminal by brackets: the answer and its end are learned, the question is not.
    assert!(shown.starts_with("⟦learned⟧  only read"), "{shown}");
    assert!(
        shown.contains("‹<s>›‹<|user|>›Where is the ") && shown.contains("‹</s>›‹<|assistant|>›⟦It is near the "),
        "{shown}"
    );
    assert!(shown.contains("‹<|system|>›") && shown.contains("── conversation 2: "), "{shown}");
    for line in [
        "talk: 60 rows, 60 taken",
        "identity cleaning: 0 messages",
        "of them learned (",
        "tokens of a conversation: ",
        "█",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let coloured =
        casallm(folder.path(), &["data", "inspect", "tiny.toml"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    let coloured = String::from_utf8(coloured.stdout).unwrap();
    assert!(coloured.contains("\u{1b}[32mIt is near the ") && !coloured.contains('⟦'), "{coloured}");
    let plain = casallm(folder.path(), &["data", "inspect", "tiny.toml"])
        .envs([("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(plain.stdout).unwrap(), shown);
    // A tokenizer was made, as pre-training would; nothing else.
    let run_dir = Tree::of(&folder.path().join("run"));
    let names: Vec<String> = run_dir.0.keys().map(|path| path.to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["run.lock", "tokenizer.json"]);
}

#[test]
fn conversations_that_ask_what_is_examined_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let asks = |question: &str| {
        serde_json::json!({"messages": [
            {"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": question}, {"role": "assistant", "content": "It is so."},
        ]})
    };
    let more = ["why is the sky BLUE?", "Are you hungry?"].map(|question| format!("{}\n", asks(question)));
    let chats = fs::read_to_string(folder.path().join("chat.jsonl")).unwrap() + &more.concat();
    fs::write(folder.path().join("chat.jsonl"), chats).unwrap();
    let recipe = RECIPE.replace("validation_fraction = 0.1", "validation_fraction = 1e-9");
    fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
    let shown = run(folder.path(), &["data", "inspect", "tiny.toml", "--batches", "0"]).succeeded().stdout;
    for line in ["talk: 62 rows, 62 taken", "2 conversations left out: they ask what", "60 before the identity"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
}

#[test]
fn machines_get_ids_masks_and_numbers_that_agree_with_the_training() {
    let trained = trained_folder();
    let folder = trained.path();
    let before = Tree::of(folder);
    let inspect = |more: &[&str]| {
        let arguments = [&["data", "inspect", "tiny.toml", "--json"], more].concat();
        lines(&run(folder, &arguments).succeeded().stdout)
    };
    let rows = inspect(&["--batches", "3"]);
    assert_eq!(rows.len(), 4);
    for row in &rows[..3] {
        let (mut tokens, mut learned) = (0, 0);
        for sequence in row["sequences"].as_array().unwrap() {
            let mask: Vec<u64> = sequence["learned"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect();
            assert_eq!((mask.len(), mask[0]), (sequence["ids"].as_array().unwrap().len(), 0));
            tokens += mask.len() - 1;
            learned += mask.iter().sum::<u64>();
        }
        assert_eq!((row["tokens"].as_u64(), row["learned"].as_f64()), (Some(tokens as u64), Some(learned as f64)));
    }
    let data = &rows[3]["data"]["conversations"];
    let lengths = &data["lengths"];
    let (count, fit) = (|value: &Value| value.as_u64().unwrap(), &data["fit"]);
    assert_eq!(count(&lengths["count"]), count(&fit["whole"]) + count(&fit["cut"]));
    assert_eq!(count(&data["conversations"]), count(&lengths["count"]) + count(&fit["too_long"]));
    assert_eq!(
        lengths["total"].as_u64().unwrap(),
        data["tokens"].as_u64().unwrap() + lengths["count"].as_u64().unwrap()
    );
    let bins = lengths["bins"].as_array().unwrap().iter().map(|bin| bin["count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(bins, lengths["count"].as_u64().unwrap());
    // The run left the same numbers, and took as many steps.
    let left: Value = serde_json::from_slice(before.file("run/conversations.json")).unwrap();
    assert_eq!(&left, data);
    let metrics = String::from_utf8(before.file("run/metrics.jsonl").to_vec()).unwrap();
    let steps =
        metrics.lines().filter(|line| line.contains("\"stage\":\"sft\"") && line.contains("\"grad_norm\"")).count();
    assert_eq!(rows[3]["steps"], steps);

    let rows = inspect(&["--stage", "pretrain", "--batches", "1"]);
    let sequences = rows[0]["sequences"].as_array().unwrap();
    assert_eq!((sequences.len(), sequences[0]["ids"].as_array().unwrap().len()), (2, 65));
    let text = sequences[0]["text"].as_str().unwrap();
    assert!(text.contains("‹</s>‹<s>›") || text.contains("‹</s>›‹<s>›"), "{text}");
    let source = &rows[1]["data"]["documents"][0];
    assert_eq!((&source["name"], &source["lengths"]["count"]), (&"stories".into(), &source["documents"]));
    assert_eq!(source["lengths"]["total"], source["tokens"]);
    // Looking changes nothing.
    before.assert_kept_in(folder);
    assert_eq!(Tree::of(folder).0.len(), before.0.len());
}

#[test]
fn pairs_are_seen_two_by_two_and_what_is_missing_is_said() {
    let trained = trained_folder();
    let folder = trained.path();
    let pair = |i: usize| serde_json::json!({"prompt": format!("Where is cat {i}?"), "chosen": "It is here.", "rejected": "No."});
    fs::write(folder.join("pairs.jsonl"), (0..8).map(|i| format!("{}\n", pair(i))).collect::<String>()).unwrap();
    let recipe = format!(
        "{RECIPE}\n[[data.dpo]]\nname = \"pairs\"\npath = \"pairs.jsonl\"\n\n[dpo]\nbatch_tokens = 512\nmicro_batch = 2\n"
    );
    fs::write(folder.join("dpo.toml"), recipe).unwrap();
    let shown = run(folder, &["data", "inspect", "dpo.toml", "--stage", "dpo"]).succeeded().stdout;
    for part in [
        "── pair 1, chosen: ",
        "⟦It is here.‹</s>›⟧",
        "── pair 1, rejected: ",
        "⟦No.‹</s>›⟧",
        "8 rows: ",
        "tokens of a prompt: ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    run(folder, &["data", "inspect", "tiny.toml", "--stage", "dpo"]).refused(&["dpo", "[[data.dpo]]"]);
    // Conversations alone are enough where there is a tokenizer; what text has to do with them is said where there is none.
    fs::remove_file(folder.join("text.jsonl")).unwrap();
    fs::remove_dir_all(folder.join("run/base")).unwrap();
    run(folder, &["data", "inspect", "tiny.toml"]).succeeded();
    let named = ["text.jsonl", "does not exist", "there is no new/tokenizer.json yet, which is learned from it"];
    run(folder, &["data", "inspect", "tiny.toml", "--set", "run.dir=new"]).refused(&named);
    run(folder, &["data", "inspect", "nowhere.toml"]).refused(&["nowhere.toml"]);
}
