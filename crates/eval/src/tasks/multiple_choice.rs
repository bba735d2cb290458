//! Records of tasks whose answers are given: a question, and what may follow.
//!
//! Beside the Hub's fields each of these also reads records that were put into `query`, `choices` and `gold` already, as OLMo's
//! evaluation data is.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::Doc;
use crate::data_folder::{Record, texts};
use crate::error::EvalError;

/// The letters of choices.
const LETTERS: [&str; 5] = ["A", "B", "C", "D", "E"];

/// `hellaswag/hellaswag.yaml` and `utils.py`.
pub(super) fn hellaswag(record: &Record) -> Result<Doc, EvalError> {
    if record.has("gold") {
        return converted(record, |query| query.to_owned());
    }
    let context = format!("{} {}", record.text("ctx_a")?, capitalised(record.text("ctx_b")?));
    let query = without_marks(&format!("{}: {context}", record.text("activity_label")?));
    let choices: Vec<String> = record.texts("endings")?.iter().map(|ending| without_marks(ending)).collect();
    let gold = record.index("label")?;
    checked(record, "label", Doc::ask(query, choices, gold))
}

/// `arc/arc_easy.yaml`.
pub(super) fn arc(record: &Record) -> Result<Doc, EvalError> {
    if record.has("gold") {
        return converted(record, |query| query.to_owned());
    }
    let (choices, gold) = labelled(record)?;
    Ok(Doc::ask(format!("Question: {}\nAnswer:", record.text("question")?), choices, gold))
}

/// `piqa/piqa.yaml`.
pub(super) fn piqa(record: &Record) -> Result<Doc, EvalError> {
    if record.has("gold") {
        return converted(record, |query| query.to_owned());
    }
    let choices = vec![record.text("sol1")?.to_owned(), record.text("sol2")?.to_owned()];
    let doc = Doc::ask(format!("Question: {}\nAnswer:", record.text("goal")?), choices, record.index("label")?);
    checked(record, "label", doc)
}

/// `winogrande/default.yaml` and `preprocess_winogrande.py`: the same end after either beginning.
pub(super) fn winogrande(record: &Record) -> Result<Doc, EvalError> {
    let sentence = record.text("sentence")?;
    let (before, after) = sentence.split_once('_').ok_or_else(|| record.fault("sentence", "a text with a `_`"))?;
    let contexts = vec![format!("{before}{}", record.text("option1")?), format!("{before}{}", record.text("option2")?)];
    let answer = record.index("answer")?;
    let gold = answer.checked_sub(1).filter(|gold| *gold < 2).ok_or_else(|| record.fault("answer", "1 or 2"))?;
    Ok(Doc { contexts, choices: vec![after.trim().to_owned()], gold, subject: None })
}

/// `openbookqa/openbookqa.yaml`.
pub(super) fn openbookqa(record: &Record) -> Result<Doc, EvalError> {
    if record.has("gold") {
        // The harness asks the bare question.
        let bare = |query: &str| {
            let query = query.strip_prefix("Question: ").unwrap_or(query);
            query.strip_suffix("\nAnswer:").unwrap_or(query).to_owned()
        };
        return converted(record, bare);
    }
    let (choices, gold) = labelled(record)?;
    Ok(Doc::ask(record.text("question_stem")?.to_owned(), choices, gold))
}

/// `super_glue/boolq/default.yaml`.
pub(super) fn boolq(record: &Record) -> Result<Doc, EvalError> {
    let answer = record.value.get("answer").or(record.value.get("label"));
    let gold = answer.and_then(|value| value.as_bool().map(usize::from).or_else(|| value.as_u64().map(|n| n as usize)));
    let gold = gold.filter(|gold| *gold < 2).ok_or_else(|| record.fault("answer", "true or false"))?;
    let context = format!("{}\nQuestion: {}?\nAnswer:", record.text("passage")?, record.text("question")?);
    Ok(Doc::ask(context, vec!["no".into(), "yes".into()], gold))
}

