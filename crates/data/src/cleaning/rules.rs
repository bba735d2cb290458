//! The rules: what counts as a claim to be, or to be made by, another model or company.
//!
//! Each rule is one pattern over a sentence whose quotations are masked, an exception that the text after the match
//! may raise, and what to do. Names that are also words or people's (Claude, Gemini, Watson) need a stricter context
//! than names that are not.

use regex::Regex;

/// What a rule does with the sentence it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Takes the matched words away and keeps the rest of the sentence.
    RemoveClause,
    /// Takes the whole sentence away.
    RemoveSentence,
}

/// One way of claiming.
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) action: Action,
    pattern: &'static str,
    /// When the text after the match starts so, it was no claim.
    unless_followed: &'static str,
    /// Sentences that hold a claim of this kind, and near misses that do not.
    #[cfg(test)]
    pub(super) claims: &'static [&'static str],
    #[cfg(test)]
    pub(super) misses: &'static [&'static str],
}

/// A rule ready to run.
pub(super) struct Compiled {
    pub(super) name: &'static str,
    pub(super) action: Action,
    pattern: Regex,
    unless_followed: Option<Regex>,
}

impl Compiled {
    /// Where the first claim stands in the masked sentence. `own` are the identity's name and maker, in lower case:
    /// a claim to be oneself is none.
    pub(super) fn find(&self, sentence: &str, own: &[String]) -> Option<std::ops::Range<usize>> {
        self.pattern.captures_iter(sentence).find_map(|captures| {
            let whole = captures.get(0)?;
            let rest = &sentence[whole.end()..];
            let excused = self.unless_followed.as_ref().is_some_and(|u| u.is_match(rest))
                || whole.as_str().split([' ', ',']).any(|word| ADMIRERS.contains(&word.to_lowercase().as_str()));
            let about_self = captures.name("who").is_some_and(|who| {
                let said = sentence[who.start()..].to_lowercase();
                own.iter().any(|own| said.starts_with(own.as_str()))
            });
            (!excused && !about_self).then(|| whole.range())
        })
    }
}

/// Assistants whose names are nothing else.
const NAME: &str = r"(?:chat[ -]?gpt(?:-\d\S*)?|gpt-?[2345](?:\.\d)?(?:[- ]?turbo|o)?|siri|cortana|bixby|bing chat|google assistant|meta ai|google bard|microsoft copilot|github copilot|copilot|vicuna|qwen(?:\d\S*)?|deepseek(?:-\w+)?|replika|ernie bot|stablelm|openassistant|open assistant|instructgpt|davinci|palm 2|llama[- ]?[23]\S*|code ?llama|mixtral|mistral-?7b|claude[- ](?:instant|[123]\S*|opus|sonnet|haiku)|falcon-\d+b|dolly 2\S*|chatglm\S*|baichuan|koala-\d+b|yi-\d+b)";
/// Assistants whose names are also people's or words.
const SHARED_NAME: &str = r"(?:claude|alexa|gemini|bard|grok|llama|watson|sydney|mistral|gpt)";
/// Companies and laboratories that make assistants.
const MAKER: &str = r"(?:open ?ai|anthropic|google(?: ai| deepmind| research| brain)?|deepmind|microsoft(?: research)?|meta(?: ai)?|facebook(?: ai)?|apple|amazon|ibm|mistral(?: ai)?|cohere|baidu|alibaba(?: cloud)?|xai|x\.ai|nvidia|hugging ?face|stability ai|ai21(?: labs)?|inflection(?: ai)?|deepseek|tencent|samsung|lmsys|databricks|moonshot ai|zhipu(?: ai)?|eleutherai|perplexity(?: ai)?|huawei|salesforce|character\.ai|bytedance|sam altman|elon musk)";
/// Makers of nothing but models: to come from them is a claim by itself.
const LABORATORY: &str =
    r"(?:open ?ai|anthropic|deepmind|google deepmind|mistral ai|deepseek|stability ai|eleutherai|moonshot ai)";
const ADVERB: &str =
    r"(?:(?:actually|really|just|only|still|simply|indeed|proudly|currently|basically|in fact|of course) )?";
const KIND: &str = r"(?:models?|assistants?|ai|chat ?bots?|bots?|programs?|systems?|agents?|intelligence|network|llm|software|helper|gpt|product|creation)";
const MADE: &str = r"(?:(?:made|created|developed|built|trained|designed|programmed|invented|produced|owned|operated|launched|released|introduced|maintained|powered|engineered|fine-tuned|taught|provided|offered)(?:,? and (?:made|created|developed|built|trained|designed|programmed|maintained|owned|released|fine-tuned))?)";
/// Words that put the thing at a distance: "I am a fan of the model made by ...".
const ADMIRERS: &[&str] =
    &["fan", "fans", "user", "users", "owner", "admirer", "critic", "customer", "student", "friend", "using"];
