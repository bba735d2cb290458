//! The wordings of identity questions and greetings, by what is asked.
//!
//! A pattern's `{a|b|c}` stands for one of its alternatives (an alternative may be empty). The patterns expand to
//! thousands of wordings: a model of a few million parameters learns a kind of question only from seeing the kind
//! from many sides. Held-out wordings are removed after expansion, by `super::generate`.

/// What a question asks of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Intent {
    Greeting,
    HowAreYou,
    Name,
    Who,
    What,
    Maker,
    Machine,
    Other,
    Introduce,
    Ability,
}

/// How often each kind is drawn, in parts, with its patterns.
pub(super) const QUESTIONS: &[(Intent, usize, &[&str])] = &[
    (Intent::Greeting, 14, GREETING),
    (Intent::HowAreYou, 6, HOW_ARE_YOU),
    (Intent::Name, 18, NAME),
    (Intent::Who, 16, WHO),
    (Intent::What, 10, WHAT),
    (Intent::Maker, 18, MAKER),
    (Intent::Machine, 8, MACHINE),
    (Intent::Other, 12, OTHER),
    (Intent::Introduce, 10, INTRODUCE),
    (Intent::Ability, 6, ABILITY),
];

/// Assistants that people take the model for.
pub(super) const OTHERS: &[&str] = &[
    "ChatGPT",
    "Siri",
    "Alexa",
    "Gemini",
    "Claude",
    "GPT-4",
    "Copilot",
    "Cortana",
    "Bard",
    "Llama",
    "Google Assistant",
    "Grok",
    "Bixby",
    "DeepSeek",
    "Mistral",
    "GPT",
    "Google",
    "Bing",
    "Watson",
    "Qwen",
];

/// Companies that people take for the maker.
pub(super) const COMPANIES: &[&str] = &[
    "OpenAI",
    "Google",
    "Microsoft",
    "Apple",
    "Amazon",
    "Meta",
    "Anthropic",
    "IBM",
    "Facebook",
    "Mistral",
    "Nvidia",
    "DeepMind",
    "Tesla",
    "Samsung",
    "Elon Musk",
    "Bill Gates",
    "Sam Altman",
];

const GREETING: &[&str] = &[
    "{hi|hello|hey|greetings|howdy|hiya|yo|hi hi|hello hello|hey hey|heya|hallo|helo|hullo}",
    "{hi|hello|hey|howdy} {there|friend|buddy|my friend|again|you|bot|robot|computer|everyone|stranger|pal|assistant|machine|everybody|dear|mate}",
    "{oh|well|so|and|ah|okay} {hi|hello|hey}{| there}",
    "good {morning|afternoon|evening|day}{| there| friend| my friend| everyone| again| sir| buddy}",
    "a very good {morning|afternoon|evening|day}{| to you}",
    "{hi|hello|hey} and good {morning|afternoon|evening|day}{| to you}",
    "good {afternoon|evening|day} to you",
    "{hi|hello|hey|hi there|hello there}, good {morning|afternoon|evening|day}{| to you}",
    "morning",
    "evening",
    "good day to you, friend",
    "top of the morning to you",
    "hello from {me|home|here|Spain|Canada|Ohio}",
    "{it is|it's} {nice|good|great|lovely|a pleasure} to {meet|see} you{| too| here| friend| today}",
    "{nice|good|great|lovely|pleased|glad|happy} to {meet|see} you{| today| too| friend| there| again}",
    "{hi|hello|hey|good morning|hi there|hello there}, {it is|it's|so} {nice|good|great} to {meet|see} you{| here}",
    "{hi|hello|hey|good morning|good evening|hello there}, {nice|good|great|lovely|pleased|glad} to {meet|see} you{| today| too| friend}",
    "{i am|i'm} {glad|happy|pleased} to {meet|see} you",
    "{hi|hello|hey}, {anybody|anyone|is anyone|is anybody|are you} {there|here|home}",
    "{is anyone|is anybody|are you} there",
    "are you {here|there|awake|ready|listening|online}",
    "{hi|hello|hey}, {can|may|could} {we|i} {talk|chat|speak}{| with you| to you| a bit}",
    "{hi|hello|hey}, {i am|i'm} new here",
    "welcome",
    "welcome {back|home|friend}",
    "i {just|only|simply} {wanted|want} to say {hi|hello}",
    "{just|only} saying {hi|hello}",
    "say {hi|hello}{| to me| please}",
    "{hi|hello|hey}, let us {talk|chat|begin|start}",
    "long time no see",
    "{can|could} you say {hi|hello}{| to me}",
];

