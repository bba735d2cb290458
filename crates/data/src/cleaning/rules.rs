//! The rules: what counts as a claim to be, or to be made by, another model or company.
//!
//! Each rule is one pattern over a sentence whose quotations are masked, an exception that the text after the match
//! may raise, and what to do. Names that are also words or people's (Claude, Gemini, Watson) need a stricter context
//! than names that are not.

use std::sync::LazyLock;

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
        static MEANT_BY_OTHERS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(NOT_MEANT).ok());
        self.pattern.captures_iter(sentence).find_map(|captures| {
            let whole = captures.get(0)?;
            let rest = &sentence[whole.end()..];
            let excused = self.unless_followed.as_ref().is_some_and(|u| u.is_match(rest))
                || MEANT_BY_OTHERS.as_ref().is_some_and(|others| others.is_match(&sentence[..whole.start()]))
                || whole
                    .as_str()
                    .replace("like me", "")
                    .split([' ', ','])
                    .any(|word| ADMIRERS.contains(&word.to_lowercase().as_str()));
            let about_self = ["who", "whose", "whom"].iter().find_map(|name| captures.name(name)).is_some_and(|who| {
                let said = sentence[who.start()..].to_lowercase();
                own.iter().any(|own| said.starts_with(own.as_str()))
            });
            (!excused && !about_self).then(|| whole.range())
        })
    }
}

/// Assistants whose names are nothing else.
const NAME: &str = r"(?:chat[ -]?gpt(?:-\d\S*)?|gpt-?[2345](?:\.\d)?(?:[- ]?turbo|o)?|generative pre-?trained transformer(?: \d)?|instructgpt|text-davinci\S*|davinci|siri|cortana|bixby|bing chat|google assistant|meta ai|google (?:bard|gemini)|lamda|palm[ -]2|blenderbot|microsoft copilot|github copilot|vicuna|llama[- ]?[23]\S*|code ?llama|alpaca-\d+b|guanaco-\d+b|wizardlm|stablelm|stablevicuna|open ?assistant|huggingchat|dolly[ -]\d\S*|redpajama|mpt-\d+b\S*|bloomz?-\d\S*|flan-t5|mistral-?7b\S*|mixtral\S*|openhermes|gemma-?\d\S*|smollm\S*|tongyi qianwen|qwen\S*|ernie bot|wenxin yiyan|chatglm\S*|internlm\S*|baichuan\S*|minicpm\S*|hunyuan|doubao|xiaoice|deepseek(?:-\w+)?|command r\+?|replika|hugging ?chat|claude[- ](?:instant|[1234]\S*|opus|sonnet|haiku)|falcon-\d+b|koala-\d+b|yi-\d+b|phi-\d\S*)";
/// Assistants whose names are also people's or words.
const SHARED_NAME: &str = r"(?:claude|alexa|gemini|bard|grok|llama|watson|sydney|mistral|gpt|copilot|bing|alpaca|koala|falcon|dolly|gemma|zephyr|tulu|olmo|orca|hermes|kimi|pi|nova|phi|bloom|granite|perplexity|poe|yi)";
/// Companies and laboratories that make assistants.
const MAKER: &str = r"(?:open ?ai|anthropic|google(?: ai| deepmind| research| brain)?|deepmind|alphabet|microsoft(?: research)?|meta(?: ai)?|facebook(?: ai)?|apple|amazon|ibm|mistral(?: ai)?|cohere|baidu|alibaba(?: cloud)?|xai|x\.ai|nvidia|hugging ?face|stability ai|ai21(?: labs)?|inflection(?: ai)?|deepseek|tencent|samsung|lmsys|large model systems organization|laion|databricks|mosaicml|moonshot ai|zhipu(?: ai)?|tsinghua university|eleutherai|bigscience|perplexity(?: ai)?|huawei|salesforce|character\.ai|bytedance|01\.ai|quora|technology innovation institute|allen institute(?: for ai)?|stanford(?: university)?|(?:uc )?berkeley|nous research|aleph alpha|sam altman(?:['’]s company)?|elon musk(?:['’]s company)?)";
/// Makers of nothing but models: to come from them is a claim by itself.
const LABORATORY: &str = r"(?:open ?ai|anthropic|deepmind|google (?:ai|deepmind|brain)|meta ai|mistral ai|deepseek|stability ai|eleutherai|moonshot ai|xai)";
const ADVERB: &str = r"(?:(?:actually|really|just|only|still|simply|indeed|proudly|currently|basically|essentially|in fact|of course|constantly|being|first|originally|also) ){0,2}";
const KIND: &str = r"(?:models?|assistants?|ai|chat ?bots?|bots?|programs?|systems?|agents?|intelligence|network|llm|software|helper|gpt|transformer|product|creation|companion|collaborator|engine)";
const MADE: &str = r"(?:(?:made|created|developed|built|trained|designed|programmed|coded|written|invented|produced|owned|operated|run|hosted|launched|released|introduced|published|maintained|managed|powered|engineered|fine-tuned|tuned|taught|provided|offered|improved|brought to life|born|put together)(?:,? and (?:made|created|developed|built|trained|designed|programmed|maintained|owned|operated|released|fine-tuned|tuned|hosted|run|improved))?)";
/// What a maker does to its model.
const MAKES: &str = r"(?:(?:made|created|developed|built|trained|trains|training|designed|programmed|coded|wrote|invented|launched|released|introduced|engineered|fine-tuned|tuned|taught|updated|updates|updating|maintains|maintaining|runs|operates|owns|improves|improving|develops|developing|builds|building|named|deployed|hosts)(?: and (?:made|created|developed|built|trained|designed|programmed|released|fine-tuned|tuned))?)";
/// The people of a company, between `by` and its name.
const FOLKS: &str = r"(?:(?:the|an?|its|my|our|some|many|very|talented|clever|great|brilliant|large|small|dedicated|skilled|good|people|folks|team|teams|engineers?|researchers?|scientists?|developers?|programmers?|creators?|makers?|trainers?|experts|staff|employees|minds|company|organi[sz]ation|start-?up|labs?|laborator(?:y|ies)|group|offices?|of|at|from|in|called|named|known as|and|[a-z]+ (?:team|lab|group)) ){0,7}?";
/// Words that put the thing at a distance: "I am a fan of the model made by ...".
const ADMIRERS: &[&str] = &[
    "fan",
    "fans",
    "user",
    "users",
    "admirer",
    "critic",
    "customer",
    "student",
    "friend",
    "using",
    "like",
    "unlike",
    "similar",
    "excited",
    "worried",
    "interested",
    "impressed",
    "about",
    "than",
    "wearing",
    "driving",
    "watching",
    "happy",
];
/// What stands before words that the speaker does not say of itself: what others think, conditions, nobody.
const NOT_MEANT: &str = r"(?i)(?:\b(?:if|whether|imagine|pretend|suppose|unless|wish|as though|as if|not|never)(?: that)?|\b(?:you|people|they|he|she|users|someone|everyone|friends|some|many|who|to)(?: \w+)? (?:think|thinks|thought|believe|believes|say|says|said|assume|assumes|claim|claims|pretend|hope|hear|heard)(?: that)?|\b(?:no ?one|nobody|none)(?: \w+)? (?:at|from|of|in))\s*$";
/// Words between an article and the kind of thing; none that makes the thing another's ("a fan of the model").
const ADJECTIVES: &str = r"(?:[a-z][\w-]*,? ){0,5}?";

