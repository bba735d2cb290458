//! `[run.guard]`.

use super::section::{Interval, Section};
use super::{Recipe, Stage};
use crate::error::TrainError;
use crate::events::Action;
use crate::guard::GuardConfig;

/// Reads the section; all defaults where there is none.
pub(super) fn read(run: &Section<'_>) -> Result<GuardConfig, TrainError> {
    let default = GuardConfig::default();
    let Some(section) = run.section("guard")? else { return Ok(default) };
    let (skip, rollback) = (("skip", Action::Skip), ("rollback", Action::Rollback));
    Ok(GuardConfig {
        window: section.size("window", 2, 1 << 16)?.unwrap_or(default.window),
        z: section.number("z", Interval::POSITIVE.up_to(1e6))?.unwrap_or(default.z),
        spike: section.choice("spike", &[("warn", Action::Warn), skip, rollback])?.unwrap_or(default.spike),
        non_finite: section
            .choice("non_finite", &[("stop", Action::Stop), skip, rollback])?
            .unwrap_or(default.non_finite),
        before: section.integer("before", 0, 1 << 20)?.unwrap_or(default.before),
    })
}

/// Refuses a rollback for which no checkpoint old enough is kept.
pub(super) fn check_kept(run: &Section<'_>, recipe: &Recipe) -> Result<(), TrainError> {
    let GuardConfig { before, .. } = recipe.run.guard;
    if !recipe.run.guard.goes_back() {
        return Ok(());
    }
    let stages = [
        recipe.pretrain.as_ref().map(|s| (Stage::Pretrain, s.checkpoint_every, s.keep_last)),
        recipe.sft.as_ref().map(|s| (Stage::Sft, s.checkpoint_every, s.keep_last)),
        recipe.dpo.as_ref().map(|s| (Stage::Dpo, s.checkpoint_every, s.keep_last)),
    ];
    for (stage, every, keep_last) in stages.into_iter().flatten() {
        let oldest = every.saturating_mul(keep_last as u64 - 1);
        if oldest < before {
            let stage = stage.name();
            return Err(run.bad(
                "guard.before",
                before,
                format!(
                    "a rollback goes back so many steps, and {stage}.keep_last = {keep_last} with checkpoint_every = \
                     {every} keeps none older than {oldest}: raise {stage}.keep_last, or lower this"
                ),
            ));
        }
    }
    Ok(())
}