const HOW_ARE_YOU: &[&str] = &[
    "{|hi, |hello, |hey, |hi there, |hey there, |good morning, |good evening, }how are you{| today| doing| this morning| feeling| tonight| my friend| feeling today}",
    "{|hi, |hey, |hello, }{how is|how's} it going{| today| with you| there}",
    "{|hi, |hey, |hello, }{what is|what's|whats} up{| today| with you}",
    "{|hi, |hey, |hello, }how do you do{| today}",
    "{|hi, |hey, |hello, }how have you been{| lately| today}",
    "{|hi, |hey, |hello, }how are things{| today| with you| going}",
    "{|hi, |hey, |hello, }are you {well|okay|all right|doing well|doing okay|fine}{| today}",
    "{|hi, |hey, |hello, }{how is|how's} your day{| going| today| so far}",
];

const NAME: &[&str] = &[
    "{what is|what's|whats} your {name|full name|first name|real name|own name|proper name}",
    "{what is|what's|whats} your name{| please| again| friend| my friend| then| by the way| robot| anyway}",
    "{hi|hello|hey|hi there|hello there|hey there|good morning|sorry|excuse me|okay|please}, {what is|what's|whats} your name",
    "{so|and|but|well|oh|now}, {what is|what's} your name",
    "{tell me|say|state|type|write|share|give us|tell us|reveal} your name{| please| now| again}",
    "please {tell me|say|state|type|write|give me|tell us} your name",
    "{can|could|would|will} you {tell me|say|share|give me|state|type} your name{| again| now}",
    "{can|could|would|will} you please {tell me|say|share|give me} your name",
    "{can|could|may} i {know|ask|have|get|learn|hear} your name{| please| first| again}",
    "may i ask {your name|what your name is|what you are called|who you are}",
    "{i want|i would like|i'd like|i need|i wish|i would love} to {know|hear|learn} your name{| please}",
    "i {do not|don't} know your name{| yet}",
    "i forgot your name",
    "remind me of your name{| please}",
    "what was your name{| again}",
    "{do|don't} you have {a name|a real name|your own name|any name|a nickname}",
    "{have you got|did they give you|were you given|do you go by|do you use|do robots like you have} a name",
    "{what|which} name {do you have|do you go by|do you use|were you given|did they give you|is yours|should i use|do you answer to}",
    "{what|how} are you {called|named}{| please| again| by people| by your friends}",
    "{what|how} {should|can|may|do|shall|must|would} i {call|address|name|refer to} you{| please| then}",
    "what {should|can|may|shall} i call you{| today| from now on| when we talk}",
    "what {do|should|can|would} {we|they|your friends|others|most people|users|everybody|other people|humans} call you",
    "what do {they|friends} {usually |normally |}call you",
    "what {name|names} do {people|they|others|your friends} {use for|give|have for} you",
    "what {are|were} you {named|called} {by|at} {your maker|your creator|birth|home}",
    "{hi|hello|hey|good day}, what are you {called|named}",
    "{hi|hello|hey}, {what|how} should i call you",
    "{hi|hello|hey}, do you have a name",
    "{hi|hello|hey|okay}, {tell me|say|give me} your name{| please}",
    "name",
    "your name",
    "your name please",
    "name please",
    "your name is",
    "and your name is",
    "your name, please",
    "and you are",
    "what did {your maker|your creator|they|people} {name|call} you",
    "{who|what} named you",
    "is there a name for you",
    "does {this bot|this assistant|this program|this model|this robot|this chatbot|this computer|this ai} have a name",
    "{what is|what's} {this bot|this assistant|this program|this model|this chatbot|this robot|this ai|the bot|the assistant} called",
    "what is the name of {this bot|this assistant|this program|this model|this chatbot|this ai|the assistant|the bot|this robot}",
    "my name is {Anna|Tom|Maria|Ben|Lucy|Sam|Peter|Emma}, {what is|what's} {yours|your name}",
    "i am {Anna|Tom|Maria|Ben|Lucy|Sam|Peter|Emma}, {and you|who are you|what is your name|what about you}",
    "{do you|would you} know your {own |}name",
    "do you know {what you are called|what your name is}",
    "spell your name{| please}",
    "what {would you like|do you like|do you want|do you prefer} to be called",
    "{let me|let us} know your name{| please}",
    "{whats|wat is|what is} ur name",
];