/// `lambada/lambada_openai.yaml`: the last word after the others.
pub(super) fn lambada(record: &Record) -> Result<Doc, EvalError> {
    if record.has("query") {
        let word = record.texts("choices")?.into_iter().next().ok_or_else(|| record.fault("choices", "one word"))?;
        return Ok(Doc::ask(record.text("query")?.to_owned(), vec![format!(" {word}")], 0));
    }
    let (before, word) = record.text("text")?.rsplit_once(' ').ok_or_else(|| record.fault("text", "several words"))?;
    Ok(Doc::ask(before.to_owned(), vec![format!(" {word}")], 0))
}

/// `mmlu/default/_default_template_yaml`.
pub(super) fn mmlu(record: &Record) -> Result<Doc, EvalError> {
    let choices = record.texts("choices")?;
    if choices.len() != 4 {
        return Err(record.fault("choices", "a list of four texts"));
    }
    let context = lettered(record.text("question")?.trim(), &choices);
    let doc = Doc {
        subject: record.value.get("subject").and_then(Value::as_str).map(str::to_owned),
        ..Doc::ask(context, LETTERS[..4].iter().map(|letter| (*letter).to_owned()).collect(), record.index("answer")?)
    };
    checked(record, "answer", doc)
}

/// `sciq/sciq.yaml`.
pub(super) fn sciq(record: &Record) -> Result<Doc, EvalError> {
    let choices = ["distractor1", "distractor2", "distractor3", "correct_answer"];
    let choices = choices.iter().map(|field| record.text(field).map(str::to_owned)).collect::<Result<_, _>>()?;
    let support = record.text("support")?.trim_start();
    Ok(Doc::ask(format!("{support}\nQuestion: {}\nAnswer:", record.text("question")?), choices, 3))
}

/// `commonsense_qa/default.yaml`.
pub(super) fn commonsense_qa(record: &Record) -> Result<Doc, EvalError> {
    let (choices, _) = labelled(record)?;
    if choices.len() != LETTERS.len() {
        return Err(record.fault("choices", "a list of five texts"));
    }
    let answer = record.text("answerKey")?;
    let gold = LETTERS.iter().position(|letter| *letter == answer);
    let gold = gold.ok_or_else(|| record.fault("answerKey", "a letter from A to E"))?;
    let context = lettered(&format!("Question: {}", record.text("question")?.trim()), &choices);
    Ok(Doc::ask(context, LETTERS.map(str::to_owned).to_vec(), gold))
}

/// A question, its choices by letter, and what asks for one.
fn lettered(question: &str, choices: &[String]) -> String {
    let mut text = question.to_owned();
    for (letter, choice) in LETTERS.iter().zip(choices) {
        text += &format!("\n{letter}. {choice}");
    }
    text + "\nAnswer:"
}

/// `choices` of the form `{"text": [...], "label": [...]}`, and which of them `answerKey` means.
fn labelled(record: &Record) -> Result<(Vec<String>, usize), EvalError> {
    let fault = || record.fault("choices", "an object of the lists text and label");
    let choices = record.value.get("choices").ok_or_else(fault)?;
    let text = texts(choices.get("text")).ok_or_else(fault)?;
    let labels = texts(choices.get("label")).ok_or_else(fault)?;
    let answer = record.text("answerKey")?.trim_start();
    let gold = labels.iter().position(|label| label == answer).filter(|gold| *gold < text.len());
    Ok((text, gold.ok_or_else(|| record.fault("answerKey", "one of the labels"))?))
}

/// A record in the form `query`, `choices`, `gold`.
fn converted(record: &Record, context: impl Fn(&str) -> String) -> Result<Doc, EvalError> {
    let doc = Doc::ask(context(record.text("query")?), record.texts("choices")?, record.index("gold")?);
    checked(record, "gold", doc)
}

fn checked(record: &Record, field: &'static str, doc: Doc) -> Result<Doc, EvalError> {
    if doc.gold < doc.answers() { Ok(doc) } else { Err(record.fault(field, "the number of a choice")) }
}

/// Without what WikiHow's pages left in the text.
fn without_marks(text: &str) -> String {
    static MARK: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[.*?\]").ok());
    let text = text.trim().replace(" [title]", ". ");
    let text = MARK.as_ref().map_or(text.clone(), |mark| mark.replace_all(&text, "").into_owned());
    text.replace("  ", " ")
}

/// The first letter large, all others small, as Python's `capitalize`.
fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect(),
        None => String::new(),
    }
}