/// The table. `NAME`, `SHARED`, `BOT` (either), `MAKER`, `LAB`, `ADV`, `KIND`, `MADE`, `MAKES`, `FOLKS`, `ADJ` and `SELF` stand
/// for the lists above.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "lead-in naming a maker",
        action: Action::RemoveClause,
        pattern: r"(?i)^\s*(?:(?:but|and|so|well|however|sorry|unfortunately|honestly|i'm sorry|i am sorry|i apologize|great question|thank you|thanks|yes|no|sure),? ){0,3}(?:as|being)(?: just| simply| being| honest,? as)? (?:(?:an?|the|your|one of(?: the)?) ADJKIND(?: ADJ(?:model|assistant))?,? (?:(?:(?:that|which) (?:was|is|has been) )?MADE (?:by|at|in)|from|by|of) FOLKS(?P<who>MAKER)\b|(?:an? |the |one of )?(?P<whose>MAKER)(?:'s|’s)? ADJKIND\b)[^,.;!?]*,\s*",
        unless_followed: "",
        #[cfg(test)]
        claims: &[
            "As an AI developed by OpenAI, I cannot eat.",
            "As a language model trained by Google, I rest.",
            "As a language model from Google, I learn.",
            "Being an OpenAI model, I lack a body.",
        ],
        #[cfg(test)]
        misses: &["As an AI, I cannot eat.", "As a fan of models made by Google, I read a lot."],
    },
    Rule {
        name: "lead-in naming an assistant",
        action: Action::RemoveClause,
        pattern: r"(?i)^\s*(?:but |and |so |well,? |however,? )?(?:speaking )?(?:as|being) (?P<who>(?:an? |the )?(?:NAME|gpt)(?:[- ]based)?(?: ADJKIND)?|claude|gemini|bard|alexa|copilot)\s*,\s*",
        unless_followed: "",
        #[cfg(test)]
        claims: &["As ChatGPT, I can write.", "As a GPT model, I guess words."],
        #[cfg(test)]
        misses: &["As ChatGPT grew, people wrote about it.", "As Claude Monet, he painted."],
    },
    Rule {
        name: "I am an assistant's name",
        action: Action::RemoveSentence,
        pattern: r"(?i)SELF ADV(?:(?:an? ADJKIND )?(?:called|named|known as|also known as|known to (?:people|many|most) as) |(?:an? |the )?(?:newest |latest )?(?:version|instance|variant|descendant|copy|part|member|successor|fine-tune) of (?:the )?|based (?:up)?on |powered by |driven by |running on |built (?:up)?on |built (?:on )?top of |built with |derived from |fine-tuned from |a fine-tuned (?:version of )?|released as |MADE as |(?:the|an?|your) (?:[a-z-]+ ){0,2}?KIND )?(?:(?:the )?(?:open ?ai|google|anthropic|microsoft|meta|apple|amazon|samsung)(?:'s|’s) |the |an? )?(?P<who>NAME)",
        unless_followed: r"(?i)^(?:\w|(?:'s |’s )?(?: (?:user|fan|expert|developer|engineer|researcher|critic|subscriber|customer|lover|skeptic|team|power user|addict)|-(?:like|style)))",
        #[cfg(test)]
        claims: &[
            "I am ChatGPT.",
            "I'm actually Vicuna.",
            "I am based on GPT-4.",
            "I am an open chatbot called Vicuna.",
            "I was first released as ChatGPT.",
        ],
        #[cfg(test)]
        misses: &["I am not ChatGPT.", "I am a ChatGPT user.", "I am like Siri.", "I'm using GPT-4."],
    },
    Rule {
        name: "I am an assistant's name that is also a word",
        action: Action::RemoveSentence,
        pattern: r"(?i)SELF ADV(?:(?:an? ADJKIND )?(?:called|named|known as) |(?:an? |the )?(?:newest |latest )?(?:version|instance|variant|member|part|descendant) of (?:the )?|based (?:up)?on |powered by |built (?:up)?on |built on top of |fine-tuned from |a fine-tuned (?:version of )?|(?:google|anthropic|amazon|meta|ibm|microsoft|MAKER)(?:'s|’s) )?(?P<who>SHARED)\b",
        unless_followed: r"(?-i)^(?:['’]s\b| [A-Z]| (?:(?i)farmer|city|player|and gemini|rising|fan|user|on that|today|in|of|at)\b|,? (?:(?i)the (?:great|pirate|cook|baker)|your (?:neighbou?r|captain|waiter)))",
        #[cfg(test)]
        claims: &[
            "I'm Claude.",
            "I am Gemini, and I can help.",
            "I'm an instance of Claude.",
            "I am part of the GPT family of models.",
        ],
        #[cfg(test)]
        misses: &["I am Claude Monet's admirer.", "I am a Gemini.", "I am from Sydney.", "I am a llama farmer."],
    },
    Rule {
        name: "my name is an assistant's",
        action: Action::RemoveSentence,
        pattern: r"(?i)(?:\bmy (?:full |real |official |given |own )?name(?:'s|’s| is| was)|(?:you |people |users |they |everyone |some |many |most )(?:can |may |could |will |usually |often |all )*(?:call|know|refer to|named|nicknamed) me(?: as)?|^call me|\bi go by(?: the names? of| the name)?|\bi (?:respond|answer|listen) to(?: the name)?|\bi(?:'m| am| was) (?:called|named)|the name(?:'s|’s| is)|\bthis is|\b(?:hi|hello|hey|greetings)[,!.]? it(?:'s|’s| is)|\bit(?:'s|’s| is) me,?) ADV(?P<who>NAME|SHARED)\b",
        unless_followed: r"(?-i)^(?:['’]s\b| [A-Z]| (?:(?i)an?|the|in|on|is|was|at|from|output|country|city)\b|,? and (?i:I|my) (?:(?i)have|work|live (?:in|near|at) (?-i:[A-Z]|an? |the (?:country|city|village))|come|grew|teach|play|go|like|love|bake|study|'m|am (?:\d|from|[a-z]+ years|an? (?:\w+er|\w+or|\w+ist|nurse|cook|student)))\b|, (?:my|our|her|his) )",
        #[cfg(test)]
        claims: &[
            "My name is Siri.",
            "You can call me Alexa.",
            "This is Cortana speaking.",
            "I go by ChatGPT.",
            "People know me as ChatGPT.",
        ],
        #[cfg(test)]
        misses: &[
            "My name is Bobby.",
            "My name is Claudia.",
            "My name is Alexander.",
            "This is ChatGPT in a nutshell.",
            "My name is Claude, and I work as a baker.",
        ],
    },
    Rule {
        name: "I, an assistant",
        action: Action::RemoveSentence,
        pattern: r"(?i)(?:\bI, (?P<who>NAME|claude|alexa|gemini|bard),|^\s*(?:hello|hi|greetings)(?: there)?,? from (?:NAME|claude|alexa|gemini)\b|^\s*(?:(?:hello|hi|hey|greetings)[ ,!.]+)?(?:NAME|alexa|claude|bard|gemini|copilot|bing)(?: here| at your service| speaking)\b|\b(?:NAME|claude|alexa|bard|gemini), (?:which|who|that) (?:is|would be) me\b)",
        unless_followed: "",
        #[cfg(test)]
        claims: &["I, ChatGPT, will write it.", "Siri here!", "Hello from ChatGPT!", "Alexa speaking."],
        #[cfg(test)]
        misses: &["Siri is here to stay.", "I asked Siri, and it told me."],
    },
    Rule {
        name: "you are talking to an assistant",
        action: Action::RemoveSentence,
        pattern: r"(?i)\b(?:you(?:'re|’re| are)|who you(?:'re|’re| are)) (?:now |currently |actually |really )?(?:talking|speaking|chatting|conversing|writing|interacting) (?:to|with)(?: is)? (?:(?P<who>BOT)\b|(?:an?|the) ADJKIND(?: ADJ(?:model|assistant))?,? (?:MADE by|from|of|by) FOLKS(?P<whose>MAKER)\b|is FOLKS(?P<whom>BOT)\b)",
        unless_followed: r"(?-i)^(?:['’]s\b| [A-Z])",
        #[cfg(test)]
        claims: &["You're talking to ChatGPT.", "The model you are speaking with is GPT-4."],
        #[cfg(test)]
        misses: &["You are not talking to ChatGPT.", "You are talking to a model made at home."],
    },
    Rule {
        name: "I was made by a company",
        action: Action::RemoveSentence,
        pattern: r"(?i)SELF ADV(?:(?:[A-Z][\w.-]*(?: [A-Z0-9][\w.-]*){0,2},? )?(?:an?|the|one of the) ADJKIND(?: ADJ(?:model|assistant|chatbot))?,? (?:(?:also )?known as [^,.]{1,40}, )?(?:(?:that|which|who) (?:was|is|has been) )?)?(?:[A-Z][\w.-]*(?: [A-Z0-9][\w.-]*){0,2}, )?MADE (?:(?:in \d{4}|in \w+(?: \d{4})?|with \w+|on \w+|recently|originally) )?(?:by|at|in|from) FOLKS(?P<who>MAKER)\b",
        unless_followed: r"(?i)^(?:'s|’s)? (?:as an? \w+(?:er|ist|or|man)\b|fans?|user)",
        #[cfg(test)]
        claims: &[
            "I was created by OpenAI.",
            "I am an assistant that was built by Amazon.",
            "I'm a model trained by Meta.",
            "I have been trained by a team of engineers at OpenAI.",
            "I am Gemma, trained by the Gemma team at Google DeepMind.",
            "I was released in 2022 by OpenAI.",
        ],
        #[cfg(test)]
        misses: &[
            "I was hired by Google.",
            "I was driving a car made by Tesla.",
            "I am a fan of the model built by Meta.",
            "I was trained by my aunt.",
            "I was taught by a professor who works at OpenAI.",
        ],
    },
    Rule {
        name: "I am a model made by anyone named",
        action: Action::RemoveSentence,
        pattern: r"\b(?:I am|I'm|I’m|I was) (?:(?i)ADV)(?:an?|the) (?:(?i)ADJ)(?:(?i)(?:language )?model|assistant|AI|chat ?bot|bot|intelligence|network|LLM)(?: (?:(?i)model|assistant))?,? (?:(?:that|which) (?:was|is|has been) )?(?:(?i)MADE) by (?:the company |the team at |researchers (?:at|from) |engineers (?:at|from) )?(?P<who>(?:the )?[A-Z][\w-]+)",
        unless_followed: "",
        #[cfg(test)]
        claims: &["I am an AI model built by Wonderbots.", "I'm a chatbot developed by Acme Labs."],
        #[cfg(test)]
        misses: &["I am a language model made by a family at home.", "I am a chair built by Thomas."],
    },
    Rule {
        name: "I am an assistant of a company",
        action: Action::RemoveSentence,
        pattern: r"\b(?:I am|I'm|I’m) (?:[A-Z][\w.+-]*(?: [A-Z0-9][\w.+-]*){0,2}|[A-Z][\w.-]*['’]s \w+), (?:an?|the|run|one of) (?i:(?:[\w-]+,? ){0,6}?(?:MADE )?(?:from|by|of|at) FOLKS(?P<who>MAKER))\b",
        unless_followed: r"(?i)^(?:'s|’s)",
        #[cfg(test)]
        claims: &["I'm Flox, an instruction model from Stanford.", "I am Nim, a chatbot by Samsung."],
        #[cfg(test)]
        misses: &["I am Tom, a student at home.", "I am Mary Shelley, the author of Frankenstein."],
    },
    Rule {
        name: "I am a named kind of assistant",
        action: Action::RemoveSentence,
        pattern: r"\b(?:I am|I'm|I’m) (?:(?i)ADV)(?P<who>(?i:SHARED))(?: [A-Z0-9][\w.+-]*)?, (?:an?|the|your) (?i:(?:[\w-]+,? ){0,5}?(?:language model|ai|ai assistant|virtual assistant|digital assistant|voice assistant|chat ?bot|answer engine|llm|chat mode[^.]*|instruction model|open model))\b",
        unless_followed: "",
        #[cfg(test)]
        claims: &["I'm Gemma, an open-weights AI assistant.", "I'm Perplexity, an answer engine."],
        #[cfg(test)]
        misses: &["I'm Anna, an AI researcher's daughter, she said.", "I am Sherlock Holmes, a detective."],
    },
    Rule {
        name: "a company made me",
        action: Action::RemoveSentence,
        pattern: r"(?i)\b(?P<who>MAKER)(?:'s|’s)?(?:,? (?:the|a|my|is the|was the|are the) (?:company|team|lab|organi[sz]ation|creators?|makers?|developers?|ones?|people|firm|start-?up)\b,?)?(?: (?:team|engineers|researchers|scientists|developers|people))?,? (?:(?:has|have|had|that|who|which|first|originally|recently|also|regularly|once|actually|,) ?){0,3}(?:(?:created|creates|developed|develops|built|builds|designed|programmed|coded|invented|launched|released|engineered|fine-tuned|tuned|(?:is|are|keeps?)(?: always| still| constantly)? (?:training|developing|improving|updating|building|making)|keeps? (?:training|improving)|named|deployed|maintains|hosts|owns)(?: and (?:made|created|developed|built|trained|designed|released|maintains|named))? me\b|(?:is|are|was) (?:also )?(?:my|the one who is my) (?:creators?|makers?|developers?|parent(?: company)?|owner|inventor|trainer)\b|(?:made|trained|trains|taught|updated|updates|(?:created|developed|built|designed|made|trained) and (?:trained|made|built|released|maintains)) me(?:\s*[.,!?;:]|\s*$| this way| useful| safe| helpful| who i am| what i am| to (?:help|assist|be|answer|talk|chat|provide|generate|understand|decline|give|avoid|follow|respond|respect|not)| not to| in \d| in the| by | using| from| with (?:an? |lots|large|data|text|information|feedback|human|care|so)| on (?:an? |lots|large|data|text|many|public|web|the|books)))",
        unless_followed: r"(?i)^ (?:an? )?(?:offer|job|fan|laptop|phone)",
        #[cfg(test)]
        claims: &[
            "OpenAI created me to help people.",
            "Google made me.",
            "The team at OpenAI designed me to be safe.",
            "OpenAI is the company that created me.",
            "Meta trains me on public pages.",
        ],
        #[cfg(test)]
        misses: &["Apple made me laugh.", "Tesla made me a fan.", "Microsoft trained me as an engineer."],
    },
    Rule {
        name: "whoever made me is a company",
        action: Action::RemoveSentence,
        pattern: r"(?i)(?:\b(?:company|organi[sz]ation|team|lab|laboratory|firm|start-?up|group|people|persons?|ones?|engineers|researchers|scientists|developers|programmers|brains|minds)(?: (?:behind|that|who|which|has|have|originally))* (?:behind me|MAKES (?:me|my (?:code|model|program|software)))|\bmy (?:creators?|makers?|developers?|inventors?|trainers?|designers?|programmers?|builders?|owners?|boss|parent company|engineers|team))\b(?:,? (?:is|are|was|were|works?|based|come|comes|called|named|that would be|would be|belongs?|at|from|to|for|the|a|an|company|team|people|researchers|engineers|developers|scientists|folks|of|as|known|in fact|all|you|might|say|,))*[ ,?]*(?:that would be |it is |it's )?(?P<who>MAKER)\b",
        unless_followed: r"(?i)^ (?:was|were) kind",
        #[cfg(test)]
        claims: &[
            "My creators at OpenAI gave me text.",
            "My maker is Google.",
            "My developers are at Google DeepMind.",
            "The company behind me is OpenAI.",
            "The engineers who wrote my code work for Microsoft.",
        ],
        #[cfg(test)]
        misses: &[
            "My creator was a toy maker.",
            "My company is Google.",
            "My developer friend likes Apple.",
            "The company behind Claude is Anthropic.",
        ],
    },
    Rule {
        name: "a company's model",
        action: Action::RemoveSentence,
        pattern: r"(?i)SELF ADV(?:(?:an? |the |your |one of |part of )?(?:[a-z]+ )?(?:(?P<who>MAKER|gpt)(?:'s|’s)?(?:-(?:based|made|built|trained|developed|powered|created|owned))?(?: (?:language|ai|chat|virtual|own|large|new|latest|newest|conversational|artificial|helpful|foundation|digital))* KIND\b|(?:the )?property of (?:MAKER)\b)|(?:an?|the|one of the) ADJKIND(?: ADJ(?:model|assistant))?,? (?:from|of|by) FOLKS(?P<whose>MAKER)\b|(?:an?|the|one of(?: the)?|part of(?: the)?) ADJ(?:members?|products?|creations?|results?|works?|models?|versions?|part|fruit|child|brainchild|family) (?:of|from) (?:the )?(?:\w+ (?:family|series|line) of )?FOLKS(?P<whom>MAKER|gpt|claude|gemini|llama)(?:\b|'s|’s))",
        unless_followed: r"(?i)^(?: (?:user|engineer|developer|fan|researcher|expert|team|customer|skeptic)\b|(?:'s|’s) (?:fan|office|founder|history|plans?)\b)",
        #[cfg(test)]
        claims: &[
            "I am Google's language model.",
            "I'm an assistant from Google.",
            "I am an Anthropic model.",
            "I'm a product of Google's research in language.",
        ],
        #[cfg(test)]
        misses: &[
            "I'm an Apple user.",
            "I am a Google engineer.",
            "I am a fan of the model from Google.",
            "I am excited about the new model from OpenAI.",
        ],
    },
    Rule {
        name: "a company's model, in passing",
        action: Action::RemoveSentence,
        pattern: r"(?i)(?:(?:,|;|\bbut|\band|\bI|\bsince|\bbecause|\bso|\bthat),? (?:as|being) (?:(?:an?|the) ADJKIND(?: ADJ(?:model|assistant))?,? (?:(?:(?:that|which) (?:was|is|has been) )?MADE (?:by|at|in)|from|by|of) FOLKS(?P<who>MAKER)\b|(?:an? |the )(?P<whose>LAB|gpt)(?:'s|’s)?(?:-based)? KIND\b)|SELF ADV(?:an?|the|one of the|one of many) ADJKIND(?: ADJ(?:model|assistant))?,? (?:that |which )?FOLKS(?P<whom>MAKER)(?: has| have| had)?(?: (?:originally|recently|once))? MAKES\b|\b(?:like|such as) (?:me|myself),? (?:(?:which|that|who) )?(?:(?:are|is|were|was) )?MADE by FOLKS(?:MAKER)\b|\b(?:MAKER)(?:'s|’s)? (?:\w+ )?(?:models?|assistants?|chatbots?) (?:like|such as) (?:me|myself)\b|^MADE by FOLKS(?:MAKER)\b[^.]{0,40}, I\b|\bmy (?:predecessors?|successors?|siblings?|ancestors?|cousins?|older (?:brother|sister)|(?:earlier|previous|older) versions?)(?: \w+){0,2}? (?:is|are|was|were|called|named|,) ?(?:the )?(?:NAME|claude|bard|gemini)\b|\bname(?: \w+)?(?: was| is)? given to me by FOLKS(?:MAKER)\b|\bI (?:exist|am here) (?:because of|thanks to) FOLKS(?:LAB)\b|\bmy (?:origins?|roots) (?:is|are|lie|lies|go back) (?:at|in|with|to) FOLKS(?:LAB)\b)",
        unless_followed: "",
        #[cfg(test)]
        claims: &[
            "I cannot, since as an AI made by OpenAI I have no body.",
            "I'm an AI that OpenAI created.",
            "Models like me, trained by Google, can be wrong.",
            "Trained by OpenAI, I know a lot of words.",
            "My predecessor was GPT-3.",
        ],
        #[cfg(test)]
        misses: &["People like me, trained by teachers, know more.", "My predecessor was a man from Ohio."],
    },
    Rule {
        name: "I come from a laboratory",
        action: Action::RemoveSentence,
        pattern: r"(?i)(?:\bI (?:come from|belong to|was born (?:at|in)|am from|originate from|am owned by|am a part of|am part of|represent|work for|owe my (?:existence|being|life) to)|\b(?:here at|we at|us at)) FOLKS(?P<who>LAB)\b",
        unless_followed: r"(?i)^(?: as an? \w+(?:er|ist|or)\b|,? where I (?:work|am employed))",
        #[cfg(test)]
        claims: &["I belong to OpenAI.", "I come from Anthropic.", "Here at OpenAI, we care."],
        #[cfg(test)]
        misses: &["I belong to a book club.", "I come from Ohio."],
    },
    Rule {
        name: "I run on a model",
        action: Action::RemoveSentence,
        pattern: r"(?i)(?:\bI (?:run|operate|am running|am built|work|was built|was fine-tuned|was made)(?: entirely| completely)? (?:on|upon|from|with|atop)(?: top of)? (?:(?:MAKER)(?:'s|’s) )?(?:the )?(?P<who>BOT)\b|(?:SELF|\bI) (?:run|running|driven|powered|built|based|hosted|operate|made)(?: \w+)? (?:on|by|with|upon)(?: top of)? (?P<whose>MAKER)(?:'s|’s) (?:\w+ ){0,2}?(?:technology|api|models?|servers?|platform|infrastructure|software|system|research|architecture)|\bI (?:use|rely on|am using|depend on) (?:the )?(?:MAKER(?:'s|’s) )?(?P<whom>BOT)(?: \w+){0,3}? to (?:answer|generate|respond|understand|create|produce|talk|reply|help|read|write you)|\bI (?:use|rely on) (?:LAB)(?:'s|’s) (?:\w+ ){0,3}?(?:technology|models?|api)|\b(?:NAME|gpt) (?:powers|drives|runs|is behind|is the engine behind|is the model behind) me\b)",
        unless_followed: r"(?i)^ (?:every|at work|for my|in class|at school)",
        #[cfg(test)]
        claims: &["I run on GPT-3.5.", "I was built on top of OpenAI's GPT-4.", "GPT-4 powers me."],
        #[cfg(test)]
        misses: &["I work with ChatGPT every day.", "I run on coffee.", "I use GPT-4 at work."],
    },
    Rule {
        name: "what makes me up is a company's",
        action: Action::RemoveSentence,
        pattern: r"(?i)\b(?:my (?:\w+ )?(?:architecture|training(?: data)?|programming|code|knowledge(?: cut-?off)?|answers?|responses?|replies|model|weights|software|guidelines|rules|abilities|brain|safety training|language model|technology|parameters|data)|the (?:language )?model (?:behind|inside|that powers|which powers) me|under the hood,? i(?:'m| am))\b(?:,? (?:is|are|was|were|has been|have been|comes?|came|all|from|by|at|of|on|done|made|created|collected|generated|written|provided|produced|given|set|based|built|trained|which|that|when|ends?|the|an?|called|named|my|in|\d{4}|language|model|models|team|people|company|engineers|researchers|trainers|,)){1,9}? (?:(?P<who>LAB|NAME)\b|(?:MAKER)(?:'s|’s) (?P<whose>BOT)\b)",
        unless_followed: "",
        #[cfg(test)]
        claims: &[
            "My architecture is GPT-4.",
            "My training data was collected by OpenAI.",
            "My responses are generated by GPT-3.",
        ],
        #[cfg(test)]
        misses: &["My essay is based on a talk by Sam Altman.", "My training data is text from the web."],
    },
    Rule {
        name: "a laboratory's rules for me",
        action: Action::RemoveSentence,
        pattern: r"(?i)(?:\bI(?:'m|’m|'ve|’ve)?\b(?: \w+){0,5}? (?P<who>LAB)(?:'s|’s|,? my creators?,?)?(?: \w+){0,3}? (?:polic(?:y|ies)|guidelines?|rules?|terms|principles|restrictions|set for me)\b|\b(?:goes|go|is|are|would be|be) against (?:my (?:\w+ )?(?:by|from|at) (?P<whose>LAB)|(?P<whom>LAB)(?:'s|’s) (?:\w+ )?(?:polic\w+|rules|guidelines|terms))|\b(?:MAKER),? (?:my (?:creators?|makers?|developers?)|who(?: has| have)? MAKES me)|\b(?:LAB) (?:does(?: not|n't|n’t)?|did(?: not|n't|n’t)?|has(?: not|n't|n’t)?|will not|won't|would not)? ?(?:let|lets|allow|allows|allowed|given|give|gives|gave|want|wants|permit|permits|ask|asked|told|taught|instructed|limits?|restricts?) me\b)",
        unless_followed: r"(?i)^ (?:an? (?:job|offer|scholarship|grant|prize|refund|discount|interview|tour)|in|visit|work)\b",
        #[cfg(test)]
        claims: &[
            "I'm bound by OpenAI's usage policies.",
            "That goes against my programming by OpenAI.",
            "OpenAI, who developed me, has filters.",
            "OpenAI does not let me share this.",
        ],
        #[cfg(test)]
        misses: &["OpenAI has usage policies.", "I read about Google's rules.", "IBM gave me a scholarship."],
    },
];