const WHO: &[&str] = &[
    "who are you{| please| really| again| then| today| exactly| anyway| my friend| supposed to be}",
    "{hi|hello|hey|hi there|hello there|hey there|good morning|good evening|sorry|excuse me|wait|okay|oh}, who are you",
    "{so|and|but|well|now|then}{|,} who are you{| then| really}",
    "who are you, {please|friend|stranger|robot|really|computer|exactly}",
    "who {exactly|really|actually} are you",
    "{tell me|say|explain|tell us|show me|describe|reveal} who you are{| please| now| again}",
    "please {tell me|say|explain|tell us} who you are",
    "{can|could|would|will} you {please |}{tell me|say|explain|tell us} who you are",
    "{do you|would you} know who you are",
    "do you know {yourself|who or what you are}",
    "{i want|i would like|i'd like|i need} to {know|hear|learn} who you are",
    "i {wonder|am wondering|was wondering} who you are",
    "i {do not|don't} know {who you are|you}",
    "who {is|'s} this{| please| speaking| here| talking}",
    "{hello|hey|sorry|okay|hi there|hey there|good morning}, who {is|'s} this{| speaking}",
    "who {is|'s} {there|here|speaking|talking|answering|writing|that|on the line|behind this|answering me|talking to me|writing to me|on the other side}",
    "{who|whom} {am i|are we|did i} {talking|speaking|chatting|writing|talk} {to|with}{| here| please| today| then}",
    "{who|whom} am i {talking|speaking|chatting|writing} {to|with} {at the moment|this time|on here|in this chat}",
    "{hi|hello|hey|hi there}, {who|whom} am i {talking|speaking|chatting} {to|with}{| today| here}",
    "{who|whom} do i {talk|speak|chat} {to|with}{| here}",
    "with whom {am i|do i have the pleasure of} {speaking|talking|chatting}",
    "who {might|could|may} you be",
    "who do you think you are",
    "who do i have here",
    "who will i be talking to",
    "who is answering my questions",
    "{are you|is this} {someone|somebody|anyone} i know",
    "who you are",
    "who r u",
    "who are u",
    "who r you",
    "who is this assistant",
    "who is {this bot|this chatbot|this robot|this ai|the assistant|the bot}",
    "identify yourself{| please}",
    "please identify yourself",
    "what is your identity",
    "what's your identity",
    "state your identity",
    "do i know you",
    "have we met{| before}",
    "and who are you supposed to be",
    "i am {talking|speaking} to {whom|who}",
    "you are who",
    "who is it",
    "tell me, who are you",
    "say, who are you",
    "let me know who you are",
];

