//! The flags of `casallm fetch`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::args::Output;

/// Flags of `fetch`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Honoured, as by the Hub's own programs: HF_ENDPOINT, HF_TOKEN (and the token that `huggingface-cli \
    login` leaves), HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HTTPS_PROXY, NO_PROXY. Run the same command again to go on after an \
    interruption: what has arrived is not fetched again."
)]
pub struct Fetch {
    /// fineweb-edu, fineweb, climbmix, ultrachat_200k, alpaca-cleaned, orca-dpo-pairs, a task of `casallm eval` (hellaswag,
    /// arc_easy, ...), `eval` for all of these tasks, or owner/name of any data set on the Hub
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Folder for the files [default: data/NAME]
    #[arg(long, short)]
    pub out: Option<PathBuf>,
    /// A configuration of the data set, such as sample-100BT or CC-MAIN-2024-10 [default of fineweb and fineweb-edu: sample-10BT]
    #[arg(long)]
    pub config: Option<String>,
    /// Only files that fit this pattern, instead of a configuration's; without a `/` it is of names in any folder (may be
    /// given again)
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// A branch, a tag or a commit [default: the commit that the folder has, or main]
    #[arg(long)]
    pub revision: Option<String>,
    /// Only as many files as so many tokens need, by an estimate: 500M, 10B, 2.5e9
    #[arg(long, value_parser = count)]
    pub tokens: Option<u64>,
    /// Key or column that holds the text, for the lines that go into a recipe
    #[arg(long)]
    pub text_field: Option<String>,
    /// Files fetched at a time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub parallel: u8,
    /// Seconds that a server may be silent before it is asked again
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub timeout: Duration,
    /// Failures of one file that are borne before it is given up
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub tries: u32,
    /// Seconds before the first repetition; each further one waits twice as long, up to a minute
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub retry_wait: Duration,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

/// A number of tokens: `500M`, `10B`, `2.5e9`.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.trim().to_ascii_uppercase() {
        t if t.ends_with('K') => (t[..t.len() - 1].to_owned(), 1e3),
        t if t.ends_with('M') => (t[..t.len() - 1].to_owned(), 1e6),
        t if t.ends_with('B') => (t[..t.len() - 1].to_owned(), 1e9),
        t if t.ends_with('T') => (t[..t.len() - 1].to_owned(), 1e12),
        t => (t, 1.0),
    };
    match digits.trim().parse::<f64>().map(|number| number * factor) {
        Ok(number) if (1.0..1e16).contains(&number) => Ok(number as u64),
        _ => Err("write a number of tokens from 1 on, like 500M or 10B".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write seconds from 0.001 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_written_as_people_write_them() {
        for (text, tokens) in [
            ("500M", 500_000_000),
            ("10B", 10_000_000_000),
            ("2.5e9", 2_500_000_000),
            ("7", 7),
            ("1.5k", 1500),
            ("1T", 1_000_000_000_000),
        ] {
            assert_eq!(count(text), Ok(tokens), "{text}");
        }
        for text in ["", "0", "-1B", "B", "inf", "NaN", "1e99", "ten"] {
            assert!(count(text).is_err(), "{text}");
        }
    }
}