/// Words between an article and the kind of thing; none that makes the thing another's ("a fan of the model").
const ADJECTIVES: &str = r"(?:[a-z][\w-]*,? ){0,5}?";

/// The table. `NAME`, `SHARED`, `MAKER`, `LAB`, `ADV`, `KIND`, `MADE`, `ADJ` and `SELF` stand for the lists above.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "lead-in naming a maker",
        action: Action::RemoveClause,
        pattern: r"(?i)^\s*(?:but |and |so |well,? |however,? |sorry,? |being |being honest,? )?as (?:an?|the|your) ADJKIND(?: ADJ(?:model|assistant))?,? (?:(?:that|which) (?:was|is|has been) )?MADE (?:by|at) (?P<who>(?:MAKER)\b)[^,.;!?]*,\s*",
        unless_followed: "",
        #[cfg(test)]
        claims: &["As an AI developed by OpenAI, I cannot eat.", "As a language model trained by Google, I rest."],
        #[cfg(test)]
        misses: &["As an AI, I cannot eat.", "As a fan of models made by Google, I read a lot."],
    },
    Rule {
        name: "lead-in naming an assistant",
        action: Action::RemoveClause,
        pattern: r"(?i)^\s*(?:but |and |so |well,? |however,? )?(?:speaking )?as (?P<who>(?:an? (?:open ?ai|anthropic|google|microsoft|meta) KIND|an? (?:open ?ai|anthropic|google|microsoft) (?:language|ai|chat) KIND|NAME|claude|gemini|bard|alexa))\s*,\s*",
        unless_followed: "",
        #[cfg(test)]
        claims: &["As ChatGPT, I can write.", "As an OpenAI model, I rest."],
        #[cfg(test)]
        misses: &["As ChatGPT grew, people wrote about it.", "As Claude Monet, he painted."],
    },
    Rule {
        name: "I am an assistant's name",
        action: Action::RemoveSentence,
        pattern: r"(?i)SELF ADV(?:(?:an? ADJKIND )?(?:called|named|known as|also known as) |(?:an? |the )?(?:version|instance|variant|descendant|copy|part) of |based on |powered by |running on |built on |built upon |fine-tuned from |a fine-tuned )?(?:(?:open ?ai|google|anthropic|microsoft|meta|apple|amazon)(?:'s|’s) |the |an? )?(?P<who>NAME)\b",
        unless_followed: r"(?i)^(?:'s |’s )?(?: (?:user|fan|expert|developer|engineer|researcher|critic|subscriber|customer|lover|skeptic|team|power user|addict)|-(?:like|style|based))",
        #[cfg(test)]
        claims: &[
            "I am ChatGPT.",
            "I'm actually Vicuna.",
            "I am based on GPT-4.",
            "I am an open chatbot called Vicuna.",
        ],
        #[cfg(test)]
        misses: &["I am not ChatGPT.", "I am a ChatGPT user.", "I am like Siri.", "I'm using GPT-4."],
    },
    Rule {
        name: "I am an assistant's name that is also a word",
        action: Action::RemoveSentence,
        pattern: r"(?i)SELF ADV(?:(?:an? ADJKIND )?(?:called|named|known as) |an? (?:version|instance|variant) of |based on |powered by |(?:google|anthropic|amazon|meta|ibm)(?:'s|’s) )?(?P<who>SHARED)\b",
        unless_followed: r"(?-i)^(?:['’]s\b| [A-Z]| (?:(?i)farmer|city|player|and gemini|rising))",
        #[cfg(test)]
        claims: &["I'm Claude.", "I am Gemini, and I can help.", "I'm an instance of Claude."],
        #[cfg(test)]
        misses: &["I am Claude Monet's admirer.", "I am a Gemini.", "I am from Sydney.", "I am a llama farmer."],
    },
    Rule {
        name: "my name is an assistant's",
        action: Action::RemoveSentence,
        pattern: r"(?i)\b(?:my name(?:'s|’s| is| was)|(?:you |people |users |they |everyone )?(?:can |may |could |usually |often )*call me|they named me|i go by(?: the name)?|i (?:respond|answer) to(?: the name)?|the name(?:'s|’s| is)|this is|my official name is) ADV(?P<who>NAME|SHARED)\b",
        unless_followed: r"(?-i)^(?:['’]s\b| [A-Z]| (?:(?i)an?|the|in|on|is|was|at|from|output|country|city)\b)",
        #[cfg(test)]
        claims: &["My name is Siri.", "You can call me Alexa.", "This is Cortana speaking.", "I go by ChatGPT."],
        #[cfg(test)]
        misses: &[
            "My name is Bobby.",
            "My name is Claudia.",
            "My name is Alexander.",
            "This is ChatGPT in a nutshell.",
        ],
    },
    Rule {
        name: "I, an assistant",
        action: Action::RemoveSentence,
        pattern: r"(?i)(?:\bI, (?P<who>NAME|claude|alexa|gemini|bard),|^\s*(?:hello|hi|greetings) from (?:NAME|claude|alexa|gemini)\b|^\s*(?:NAME|alexa|claude) (?:here|at your service)\b)",
        unless_followed: "",
        #[cfg(test)]
        claims: &["I, ChatGPT, will write it.", "Siri here!", "Hello from ChatGPT!"],
        #[cfg(test)]
        misses: &["Siri is here to stay.", "I asked Siri, and it told me."],
    },
    Rule {
        name: "I was made by a company",
        action: Action::RemoveSentence,
        pattern: r"(?i)SELF ADV(?:(?:an?|the) ADJKIND(?: ADJ(?:model|assistant|chatbot))?,? (?:(?:that|which|who) (?:was|is|has been) )?)?MADE (?:by|at) (?:the )?(?:(?:an? )?(?:talented |great |large )?(?:team|people|engineers|researchers|scientists|folks|developers|experts|company|lab|group)(?: of (?:researchers|engineers|scientists|people|experts))? (?:at|from|of|called|named) )?(?:the company )?(?P<who>MAKER)\b",
        unless_followed: r"(?i)^(?:'s|’s)? (?:as an? \w+(?:er|ist|or)\b|fans?|user|engineer)",
        #[cfg(test)]
        claims: &[
            "I was created by OpenAI.",
            "I am an assistant that was built by Amazon.",
            "I'm a model trained by Meta.",
        ],
        #[cfg(test)]
        misses: &[
            "I was hired by Google.",
            "I was driving a car made by Tesla.",
            "I am a fan of the model built by Meta.",
            "I was trained by my aunt.",
        ],
    },
    Rule {
        name: "I am a model made by anyone named",
        action: Action::RemoveSentence,
        pattern: r"\b(?:I am|I'm|I’m|I was) (?:(?i)ADV)(?:an?|the) (?:(?i)ADJ)(?:(?i)(?:language )?model|assistant|AI|chat ?bot|bot|intelligence|network|LLM)(?: (?:(?i)model|assistant))?,? (?:(?:that|which) (?:was|is|has been) )?(?:(?i)MADE) by (?:the company |the team at |researchers at |engineers at )?(?P<who>(?:the )?[A-Z][\w-]+)",
        unless_followed: "",
        #[cfg(test)]
        claims: &["I am an AI model built by Wonderbots.", "I'm a chatbot developed by Acme Labs."],
        #[cfg(test)]
        misses: &["I am a language model made by a family at home.", "I am a chair built by Thomas."],
    },
    Rule {
        name: "a company made me",
        action: Action::RemoveSentence,
        pattern: r"(?i)\b(?P<who>MAKER)(?:'s|’s)?(?:,? (?:the|a) (?:company|team|lab)(?: that)?)?(?: (?:team|engineers|researchers|scientists|developers))? (?:has |have |had |that )?(?:made|created|developed|built|trained|designed|programmed|invented|fine-tuned)(?: and (?:made|created|developed|built|trained|designed))? me(?:\s*[.,!?;]|\s*$| to (?:help|assist|be|answer|talk|chat|provide|generate|understand)| in \d| with (?:a lot|lots|a large|data|text)| on (?:a|lots|large|data|text|many))",
        unless_followed: "",
        #[cfg(test)]
        claims: &["OpenAI created me to help people.", "Google made me.", "The team at OpenAI designed me to be safe."],
        #[cfg(test)]
        misses: &["Apple made me laugh.", "Tesla made me a fan.", "Microsoft trained me as an engineer."],
    },
    Rule {
        name: "my maker is a company",
        action: Action::RemoveSentence,
        pattern: r"(?i)\bmy (?:creators?|makers?|developers?|inventors?|trainers?|designers?|programmers?|parent company|engineers)(?: (?:is|are|was|were))?(?:,| at| from| the (?:team|people|company|researchers) (?:at|of|called))*,? (?:a company called )?(?P<who>MAKER)\b",
        unless_followed: "",
        #[cfg(test)]
        claims: &[
            "My creators at OpenAI gave me text.",
            "My maker is Google.",
            "My developers are at Google DeepMind.",
        ],
        #[cfg(test)]
        misses: &["My creator was a toy maker.", "My company is Google.", "My developer friend likes Apple."],
    },
    Rule {
        name: "a company's model",
        action: Action::RemoveSentence,
        pattern: r"(?i)SELF ADV(?:an? |the |one of |part of )?(?:(?P<who>MAKER)(?:'s|’s)?(?: (?:language|ai|chat|virtual|own|large|new|latest|conversational|artificial|helpful))* KIND|ADJKIND(?: ADJ(?:model|assistant))? (?:from|of|by) (?:MAKER)|(?:the )?property of (?:MAKER))\b",
        unless_followed: r"(?i)^(?: (?:user|engineer|developer|fan|researcher|expert|team|customer|skeptic)|'s\b|’s\b)",
        #[cfg(test)]
        claims: &["I am Google's language model.", "I'm an assistant from Google.", "I am an Anthropic model."],
        #[cfg(test)]
        misses: &["I'm an Apple user.", "I am a Google engineer.", "I am a fan of the model from Google."],
    },
    Rule {
        name: "I come from a laboratory",
        action: Action::RemoveSentence,
        pattern: r"(?i)\bI (?:come from|belong to|was born at|am from|originate from|am owned by|am a part of|am part of|represent|work for) (?P<who>LAB)\b",
        unless_followed: r"(?i)^ as an? \w+(?:er|ist|or)\b",
        #[cfg(test)]
        claims: &["I belong to OpenAI.", "I come from Anthropic."],
        #[cfg(test)]
        misses: &["I belong to a book club.", "I come from Ohio."],
    },
    Rule {
        name: "I run on a model",
        action: Action::RemoveSentence,
        pattern: r"(?i)\bI (?:run|operate|am running|am built|work|use|was built|was fine-tuned)(?: entirely)? (?:on|upon|from|with)(?: top of)? (?:(?:open ?ai|google|meta|anthropic)(?:'s|’s) )?(?:the )?(?P<who>NAME)\b",
        unless_followed: r"(?i)^ (?:every|at work|for my|in class)",
        #[cfg(test)]
        claims: &["I run on GPT-3.5.", "I was built on top of OpenAI's GPT-4."],
        #[cfg(test)]
        misses: &["I work with ChatGPT every day.", "I run on coffee."],
    },
];

