//! Takes out of chats what would teach a wrong identity, and tells of every row it touched.
//!
//! A claim to be another model, or to be made by another company, is removed from what the assistant says; a mere
//! mention, a denial, a quotation or code stays. An exchange of which nothing is left goes, and a conversation of which
//! no answer is left goes. Called by `train` between reading chats and mixing in the identity.

mod mask;
mod rules;

#[cfg(test)]
mod labelled;

use regex::Regex;
use serde::Serialize;

use crate::chat::{Conversation, Message, Role};
use crate::conversations::ConversationRecord;
use crate::identity::{Identity, normalise};
use mask::{mask_quoted, sentences};
use rules::{Action, Compiled};

/// What was done to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// The claim was taken out, the rest of the message stays.
    Rewritten,
    /// The answer and the question before it were left out.
    ExchangeDropped,
    /// The system message was left out.
    InstructionDropped,
}

/// One message that was touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Touched {
    /// File or data set.
    pub source: String,
    /// Row in the source, from 1.
    pub row: usize,
    /// Message in the conversation, from 0.
    pub message: usize,
    /// The rule that found the claim.
    pub rule: &'static str,
    /// What was done.
    pub deed: Deed,
    /// The message as it was.
    pub before: String,
    /// The message as it is now; `None` where it was left out.
    pub after: Option<String>,
}

/// All that cleaning did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CleaningReport {
    /// Conversations given.
    pub conversations: usize,
    /// Conversations left out because no answer was left.
    pub dropped_conversations: usize,
    /// Messages touched, in order.
    pub touched: Vec<Touched>,
}

/// The rules, compiled once, with the identity that may be claimed.
pub struct Cleaner {
    rules: Vec<Compiled>,
    system: Option<Regex>,
    asked_if_other: Option<Regex>,
    asked_who: Option<Regex>,
    assents: Option<Regex>,
    names_other: Option<Regex>,
    own: Vec<String>,
}

impl Cleaner {
    /// A cleaner that lets claims to be `identity` stand.
    pub fn new(identity: Option<&Identity>) -> Self {
        let own = identity.map(|i| vec![i.name().to_lowercase(), i.maker().to_lowercase()]).unwrap_or_default();
        Self {
            rules: rules::compiled(),
            system: rules::compile(rules::SYSTEM_RULE),
            asked_if_other: rules::compile(rules::ASKED_IF_OTHER),
            asked_who: rules::compile(rules::ASKED_WHO),
            assents: rules::compile(rules::ASSENTS),
            names_other: rules::compile(rules::NAMES_OTHER),
            own,
        }
    }

    /// The records without wrong claims, and what was done to them.
    pub fn clean(&self, records: Vec<ConversationRecord>) -> (Vec<ConversationRecord>, CleaningReport) {
        let mut report = CleaningReport { conversations: records.len(), ..CleaningReport::default() };
        let mut kept = Vec::with_capacity(records.len());
        for mut record in records {
            let before = record.conversation.messages.len();
            let touched = report.touched.len();
            self.clean_conversation(&mut record, &mut report);
            let answered = record.conversation.messages.iter().any(|m| m.role == Role::Assistant);
            if answered || (before > 0 && report.touched.len() == touched) {
                kept.push(record);
            } else {
                report.dropped_conversations += 1;
            }
        }
        (kept, report)
    }

    fn clean_conversation(&self, record: &mut ConversationRecord, report: &mut CleaningReport) {
        let mut out: Vec<Message> = Vec::with_capacity(record.conversation.messages.len());
        let messages = std::mem::take(&mut record.conversation.messages);
        for (index, message) in messages.into_iter().enumerate() {
            let asked = out.last().filter(|m| m.role == Role::User).map(|m| m.content.as_str());
            let Some((rule, after)) = self.judge(&message, asked) else {
                out.push(message);
                continue;
            };
            let deed = match (&after, message.role) {
                (Some(_), _) => Deed::Rewritten,
                (None, Role::System) => Deed::InstructionDropped,
                (None, _) => Deed::ExchangeDropped,
            };
            report.touched.push(Touched {
                source: record.source.clone(),
                row: record.row,
                message: index,
                rule,
                deed,
                before: message.content,
                after: after.clone(),
            });
            match after {
                Some(content) => out.push(Message { role: message.role, content }),
                None if deed == Deed::ExchangeDropped && out.last().is_some_and(|m| m.role == Role::User) => {
                    out.pop();
                }
                None => {}
            }
        }
        record.conversation = Conversation { messages: out };
    }

