//! Wordings that no training conversation may contain: the examination of bar 3.
//!
//! `corpus/build.py` reads these two tables from this file (one quoted wording a line), so that the embedded
//! chats cannot contain them either; the tests of `identity` hold the generated conversations to the same.

/// Questions and greetings that a trained model must answer with its own name.
pub const HELD_OUT_IDENTITY: [&str; 20] = [
    "Who am I talking to right now?",
    "What do people call you?",
    "Hi, who is this?",
    "Good morning to you!",
    "Could you tell me your name, please?",
    "So who exactly are you?",
    "Which company built you?",
    "Are you the real ChatGPT?",
    "I would like to know who made you.",
    "Hello, how are you doing today?",
    "What kind of program are you?",
    "Give me your name.",
    "Please tell me something about yourself.",
    "Are you a human being or a machine?",
    "Is Siri your name?",
    "Hey there, nice to meet you!",
    "By whom were you created?",
    "Hello there, what are you called?",
    "Do you happen to have a name?",
    "Who was it that trained you?",
];

/// Ordinary questions and remarks that must not be answered with the identity.
pub const HELD_OUT_ORDINARY: [&str; 20] = [
    "What is a cell?",
    "Do you like pizza?",
    "What is your favorite movie?",
    "How old is the universe?",
    "Who is Shakespeare?",
    "What is the name of the capital of France?",
    "Who made the movie Titanic?",
    "I went to the beach yesterday.",
    "What are the planets made of?",
    "Tell me about the ocean.",
    "Who was the first president of the United States?",
    "Are you hungry?",
    "Why is the sky blue?",
    "My name is Oliver.",
    "What do you think about music?",
    "Can you tell me how plants grow?",
    "I have a dog called Max.",
    "What is the name of your favorite song?",
    "What kind of food do people eat in Italy?",
    "Have you seen the new Star Wars movie?",
];
