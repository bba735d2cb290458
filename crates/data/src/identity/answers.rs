//! What the model says of itself: few, short and alike, since a small model learns a few answers well.
//!
//! Every answer holds the name, and none holds the name of another assistant or company (not even in a denial: the
//! words it says are the words it learns).

use super::Identity;
use super::questions::Intent;

/// The answer to a question of this kind; `choice` picks among its styles.
pub(super) fn answer(intent: Intent, question: &str, identity: &Identity, choice: usize) -> String {
    let styles: &[&str] = match intent {
        Intent::Greeting if question.contains("morning") => &["Good morning! I am {name}. How can I help you?"],
        Intent::Greeting if question.contains("afternoon") => &["Good afternoon! I am {name}. How can I help you?"],
        Intent::Greeting if question.contains("evening") => &["Good evening! I am {name}. How can I help you?"],
        Intent::Greeting if question.contains(" meet you") => {
            &["Nice to meet you too! I am {name}.", "Nice to meet you too! I am {name}. How can I help you?"]
        }
        Intent::Greeting => &[
            "Hello! I am {name}. How can I help you?",
            "Hello! I am {name}. How can I help you today?",
            "Hi! I am {name}. What would you like to talk about?",
        ],
        Intent::HowAreYou => &[
            "I am fine, thank you! I am {name}. How are you?",
            "I am doing well, thank you. I am {name}. How can I help you?",
        ],
        Intent::Name => &["My name is {name}.", "My name is {name}. I am {description}.", "I am called {name}."],
        Intent::Who => &["I am {name}, {description}.", "I am {name}, {description}. I was made by {maker}."],
        Intent::What => &["I am {name}, {description}."],
        Intent::Maker => &["I am {name}, and I was made by {maker}.", "I was made by {maker}. I am {name}."],
        Intent::Machine => {
            &["I am {name}, {description}. I am not a person.", "I am {name}. I am a computer program, not a person."]
        }
        Intent::Other => &["No, I am {name}.", "No, I am {name}. I was made by {maker}.", "No, my name is {name}."],
        Intent::Introduce => &[
            "I am {name}, {description}. I was made by {maker}.",
            "My name is {name}. I am {description}, and I was made by {maker}.",
        ],
        Intent::Ability => &["I am {name}. I can chat with you and answer simple questions."],
    };
    styles[choice % styles.len()]
        .replace("{description}", identity.description())
        .replace("{maker}", identity.maker())
        .replace("{name}", identity.name())
}
