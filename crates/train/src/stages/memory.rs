//! Micro-batch and recomputation of a stage, where the recipe leaves them open.

use casallm_compute::Device;
use casallm_model::error::ModelError;

use super::dpo::dpo_config;
use super::sft::sft_config;
use super::{RunDir, config_of, matrices_of, pretrain_config};
use crate::checkpoint::CheckpointStore;
use crate::error::TrainError;
use crate::planning::{Asked, Level, MemoryChoice, Planner};
use crate::recipe::{Recipe, Stage};
use crate::snapshot::Progress;
use crate::trainer::TrainerConfig;

/// A recipe whose stage has its micro-batch.
pub struct Sized {
    /// The recipe.
    pub recipe: Recipe,
    /// The micro-batch, the recomputation, and the memory they take.
    pub choice: MemoryChoice,
}

/// Settles what a stage leaves open. A run that has begun goes on with the micro-batch of its checkpoints, whatever fits
/// today: rounding depends on it.
///
/// # Errors
/// It does not fit, or the model has what the device does not; the recipe has no such stage.
pub fn sized<D: Device>(
    recipe: &Recipe,
    stage: Stage,
    device: &D,
    available: Option<u64>,
) -> Result<Sized, TrainError> {
    let (config, mut asked) = open_questions(recipe, stage)?;
    if asked.micro_batch.is_none() {
        asked.micro_batch = begun_with(recipe, stage)?;
    }
    let model = config_of(recipe)?;
    device.supports_heads(model.head_dim).map_err(ModelError::from)?;
    let matrices = matrices_of(recipe.run.precision);
    let choice = Planner { device, model: &model, matrices, config: &config, available }.choose(asked)?;
    Ok(Sized { recipe: recipe.with_micro_batch(stage, choice.micro_batch), choice })
}

/// What each level of recomputation allows, and the choice for a run that has not begun, or why there is none.
///
/// # Errors
/// The recipe has no such stage, or the model has what the device does not.
pub fn memory_levels<D: Device>(
    recipe: &Recipe,
    stage: Stage,
    device: &D,
    available: Option<u64>,
) -> Result<(Vec<Level>, Result<MemoryChoice, TrainError>), TrainError> {
    let (config, asked) = open_questions(recipe, stage)?;
    let model = config_of(recipe)?;
    device.supports_heads(model.head_dim).map_err(ModelError::from)?;
    let matrices = matrices_of(recipe.run.precision);
    let planner = Planner { device, model: &model, matrices, config: &config, available };
    Ok((planner.levels(), planner.choose(asked)))
}

fn open_questions(recipe: &Recipe, stage: Stage) -> Result<(TrainerConfig, Asked), TrainError> {
    Ok(match stage {
        Stage::Pretrain => {
            let keys = recipe.pretrain()?;
            let asked = Asked { micro_batch: keys.micro_batch.given(), recompute: keys.recompute.given() };
            (pretrain_config(recipe)?, asked)
        }
        Stage::Sft => {
            let keys = recipe.sft()?;
            let asked = Asked { micro_batch: keys.micro_batch.given(), recompute: keys.recompute.given() };
            // No memory depends on the number of steps.
            (sft_config(recipe, 1)?, asked)
        }
        Stage::Dpo => {
            let keys = recipe.dpo()?;
            let asked = Asked { micro_batch: keys.micro_batch.given(), recompute: keys.recompute.given() };
            (dpo_config(recipe, 1)?, asked)
        }
    })
}

/// The micro-batch that the stage's checkpoints were made with.
fn begun_with(recipe: &Recipe, stage: Stage) -> Result<Option<usize>, TrainError> {
    let directory = RunDir::new(&recipe.run.dir).checkpoints(stage);
    if !directory.exists() {
        return Ok(None);
    }
    let Some(progress) = CheckpointStore::new(directory, 1)?.newest_meta::<Progress>()? else { return Ok(None) };
    let rows = progress.settings.parse::<toml::Table>().ok().and_then(|settings| {
        let rows = settings.get(stage.name())?.get("micro_batch")?.as_integer()?;
        usize::try_from(rows).ok()
    });
    Ok(rows.filter(|rows| *rows > 0))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use casallm_compute::{CpuDevice, Isa};
    use casallm_model::workspace::Recompute;

    use super::*;
    use crate::recipe::{Choice, RawRecipe};

    fn recipe(dir: &Path) -> Recipe {
        let text = format!(
            "[tokenizer]\nvocab_size = 300\n[[data.pretrain]]\nname = \"a\"\npath = \"a\"\n\
             [model]\nn_layer = 2\nn_embd = 32\nn_head = 2\ncontext = 1024\n[run]\ndir = \"{}\"\n\
             [pretrain]\nsteps = 9\nbatch_tokens = 65536\nmicro_batch = \"auto\"\n",
            dir.display()
        );
        RawRecipe::parse(&text, "test.toml", Path::new("")).unwrap().validate().unwrap()
    }

    #[test]
    fn a_run_goes_on_with_the_micro_batch_it_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = recipe(folder.path());
        let device = CpuDevice::new(1, Isa::Portable).unwrap();
        let sized = |available| sized(&recipe, Stage::Pretrain, &device, available).unwrap();
        let plenty = sized(None);
        assert_eq!((plenty.choice.micro_batch, plenty.choice.recompute), (32, Recompute::Light));
        assert_eq!(plenty.recipe.pretrain().unwrap().micro_batch, Choice::Given(32));

        let scarce = sized(Some(plenty.choice.plan.total() - 1));
        let begun_with = scarce.choice.micro_batch;
        assert!(begun_with < 32);
        let settings = scarce.recipe.stage_toml(Stage::Pretrain).unwrap();
        let store = CheckpointStore::new(RunDir::new(folder.path()).checkpoints(Stage::Pretrain), 2).unwrap();
        for step in [3, 6] {
            let progress = Progress { settings: settings.clone(), ..Default::default() };
            store.save(step, &progress, std::iter::empty()).unwrap();
        }
        let resumed = sized(None);
        assert_eq!(resumed.choice.micro_batch, begun_with);
        assert_eq!(resumed.recipe.stage_toml(Stage::Pretrain).unwrap(), settings);
        // A damaged state is passed over here; whoever loads the checkpoint says what is wrong.
        std::fs::write(store.path_of(6).join("state.json"), "{").unwrap();
        assert_eq!(sized(None).choice.micro_batch, begun_with);
        // With so little that it no longer fits at any level, nothing else is taken in its place.
        let error = super::sized(&recipe, Stage::Pretrain, &device, Some(1 << 20)).err().unwrap();
        assert!(matches!(error, TrainError::DoesNotFit { .. }), "{error}");
    }
}