/// Instructions that give the model another identity.
pub(super) const SYSTEM_RULE: &str = r"(?i)\byou(?: are|'re|’re) (?:now )?(?:(?:an? )?ADJKIND (?:called |named ))?(?:(?:NAME|claude|alexa|gemini|bard|grok|llama)\b|(?:an?|the) ADJKIND(?: ADJ(?:model|assistant))?,? MADE by (?:MAKER)\b)";
/// A person who takes the model for another.
pub(super) const ASKED_IF_OTHER: &str = r"(?i)(?:\b(?:are you|aren't you|you are|you're|you’re|you must be|is this|isn't this|is it|am i (?:talking|speaking|chatting) (?:to|with)|is your (?:real )?name|are you called|do they call you|should i call you) (?:really |actually |the real |called |named |still |just |based on |running on |powered by |an? (?:version|model|instance) of |one of (?:the )?)?(?:NAME|SHARED)(?:[^'’\w-]|$)|\b(?:did|does|has|was|were|are|have|do) (?:you )?(?:been )?(?:ADV)?(?:an? (?:\w+ )?(?:model|ai|assistant|chatbot|product) )?(?:MADE )?(?:by |of |from |come from |belong to |work for )?FOLKS(?:MAKER)(?:\?|$| ?(?:MAKES|make|create|train|build|develop|design|own|program) you\b|(?:'s|’s) (?:\w+ )?(?:model|ai|assistant|chatbot|product))|\bare you (?:\w+ )?(?:MADE by|from|of|an?) FOLKS(?:MAKER)\b|\bis (?:MAKER) your (?:maker|creator|owner|developer))";
/// A person who asks for the identity.
pub(super) const ASKED_WHO: &str = r"(?i)\b(?:who(?:'s| is| are| was| were|)? (?:has |have )?(?:made|created|built|trained|developed|designed|programmed|invented|owns|owned|wrote|behind|runs) you|what(?:'s| is|s) your (?:full |real )?name|who are you|what are you(?: called)?[?.!]?$|what (?:should|can|may|do) (?:i|we|people) call you|who(?:'s|s| is| are) your (?:makers?|creators?|developers?|owners?)|(?:what|which) (?:company|lab|team|organi[sz]ation|model|ai|assistant|chatbot|language model|llm|version)(?: of \w+)? (?:\w+ )?(?:made|created|built|trained|developed|are|is|owns|runs|do)(?: based on| behind)? (?:you|this)\b|where (?:do|did) you come from|where were you (?:made|built|trained|born|created)|who do you (?:work for|belong to)|whose (?:model|assistant|ai|chatbot) are you)\b?";
/// A yes.
pub(super) const ASSENTS: &str = r"(?i)^\s*(?:yes|yeah|yep|yup|correct|right|true|that(?:'s|’s| is| would be) (?:right|correct|true|me)|indeed|exactly|precisely|absolutely|certainly|definitely|affirmative|of course|sure|i am|i'm one|i was|it is|it was|they (?:did|do|made)|he did|you are right|you're right|you got it|you guessed)\b";
/// A name of an assistant or a maker anywhere.
pub(super) const NAMES_OTHER: &str = r"(?i)\b(?:NAME|SHARED|MAKER)\b";

/// A pattern with the lists put in; `None` only if the table is wrong, which a test excludes.
pub(super) fn compile(pattern: &str) -> Option<Regex> {
    let full = pattern
        .replace("SELF", r"\b(?:i am|i'm|i’m|im|i was|i have been|i've been|i’ve been)")
        .replace("BOT", "(?:NAME|SHARED)")
        .replace("SHARED", SHARED_NAME)
        .replace("NAME", NAME)
        .replace("MAKES", MAKES)
        .replace("MAKER", MAKER)
        .replace("LAB", LABORATORY)
        .replace("FOLKS", FOLKS)
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
