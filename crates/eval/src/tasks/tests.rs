//! Prompts as `lm_eval --log_samples` writes them for the same records.

use super::*;
use serde_json::{Value, json};
use std::path::PathBuf;

fn record(value: Value) -> Record {
    Record { task: "a task", path: PathBuf::from("file.jsonl"), number: 3, value }
}

fn doc(task: Task, value: Value) -> Doc {
    task.read(&record(value)).unwrap()
}

fn ask(context: &str, choices: &[&str], gold: usize) -> Doc {
    Doc::ask(context.into(), choices.iter().map(|c| (*c).to_owned()).collect(), gold)
}

#[test]
fn hellaswag_is_rid_of_marks_and_begins_its_sentence() {
    let value = json!({
        "activity_label": "Home and Garden", "ctx_a": "[header] How to dry [title] Wait. [step] Then", "ctx_b": "the MAN",
        "endings": [" [substeps] walks.", "runs [title] Fast  now", "c", "d"], "label": "1",
    });
    let expected = ask(
        "Home and Garden: How to dry. Wait. Then The man",
        // A mark at the beginning leaves its space behind.
        &[" walks.", "runs. Fast now", "c", "d"],
        1,
    );
    assert_eq!(doc(Task::HellaSwag, value), expected);
}

#[test]
fn questions_with_labelled_choices() {
    let choices = json!({"text": ["one", "two", "three"], "label": ["1", "2", "3"]});
    let value = json!({"question": "How many?", "choices": choices, "answerKey": "2"});
    let expected = ask("Question: How many?\nAnswer:", &["one", "two", "three"], 1);
    assert_eq!(doc(Task::ArcEasy, value), expected);
    let converted = json!({"query": "Question: How many?\nAnswer:", "choices": ["one", "two", "three"], "gold": 1});
    assert_eq!(doc(Task::ArcChallenge, converted.clone()), expected);
    // OpenBookQA's question stands bare.
    let bare = ask("How many?", &["one", "two", "three"], 1);
    assert_eq!(doc(Task::OpenBookQa, converted), bare);
    let value = json!({"question_stem": "How many?", "choices": choices, "answerKey": " 2"});
    assert_eq!(doc(Task::OpenBookQa, value), bare);
    let choices = json!({"text": ["a", "b", "c", "d", "e"], "label": ["A", "B", "C", "D", "E"]});
    let value = json!({"question": " Which? ", "choices": choices, "answerKey": "E"});
    let text = "Question: Which?\nA. a\nB. b\nC. c\nD. d\nE. e\nAnswer:";
    assert_eq!(doc(Task::CommonsenseQa, value), ask(text, &["A", "B", "C", "D", "E"], 4));
}

#[test]
fn the_other_questions() {
    let value = json!({"goal": "Boil an egg", "sol1": "Heat water.", "sol2": "Sing.", "label": 0});
    assert_eq!(doc(Task::Piqa, value), ask("Question: Boil an egg\nAnswer:", &["Heat water.", "Sing."], 0));
    let value = json!({"passage": "P.", "question": "is it", "answer": true});
    let expected = ask("P.\nQuestion: is it?\nAnswer:", &["no", "yes"], 1);
    assert_eq!(doc(Task::BoolQ, value), expected);
    assert_eq!(doc(Task::BoolQ, json!({"passage": "P.", "question": "is it", "label": 1})), expected);
    let value = json!({
        "support": " S.", "question": "Who?", "distractor1": "a", "distractor2": "b", "distractor3": "c", "correct_answer": "d",
    });
    assert_eq!(doc(Task::SciQ, value), ask("S.\nQuestion: Who?\nAnswer:", &["a", "b", "c", "d"], 3));
    let value = json!({"subject": "us_law", "question": " Q? ", "choices": ["w", "x", "y", "z"], "answer": 2});
    let expected = ask("Q?\nA. w\nB. x\nC. y\nD. z\nAnswer:", &["A", "B", "C", "D"], 2);
    assert_eq!(doc(Task::Mmlu, value), Doc { subject: Some("us_law".into()), ..expected });
}

#[test]
fn a_word_after_a_context_and_an_end_after_either_beginning() {
    let expected = ask("He saw the", &[" signs"], 0);
    assert_eq!(doc(Task::Lambada, json!({"text": "He saw the signs"})), expected);
    assert_eq!(doc(Task::Lambada, json!({"query": "He saw the", "choices": ["signs"]})), expected);
    let value = json!({"sentence": "Ann met Eve and _ left.", "option1": "Ann", "option2": "Eve", "answer": "2"});
    let found = doc(Task::WinoGrande, value);
    assert_eq!(found.contexts, ["Ann met Eve and Ann", "Ann met Eve and Eve"]);
    assert_eq!((found.choices.as_slice(), found.gold, found.answers()), (&["left.".to_owned()][..], 1, 2));
    assert_eq!(found.shown(), "Ann met Eve and Eve left.\n\n");
}

#[test]
fn numbers_are_taken_from_an_answer_as_the_harness_does() {
    let right = "He has 3.\n#### 1,200";
    let [strict, flexible] = extracted("So 12 * 100 = $1,200.\n#### 1200\n\nIs 7");
    assert_eq!((strict.as_str(), flexible.as_str()), ("1200", "7"));
    assert!(grades(&strict, right) && !grades(&flexible, right));
    let [strict, flexible] = extracted("It is $1,200.");
    assert_eq!((strict.as_str(), flexible.as_str()), ("[invalid]", "$1,200."));
    assert!(!grades(&strict, right) && grades(&flexible, right));
}

#[test]
fn a_record_that_is_not_as_it_should_be_is_named_with_its_field() {
    let cases = [
        (
            Task::HellaSwag,
            json!({"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d"], "label": ""}),
            "`label`",
        ),
        (
            Task::HellaSwag,
            json!({"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d"], "label": "1"}),
            "`label`",
        ),
        (
            Task::HellaSwag,
            json!({"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": [], "label": "0"}),
            "`endings`",
        ),
        (Task::Piqa, json!({"query": "q", "choices": [], "gold": 0}), "`choices`"),
        (
            Task::ArcEasy,
            json!({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"}),
            "`answerKey`",
        ),
        (Task::ArcEasy, json!({"question": "q", "choices": ["a"], "answerKey": "B"}), "`choices`"),
        (Task::Mmlu, json!({"question": "q", "choices": ["a", "b"], "answer": 0}), "`choices`"),
        (Task::WinoGrande, json!({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"}), "`sentence`"),
        (Task::WinoGrande, json!({"sentence": "_", "option1": "a", "option2": "b", "answer": "0"}), "`answer`"),
        (Task::Lambada, json!({"text": "word"}), "`text`"),
        (Task::BoolQ, json!({"passage": "p", "question": "q", "answer": "maybe"}), "`answer`"),
        (Task::Gsm8k, json!([1]), "`question`"),
    ];
    for (task, value, field) in cases {
        let error = task.read(&record(value)).unwrap_err().to_string();
        assert!(error.contains("file.jsonl: record 3") && error.contains(field), "{error}");
    }
}

#[test]
fn names_are_found_and_unknown_ones_answered_with_all() {
    assert_eq!(Task::parse("arc_easy").unwrap(), Task::ArcEasy);
    let error = Task::parse("arc").unwrap_err().to_string();
    assert!(error.contains("`arc`") && Task::ALL.iter().all(|task| error.contains(task.facts().name)), "{error}");
}