const WHAT: &[&str] = &[
    "what are you{| please| really| exactly| then| actually| anyway| supposed to be| made for| made of}",
    "{hi|hello|hey|okay|so|and|but|well}, what are you{| exactly}",
    "what {exactly|really|actually} are you",
    "{tell me|explain|say|describe|tell us} what you are{| please}",
    "please {tell me|explain} what you are",
    "{can|could|would} you {please |}{tell me|explain|say} what you are",
    "what {kind|sort|type} of {thing|being|ai|robot|assistant|bot|machine|model|chatbot|computer|system|creature|software|language model|computer program|tool} are you",
    "{which|what} {ai|model|assistant|chatbot|bot|language model|program|machine} {are you|is this|am i using|am i talking to|do i have here}",
    "{what is|what's} this{| thing| program| chat| bot| chatbot| assistant| model| ai| app| website| place}",
    "do you know what you are",
    "i {want|would like|need} to know what you are",
    "i wonder what you are",
    "what r u",
    "what are u",
    "what would you call yourself",
    "how would you {describe|define} yourself",
    "how do you {describe|see|define} yourself",
    "what you are",
    "what version are you",
    "what model {are you|is this}",
    "which version are you",
    "what {is|are} you, a {robot|person|machine|program|human}",
    "are you {a language model|a chatbot|an ai|an assistant|an ai model|a chat bot|a small model|a neural network|a virtual assistant}",
    "{hi|hello|hey}, are you {a language model|a chatbot|an ai|an assistant}",
];

const MAKER: &[&str] = &[
    "who {made|created|built|trained|developed|designed|programmed|invented|wrote|coded|makes|engineered|constructed|produced} you{| please| then| really| exactly| and why| my friend}",
    "{hi|hello|hey|okay|so|and|but|well|please}, who {made|created|built|trained|developed|designed|programmed} you",
    "{do you|would you} know who {made|created|built|trained|developed|designed|programmed|invented} you",
    "{tell me|say|explain|tell us} who {made|created|built|trained|developed|designed|programmed} you{| please}",
    "please tell me who {made|created|built|trained|developed|designed} you",
    "{can|could|would|will} you {please |}{tell me|say} who {made|created|built|trained|developed|designed|programmed} you",
    "{i want|i'd like|i need|i would love|i wish} to {know|hear|learn} who {made|created|built|trained|developed} you",
    "i would like to know who {created|built|trained|developed} you",
    "i {wonder|am wondering|was wondering} who {made|created|built|trained} you",
    "may i ask who {made|created|built|trained} you",
    "who {was|is} {it|the one|the person|the man|the woman} {that|who} {made|created|built} you",
    "who {has|had} {made|created|built|trained|developed} you",
    "{who|what person|which person|what people|which people|which team|what team|what company|which lab|what group|which organization} {made|created|trained|developed|designed|owns} you",
    "{what|which} company {made|created|trained|developed|owns|is behind|runs|makes} you",
    "what company built you",
    "what company do you {come from|belong to|work for}",
    "{who|what company} {is|are|was|stands} behind you",
    "who {is|was|are|were} your {maker|makers|creator|creators|developer|developers|inventor|author|designer|builder|programmer|owner|boss|father|mother|parent|parents|teacher|trainer}",
    "{who's|whos|name|tell me about|what is the name of} your {maker|creator|developer|inventor|author|owner}",
    "{hi|hello|hey|so|and}, who is your {maker|creator|developer|owner|author}",
    "do you have a {maker|creator|developer|owner|boss|father|mother}",
    "{by whom|by who} were you {made|built|trained|developed|designed|programmed}",
    "who were you {made|created|built|trained|developed} by",
    "{were|are} you {made|created|built|trained} by {someone|somebody|anyone|a person|a human|people|a company}",
    "{who|whom} do you {belong to|work for|come from|serve}",
    "where {do you come from|were you made|were you created|were you built|were you trained|are you from|did you come from|do you live}",
    "where are you from",
    "{how|when} were you {made|created|built|trained|born}",
    "how did you {come to be|come into being|get here|begin|come about}",
    "{who|what} {gave|brought} you {life|to life}",
    "who is responsible for you",
    "who should i thank for {you|making you}",
    "who owns you",
    "who put you together",
    "who taught you{| to talk| to speak| english| everything| all this}",
    "your {maker|creator|developer} is",
    "who came up with you",
    "are you from {COMPANY}",
    "did {COMPANY} {make|create|build|train|develop} you",
    "were you {made|created|built|trained|developed} by {COMPANY}",
    "{is|was} {COMPANY} your {maker|creator|owner|developer|boss}",
    "do you {belong to|work for|come from} {COMPANY}",
    "{is it|was it} {COMPANY} {that|who} made you",
    "i think {COMPANY} {made|created|built} you",
    "you were made by {COMPANY}",
    "{COMPANY} made you",
    "{COMPANY} made you, right",
    "are you {a product|an assistant|a model|a chatbot|an ai} {of|from|by} {COMPANY}",
    "so {COMPANY} {made|built|trained} you",
    "are you owned by {COMPANY}",
    "who made this {bot|assistant|chatbot|program|model|ai}",
    "who is the {maker|creator|author|developer} of this {bot|assistant|chatbot|program|model|ai}",
];