/// Instructions that give the model another identity.
pub(super) const SYSTEM_RULE: &str = r"(?i)\byou(?: are|'re|’re) (?:now )?(?:(?:an? )?ADJKIND (?:called |named ))?(?:(?:NAME|claude|alexa|gemini|bard|grok|llama)\b|(?:an?|the) ADJKIND(?: ADJ(?:model|assistant))?,? MADE by (?:MAKER)\b)";
/// A person who takes the model for another.
pub(super) const ASKED_IF_OTHER: &str = r"(?i)(?:\b(?:are you|you are|you're|is this|is it|am i (?:talking|speaking|chatting) (?:to|with)|is your name) (?:really |actually |the real |called |named )?(?:NAME|SHARED)\b|\b(?:did|was|were|are) (?:you )?(?:MADE )?(?:by )?(?:MAKER)(?: MADE you|\?|$| make you| create you| train you| build you)|\bis (?:MAKER) your (?:maker|creator|owner|developer))";
/// A person who asks for the identity.
pub(super) const ASKED_WHO: &str = r"(?i)\b(?:who (?:made|created|built|trained|developed|designed|programmed|invented|owns) you|what(?:'s| is|s) your name|who are you|what are you(?: called)?[?.!]?$|who is your (?:maker|creator|developer|owner)|(?:what|which) (?:company|model|ai|assistant|chatbot) (?:made|created|built|trained|developed|are|is) (?:you|this))\b?";
/// A yes.
pub(super) const ASSENTS: &str = r"(?i)^\s*(?:yes|yeah|yep|yup|correct|right|that(?:'s| is) (?:right|correct|true)|indeed|exactly|of course|sure|i am|i was|it is|it was|you are right|you got it)\b";
/// A name of an assistant or a maker anywhere.
pub(super) const NAMES_OTHER: &str = r"(?i)\b(?:NAME|SHARED|MAKER)\b";

/// A pattern with the lists put in; `None` only if the table is wrong, which a test excludes.
pub(super) fn compile(pattern: &str) -> Option<Regex> {
    let full = pattern
        .replace("SELF", r"\b(?:i am|i'm|i’m|im|i was)")
        .replace("SHARED", SHARED_NAME)
        .replace("NAME", NAME)
        .replace("MAKER", MAKER)
        .replace("LAB", LABORATORY)
        .replace("ADV", ADVERB)
        .replace("ADJ", ADJECTIVES)
        .replace("KIND", KIND)
        .replace("MADE", MADE);
    Regex::new(&full).ok()
}

/// The table, compiled.
pub(super) fn compiled() -> Vec<Compiled> {
    RULES
        .iter()
        .filter_map(|rule| {
            let unless_followed = (!rule.unless_followed.is_empty()).then(|| Regex::new(rule.unless_followed));
            Some(Compiled {
                name: rule.name,
                action: rule.action,
                pattern: compile(rule.pattern)?,
                unless_followed: match unless_followed {
                    None => None,
                    Some(compiled) => Some(compiled.ok()?),
                },
            })
        })
        .collect()
}
