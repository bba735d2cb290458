//! [`KNOWN`]: data sets that have a short name, and what is worth knowing of them.

/// What a data set is for, as recipes and `casallm eval` see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Documents, in the column `text`.
    Pretrain,
    /// Conversations.
    Sft,
    /// Preference pairs.
    Dpo,
    /// A benchmark task of this name.
    Eval(&'static str),
}

/// A data set with a short name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// As people type it.
    pub name: &'static str,
    /// On the Hub.
    pub repository: &'static str,
    /// What is taken unless another configuration is asked for.
    pub config: Option<&'static str>,
    /// The files of that, where no card needs to be asked.
    pub include: &'static [&'static str],
    /// What it is for.
    pub used: Use,
    /// Tokens of a byte of its files, where its authors or users have counted them.
    pub tokens_per_byte: Option<f64>,
}

const fn eval(name: &'static str, repository: &'static str, include: &'static [&'static str]) -> Known {
    Known { name, repository, config: None, include, used: Use::Eval(name), tokens_per_byte: None }
}

/// All of them, in the order of lists.
pub const KNOWN: &[Known] = &[
    // 10 billion tokens of GPT-2's vocabulary in 14 files of 2.15 GB at most: 750 million a file.
    Known {
        name: "fineweb-edu",
        repository: "HuggingFaceFW/fineweb-edu",
        config: Some("sample-10BT"),
        include: &["sample/10BT/*.parquet"],
        used: Use::Pretrain,
        tokens_per_byte: Some(0.35),
    },
    Known {
        name: "fineweb",
        repository: "HuggingFaceFW/fineweb",
        config: Some("sample-10BT"),
        include: &["sample/10BT/*.parquet"],
        used: Use::Pretrain,
        tokens_per_byte: Some(0.35),
    },
    // NVIDIA's mixture as text, shuffled: 400 billion tokens in 6543 files of about 95 MB.
    Known {
        name: "climbmix",
        repository: "karpathy/climbmix-400b-shuffle",
        config: None,
        include: &["shard_*.parquet"],
        used: Use::Pretrain,
        tokens_per_byte: Some(0.6),
    },
    Known {
        name: "ultrachat_200k",
        repository: "HuggingFaceH4/ultrachat_200k",
        config: None,
        include: &["data/train_sft-*.parquet"],
        used: Use::Sft,
        tokens_per_byte: None,
    },
    Known {
        name: "alpaca-cleaned",
        repository: "yahma/alpaca-cleaned",
        config: None,
        include: &["alpaca_data_cleaned.json"],
        used: Use::Sft,
        tokens_per_byte: None,
    },
    Known {
        name: "orca-dpo-pairs",
        repository: "Intel/orca_dpo_pairs",
        config: None,
        include: &["orca_rlhf.jsonl"],
        used: Use::Dpo,
        tokens_per_byte: None,
    },
    // The tasks of `casallm eval`, from where lm-evaluation-harness takes them. Where a repository has only a program on its
    // main branch, the Hub's own conversion to parquet is asked for the same folders.
    eval("hellaswag", "Rowan/hellaswag", &["**/train*", "**/validation*", "**/train/*", "**/validation/*"]),
    eval("arc_easy", "allenai/ai2_arc", &["ARC-Easy/**"]),
    eval("arc_challenge", "allenai/ai2_arc", &["ARC-Challenge/**"]),
    eval("piqa", "baber/piqa", &["**/train*", "**/validation*", "**/train/*", "**/validation/*"]),
    eval("winogrande", "allenai/winogrande", &["winogrande_xl/**"]),
    eval("openbookqa", "allenai/openbookqa", &["main/**"]),
    eval("boolq", "google/boolq", &["**/train*", "**/validation*", "**/train/*", "**/validation/*"]),
    eval("lambada_openai", "EleutherAI/lambada_openai", &["default/**", "data/lambada_test.jsonl"]),
    eval(
        "mmlu",
        "cais/mmlu",
        &["all/dev*", "all/test*", "all/validation*", "all/dev/*", "all/test/*", "all/validation/*"],
    ),
    eval("sciq", "allenai/sciq", &["**/train*", "**/test*", "**/train/*", "**/test/*"]),
    eval("commonsense_qa", "tau/commonsense_qa", &["**/train*", "**/validation*", "**/train/*", "**/validation/*"]),
    eval("gsm8k", "openai/gsm8k", &["main/**"]),
];

impl Known {
    /// The one of this name.
    pub fn find(name: &str) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// The files of a configuration, where its name tells them.
    pub(super) fn include_of(&self, config: &str) -> Option<Vec<String>> {
        match self.name {
            "fineweb" | "fineweb-edu" => Some(vec![match (config, config.strip_prefix("sample-")) {
                (_, Some(sample)) => format!("sample/{sample}/*.parquet"),
                ("default", _) => "data/**/*.parquet".to_owned(),
                (dump, _) => format!("data/{dump}/*.parquet"),
            }]),
            _ => None,
        }
    }
}

/// Those that `casallm eval` reads.
pub fn eval_sets() -> impl Iterator<Item = &'static Known> {
    KNOWN.iter().filter(|known| matches!(known.used, Use::Eval(_)))
}