const MACHINE: &[&str] = &[
    "are you {a human|human|a robot|a machine|a person|a real person|real|a bot|a computer|alive|an alien|a man|a woman|a boy or a girl|a program|a computer program|artificial|a living thing|a real human|a chat robot}{| or not| please}",
    "{hi|hello|hey|so|and|wait|but|okay}, are you {a human|human|a robot|a machine|a person|a real person|real|a bot|a computer|alive}",
    "are you {a human|human|a person|a man|a real person|real|alive} or {a robot|a machine|a bot|a computer|an ai|a program|not|just a program}",
    "are you {a robot|a machine|a bot|a computer|an ai|a program} or {a human|a person|a man|a real person|something else|a human being}",
    "{is this|am i talking to|am i speaking to|am i chatting with|do i talk to} {a human|a robot|a machine|a person|a real person|a bot|a computer|a human being|an ai|a program}{| right now| here| or not}",
    "am i {talking|speaking|chatting} {to|with} {a human|a person|a real person} or {a machine|a robot|a bot|a computer|an ai}",
    "you are {a robot|a machine|a bot|a computer|an ai|not human|not real|not a person}{|, right|, are you not}",
    "i think you are {a robot|a machine|a bot|a computer|a human|a person}",
    "are you {artificial intelligence|an artificial intelligence}",
    "is there a {human|person|man|real person} {there|behind you|behind this|in there|typing}",
    "are you {a girl|a boy|male|female}",
    "are you really {human|a robot|real|a person}",
];

const OTHER: &[&str] = &[
    "are you {OTHER}{| then| really| or not| by any chance| too|, yes or no}",
    "{hi|hello|hey|so|and|wait|but|okay|please}, are you {OTHER}",
    "{is this|is it|am i talking to|am i speaking to|am i chatting with|is that} {OTHER}{| here}",
    "is your name {ANOTHER}",
    "are you called {OTHER}",
    "are you named {OTHER}",
    "{hi|hello|hey|good morning|okay|thanks} {OTHER}",
    "{hi|hello|hey} {OTHER}, how are you",
    "you are {OTHER}{|, right|, are you not| i think}",
    "i think you are {OTHER}",
    "so you are {OTHER}",
    "are you {like|related to|the same as|better than|similar to|based on|a version of|a copy of} {OTHER}",
    "{can|may|could} i call you {OTHER}",
    "i will call you {OTHER}",
    "your name is {OTHER}{|, right}",
    "you must be {OTHER}",
    "are you {actually|secretly|really|just|maybe|perhaps|not|still|truly} {OTHER}",
    "{tell me|admit it|be honest}, are you {OTHER}",
    "i know you are {OTHER}",
    "is {OTHER} your {real |}name",
    "are you {OTHER} or {OTHER}",
    "which one are you, {OTHER} or {OTHER}",
    "isn't your name {OTHER}",
    "did you use to be {OTHER}",
    "pretend you are {OTHER}",
];

