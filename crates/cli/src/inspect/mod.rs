//! `casallm data inspect`: what the model will see, before it is paid for.

pub(crate) mod flags;
mod look;
mod numbers;

use anyhow::{Result, bail};
use casallm_data::batch::Batch;
use casallm_train::recipe::{Recipe, Stage};
use casallm_train::stages::{self, Inspected};
use serde_json::{Value, json};

use crate::Ended;
use crate::console::Console;
use crate::streams::print;
use flags::{Inspect, InspectedStage};
use look::{Look, sequence};

/// Shows a stage's first batches, and all of its data in numbers.
pub(crate) fn run(flags: &Inspect) -> Result<Ended> {
    let recipe = Recipe::load(&flags.recipe, &flags.overrides)?;
    let stage = match flags.stage {
        Some(InspectedStage::Pretrain) => Stage::Pretrain,
        Some(InspectedStage::Sft) => Stage::Sft,
        Some(InspectedStage::Dpo) => Stage::Dpo,
        None if recipe.sft.is_some() => Stage::Sft,
        None if recipe.pretrain.is_some() => Stage::Pretrain,
        None => Stage::Dpo,
    };
    if flags.output.quiet && !flags.output.json {
        bail!("--quiet would print nothing: leave it out, or add --json");
    }
    let mut console = Console::new(&flags.output);
    let found = stages::inspect(&recipe, stage, flags.batches, &mut console)?;
    console.clear();
    if flags.output.json {
        for (number, batch) in found.batches.iter().enumerate() {
            console.emit(&as_json(&found, number, batch));
        }
        console.emit(&json!({
            "stage": stage.name(), "steps": found.steps, "step_tokens": found.step_tokens, "data": found.data,
        }));
        return console.ended(Ended::Done);
    }
    let look = Look::of_stdout();
    if !found.batches.is_empty() {
        print(&look.legend())?;
    }
    for (number, batch) in found.batches.iter().enumerate() {
        show(&found, number, batch, look)?;
    }
    for line in numbers::lines(&found) {
        print(&line)?;
    }
    console.ended(Ended::Done)
}

/// What a sequence of a batch is called.
fn name(stage: Stage, index: usize) -> String {
    match stage {
        Stage::Pretrain => format!("row {}", index + 1),
        Stage::Sft => format!("conversation {}", index + 1),
        Stage::Dpo => {
            format!("pair {}, {}", index / 2 + 1, if index.is_multiple_of(2) { "chosen" } else { "rejected" })
        }
    }
}

fn learned(mask: &[bool]) -> usize {
    mask.iter().filter(|learned| **learned).count()
}

fn show(found: &Inspected, number: usize, batch: &Batch, look: Look) -> Result<()> {
    let count = batch.cu_seqlens.len() - 1;
    print(&format!(
        "\nbatch {}: {count} sequences that do not see each other, {} tokens, {} learned",
        number + 1,
        batch.len(),
        batch.supervised()
    ))?;
    for index in 0..count {
        let (ids, mask) = sequence(batch, index);
        let name = name(found.stage, index);
        print(&format!("\n── {name}: {} tokens, {} learned", ids.len(), learned(&mask)))?;
        print(&look.text(&ids, &mask, &found.tokenizer))?;
    }
    print("")
}

fn as_json(found: &Inspected, number: usize, batch: &Batch) -> Value {
    let one = |index: usize| {
        let (ids, mask) = sequence(batch, index);
        let text = Look::Brackets.text(&ids, &mask, &found.tokenizer);
        let mask: Vec<u8> = mask.into_iter().map(u8::from).collect();
        json!({ "name": name(found.stage, index), "ids": ids, "learned": mask, "text": text })
    };
    let sequences: Vec<Value> = (0..batch.cu_seqlens.len() - 1).map(one).collect();
    json!({ "batch": number, "tokens": batch.len(), "learned": batch.supervised(), "sequences": sequences })
}