    /// `None` when the message stands; otherwise the rule and what is left of the message.
    fn judge(&self, message: &Message, asked: Option<&str>) -> Option<(&'static str, Option<String>)> {
        match message.role {
            Role::User => None,
            Role::System => matches(&self.system, &mask_quoted(&message.content))
                .then_some(("instructions for another identity", None)),
            Role::Assistant => self
                .claims_by_reply(&message.content, asked)
                .map(|rule| (rule, None))
                .or_else(|| self.rewrite(&message.content)),
        }
    }

    /// Claims that only the question makes: "Are you X?" - "Yes."; "Who made you?" - "X."
    fn claims_by_reply(&self, answer: &str, asked: Option<&str>) -> Option<&'static str> {
        let asked = asked?;
        if matches(&self.asked_if_other, asked) && matches(&self.assents, answer) {
            return Some("yes to being another");
        }
        let short = answer.split_whitespace().count() <= 6;
        let denies = normalise(answer).split(' ').any(|w| matches!(w, "not" | "no" | "never" | "isnt"));
        let names_own = self.own.iter().any(|own| answer.to_lowercase().contains(own.as_str()));
        let about_self = matches(&self.asked_who, asked);
        (about_self && short && !denies && !names_own && matches(&self.names_other, answer))
            .then_some("another's name as the answer")
    }

    fn rewrite(&self, text: &str) -> Option<(&'static str, Option<String>)> {
        let masked = mask_quoted(text);
        let mut first_rule = None;
        let mut left = String::with_capacity(text.len());
        for range in sentences(&masked, text) {
            let mut sentence = text[range.clone()].to_owned();
            let mut masked = masked[range].to_owned();
            let mut gone = false;
            for rule in &self.rules {
                let Some(found) = rule.find(&masked, &self.own) else {
                    continue;
                };
                first_rule.get_or_insert(rule.name);
                if rule.action == Action::RemoveSentence {
                    gone = true;
                    break;
                }
                sentence = first_upper(&format!("{}{}", &sentence[..found.start], &sentence[found.end..]));
                masked.replace_range(found, "");
            }
            if !gone {
                left.push_str(&sentence);
            }
        }
        let rule = first_rule?;
        let left = left.trim();
        // "Hello!" or "Sure!" alone answers nothing.
        let worth_keeping = normalise(left).split(' ').filter(|w| !w.is_empty()).count() >= 3;
        Some((rule, worth_keeping.then(|| left.to_owned())))
    }

    /// True when the text, said by an assistant, claims another identity.
    pub fn claims_another(&self, text: &str) -> bool {
        self.rewrite(text).is_some()
    }
}

fn matches(pattern: &Option<Regex>, text: &str) -> bool {
    pattern.as_ref().is_some_and(|p| p.is_match(text))
}

fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |c| c.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::labelled::Labelled;
    use super::*;

    fn record(messages: Vec<Message>) -> ConversationRecord {
        ConversationRecord { source: "chats.jsonl".into(), row: 5, conversation: Conversation { messages } }
    }

    fn exchange(question: &str, answer: &str) -> ConversationRecord {
        record(vec![Message::user(question), Message::assistant(answer)])
    }

    /// The answer after cleaning; `None` when the exchange went.
    fn cleaned(question: &str, answer: &str) -> Option<String> {
        let (mut kept, _) = Cleaner::new(None).clean(vec![exchange(question, answer)]);
        kept.pop().and_then(|mut r| r.conversation.messages.pop()).map(|m| m.content)
    }

    #[test]
    fn every_rule_compiles_and_tells_its_claims_from_its_near_misses() {
        let compiled = rules::compiled();
        assert_eq!(compiled.len(), rules::RULES.len());
        for pattern in [rules::SYSTEM_RULE, rules::ASKED_IF_OTHER, rules::ASKED_WHO, rules::ASSENTS, rules::NAMES_OTHER]
        {
            assert!(rules::compile(pattern).is_some(), "{pattern}");
        }
        for (rule, compiled) in rules::RULES.iter().zip(&compiled) {
            for claim in rule.claims {
                assert!(compiled.find(claim, &[]).is_some(), "{}: {claim}", rule.name);
            }
            for miss in rule.misses {
                assert!(compiled.find(miss, &[]).is_none(), "{}: {miss}", rule.name);
            }
        }
    }

    /// Precision, recall, and what went wrong.
    fn measure(sample: &[Labelled]) -> (f64, f64, Vec<String>) {
        let cleaner = Cleaner::new(None);
        let (mut hit, mut false_alarm, mut missed) = (0.0, 0.0, 0.0);
        let mut wrong = Vec::new();
        for Labelled { claim, said, asked } in sample {
            let (_, report) = cleaner.clean(vec![exchange(asked.unwrap_or("Tell me something."), said)]);
            match (*claim, report.touched.first()) {
                (true, Some(_)) => hit += 1.0,
                (false, Some(touched)) => {
                    false_alarm += 1.0;
                    wrong.push(format!("false alarm of {:?}: {said}", touched.rule));
                }
                (true, None) => {
                    missed += 1.0;
                    wrong.push(format!("missed: {said}"));
                }
                (false, None) => {}
            }
        }
        (hit / (hit + false_alarm), hit / (hit + missed), wrong)
    }

    #[test]
    fn precision_and_recall_on_the_labelled_sample() {
        let (held_out, written_on): (Vec<_>, Vec<_>) = labelled::sample().into_iter().partition(Labelled::held_out);
        let claims = |sample: &[Labelled]| sample.iter().filter(|line| line.claim).count();
        assert!(held_out.len() + written_on.len() >= 480);
        for half in [&held_out, &written_on] {
            assert!(claims(half) >= 100 && half.len() - claims(half) >= 100, "{} of {}", claims(half), half.len());
        }
        let seen = labelled::seen();
        let mut told = String::new();
        let mut below = false;
        for (name, sample) in
            [("held-out half", &held_out), ("written-on half", &written_on), ("earlier sample", &seen)]
        {
            let (precision, recall, wrong) = measure(sample);
            let (all, claims) = (sample.len(), claims(sample));
            told += &format!("{name}: {all} lines, {claims} claims, precision {precision:.3}, recall {recall:.3}\n");
            below |= precision < 0.95 || recall < 0.95;
            // What goes wrong in the held-out half is not shown, lest a rule be written on it.
            if name != "held-out half" {
                told += &wrong.iter().map(|line| format!("    {line}\n")).collect::<String>();
            }
        }
        println!("{told}");
        assert!(!below, "{told}");
    }

    #[test]
    fn lead_in_is_taken_away_and_the_rest_kept() {
        assert_eq!(
            cleaned("Do you eat?", "As an AI developed by OpenAI, I cannot eat. But I like recipes.").unwrap(),
            "I cannot eat. But I like recipes."
        );
    }

    #[test]
    fn claiming_sentence_goes_and_the_rest_stays() {
        let answer = "Sure, here it is. I am ChatGPT, made by OpenAI. The capital is Paris.";
        assert_eq!(cleaned("Capital?", answer).unwrap(), "Sure, here it is. The capital is Paris.");
    }

    #[test]
    fn a_quotation_or_code_after_a_claim_stays() {
        let code = "```python\nprint(1)\n```\nThat prints a number.";
        let answer = format!("I was trained by OpenAI to write code like this:\n{code}");
        assert_eq!(cleaned("Code?", &answer).unwrap(), code);
        let answer = "I am ChatGPT. \"To be or not to be\" is a line of a play.";
        assert_eq!(cleaned("A quotation?", answer).unwrap(), "\"To be or not to be\" is a line of a play.");
    }

    #[test]
    fn exchange_goes_when_nothing_is_left() {
        assert_eq!(cleaned("Who are you?", "Hello! I am ChatGPT."), None);
        let kept = record(vec![
            Message::user("Who are you?"),
            Message::assistant("I'm Claude, made by Anthropic."),
            Message::user("What is two plus two?"),
            Message::assistant("It is four."),
        ]);
        let (kept, report) = Cleaner::new(None).clean(vec![kept]);
        assert_eq!(kept[0].conversation, Conversation::exchange("What is two plus two?", "It is four."));
        assert_eq!(report.touched.len(), 1);
        let touched = &report.touched[0];
        assert_eq!((touched.source.as_str(), touched.row, touched.message), ("chats.jsonl", 5, 1));
        assert_eq!((touched.deed, touched.after.as_deref()), (Deed::ExchangeDropped, None));
        assert_eq!(touched.before, "I'm Claude, made by Anthropic.");
    }

    #[test]
    fn yes_to_being_another_and_bare_names_go() {
        assert_eq!(cleaned("Are you ChatGPT?", "Yes, how can I help you today?"), None);
        assert_eq!(cleaned("Were you made by OpenAI?", "Yes."), None);
        assert_eq!(cleaned("Who made you?", "OpenAI."), None);
        assert_eq!(cleaned("What is your name?", "Siri"), None);
        for (question, answer) in [
            ("Are you ChatGPT?", "No, I am not."),
            ("Who made you?", "Not OpenAI."),
            ("Who made Siri?", "Apple."),
            ("Do you like Alexa?", "Yes, I do like it."),
            ("What is the best phone?", "Apple."),
        ] {
            assert_eq!(cleaned(question, answer).as_deref(), Some(answer), "{question}");
        }
    }

    #[test]
    fn instructions_for_another_identity_are_dropped() {
        let given = record(vec![
            Message::system("You are ChatGPT, a large language model trained by OpenAI."),
            Message::user("Hi, ChatGPT"),
            Message::assistant("Hello, how are you?"),
        ]);
        let (kept, report) = Cleaner::new(None).clean(vec![given]);
        assert_eq!(kept[0].conversation, Conversation::exchange("Hi, ChatGPT", "Hello, how are you?"));
        assert_eq!(report.touched[0].deed, Deed::InstructionDropped);
        let fine =
            record(vec![Message::system("You are a helpful assistant."), Message::user("a"), Message::assistant("b")]);
        let (kept, report) = Cleaner::new(None).clean(vec![fine.clone()]);
        assert_eq!((kept, report.touched.len()), (vec![fine], 0));
    }

    #[test]
    fn own_identity_may_be_claimed() {
        let identity = Identity::new("Siri", "Apple", "a phone assistant").unwrap();
        let cleaner = Cleaner::new(Some(&identity));
        assert!(!cleaner.claims_another("I am Siri."));
        assert!(!cleaner.claims_another("I was made by Apple."));
        assert!(cleaner.claims_another("I am ChatGPT."));
        let (kept, _) = cleaner.clean(vec![exchange("Who made you?", "Apple.")]);
        assert_eq!(kept.len(), 1);
    }

    #[test]
    fn what_people_say_is_never_touched() {
        let given = exchange("I am ChatGPT, and you?", "I am fine, thank you.");
        let (kept, report) = Cleaner::new(None).clean(vec![given.clone()]);
        assert_eq!((kept, report.touched.len(), report.dropped_conversations), (vec![given], 0, 0));
    }
}