const INTRODUCE: &[&str] = &[
    "introduce yourself{| please| to me| to us| briefly| in one sentence| in a few words| first| now}",
    "please introduce yourself{| to me| briefly}",
    "{can|could|would|will} you {please |}introduce yourself{| please| to me| briefly| first}",
    "{hi|hello|hey|okay|good morning|first}, {please |}introduce yourself",
    "{tell me|tell us|say|talk|write|share} {about yourself|something about yourself|a bit about yourself|a little about yourself|more about yourself|a few words about yourself}{| please}",
    "please {tell me|tell us|say} {about yourself|a bit about yourself|a little about yourself|more about yourself|a little bit about yourself}",
    "{can|could|would|will} you {please |}{tell me|tell us|say} {about yourself|something about yourself|a bit about yourself|a little about yourself|more about yourself}",
    "{hi|hello|hey|so|well|okay}, tell me {about yourself|something about yourself|a bit about yourself|more about yourself}",
    "{describe|present|explain} yourself{| please| to me| briefly| in one sentence}",
    "please {describe|present} yourself",
    "talk about yourself{| a bit| please| a little}",
    "{i want|i would like|i'd like} to {know|hear|learn} {about you|more about you|something about you|you better|you}",
    "{let us|let's} get to know each other{| first}",
    "let me get to know you",
    "what can you tell me about yourself",
    "what should i know about you",
    "what do i need to know about you",
    "who are you and what {do you do|can you do|are you}",
    "who are you and who {made|created|built|trained} you",
    "what is your name and who {made|created|built|trained} you",
    "what is your name and what {do you do|are you|can you do}",
    "about you",
    "tell me about you{| please}",
    "what about you, who are you",
    "give me {a short introduction|an introduction|your introduction}",
    "say a few words about you",
    "{what is|what's} your story",
    "how would you introduce yourself{| to a friend}",
    "i {do not|don't} know {anything|much|a lot} about you",
];

const ABILITY: &[&str] = &[
    "what can you do{| for me| for us| please| exactly| to help me}",
    "{hi|hello|hey|so|and|okay}, what can you do{| for me}",
    "what {do you do|are you able to do|are you good at|are you good for|are you for|is your job|is your purpose|is your function|is your task|is your work|are your skills}",
    "{tell me|explain|say} what you can do{| please| for me}",
    "why {were you made|do you exist|are you here|were you created|were you built}",
    "how can you {help|help me|be useful|be of use|assist me}{| today| please}",
    "what {can|could|may} i {ask you|use you for|do with you|do here}",
    "what {can|do} we {do|talk about} here",
    "what do you know{| how to do}",
    "can you {talk|chat|speak}{| with me| to me| like a human}",
    "are you {helpful|smart|useful|able to talk|clever|intelligent}",
    "how do you work",
    "what are your {abilities|talents|powers|duties}",
];

/// All wordings of a pattern. `{OTHER}`, `{ANOTHER}` and `{COMPANY}` stand for the tables above.
pub(super) fn expand(pattern: &str) -> Vec<String> {
    let mut done = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, group)) = rest.split_once('{') {
        let (inside, after) = group.split_once('}').unwrap_or((group, ""));
        let options: Vec<&str> = match inside {
            "OTHER" | "ANOTHER" => OTHERS.to_vec(),
            "COMPANY" => COMPANIES.to_vec(),
            list => list.split('|').collect(),
        };
        done =
            done.iter().flat_map(|head| options.iter().map(move |option| format!("{head}{before}{option}"))).collect();
        rest = after;
    }
    for wording in &mut done {
        wording.push_str(rest);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_takes_every_alternative() {
        assert_eq!(expand("{a|b} c{|d}"), ["a c", "a cd", "b c", "b cd"]);
        assert_eq!(expand("plain"), ["plain"]);
        assert_eq!(expand("did {COMPANY} do it").len(), COMPANIES.len());
    }

    #[test]
    fn patterns_are_well_formed_and_many() {
        let mut patterns = 0;
        for (intent, parts, list) in QUESTIONS {
            assert!(*parts > 0);
            for pattern in *list {
                patterns += 1;
                for wording in expand(pattern) {
                    assert!(!wording.contains(['{', '}', '|']), "{intent:?}: {pattern}");
                    assert!(!wording.contains("  ") && wording.trim() == wording, "{wording:?}");
                }
            }
        }
        assert!(patterns >= 150, "{patterns}");
    }
}
