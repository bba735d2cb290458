use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskFile, SystemDisk};
use super::*;
use crate::error::TrainError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Meta {
    stage: String,
    loss: f64,
    seed: u64,
}

fn meta() -> Meta {
    // A float whose shortest decimal form a careless parser gets wrong in the last bit, and an integer beyond 2^53.
    Meta { stage: "pretrain".into(), loss: 1.448_997_445_238_699, seed: u64::MAX }
}

fn weights(step: u64) -> Vec<u8> {
    (0..4096u32).flat_map(|i| (i as f32 * 0.5 + step as f32).to_le_bytes()).collect()
}

fn save(store: &CheckpointStore, step: u64) -> Result<PathBuf, TrainError> {
    let (w, m) = (weights(step), [7u8; 6]);
    store.save(
        step,
        &meta(),
        [
            TensorRef { name: "w", dtype: Dtype::F32, shape: &[64, 64], bytes: (&w).into() },
            TensorRef { name: "m", dtype: Dtype::Bf16, shape: &[3], bytes: (&m).into() },
        ],
    )
}

fn assert_whole(checkpoint: &mut Checkpoint, step: u64) {
    assert_eq!(checkpoint.step(), step);
    assert_eq!(checkpoint.meta::<Meta>().unwrap(), meta());
    assert_eq!(checkpoint.tensor_names(), ["w", "m"]);
    let (mut w, mut m) = (vec![0xff; 64 * 64 * 4], [0; 6]);
    checkpoint.read_tensor("w", Dtype::F32, &[64, 64], &mut w).unwrap();
    checkpoint.read_tensor("m", Dtype::Bf16, &[3], &mut m).unwrap();
    assert!(w == weights(step) && m == [7; 6]);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_saved_comes_back_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path().join("deep/checkpoints"), 2).unwrap();
    let path = save(&store, 123).unwrap();
    assert_eq!(path.file_name().unwrap(), "step-000123");
    assert_eq!(names(&path), ["checksums.txt", "state.json", "tensors.safetensors"]);
    let latest = store.latest_good().unwrap();
    assert!(latest.skipped.is_empty());
    assert_whole(&mut latest.checkpoint.unwrap(), 123);
}

#[test]
fn the_same_state_makes_the_same_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let paths = [a, b].map(|dir| {
        let store = CheckpointStore::new(dir.keep(), 2).unwrap();
        save(&store, 5).unwrap()
    });
    for name in names(&paths[0]) {
        assert_eq!(fs::read(paths[0].join(&name)).unwrap(), fs::read(paths[1].join(&name)).unwrap());
    }
    for path in paths {
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}

#[test]
fn an_empty_directory_has_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let latest = CheckpointStore::new(dir.path(), 2).unwrap().latest_good().unwrap();
    assert!(latest.checkpoint.is_none() && latest.skipped.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_flipped_bit_anywhere_names_its_file_and_an_older_one_serves(place in 0.0f64..1.0, bit in 0u8..8) {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path(), 2).unwrap();
        save(&store, 1).unwrap();
        let path = save(&store, 2).unwrap();
        for name in names(&path) {
            let file = path.join(&name);
            let good = fs::read(&file).unwrap();
            let mut bad = good.clone();
            let offset = (bad.len() as f64 * place) as usize;
            bad[offset] ^= 1 << bit;
            fs::write(&file, &bad).unwrap();
            let latest = store.latest_good().unwrap();
            let error = &latest.skipped[0].error;
            let expected = if name == CHECKSUMS {
                matches!(error, TrainError::CheckpointChecksumList { .. })
            } else {
                matches!(error, TrainError::CheckpointChecksum { .. })
            };
            prop_assert!(expected, "{name} at {offset}: {error}");
            prop_assert!(error.to_string().contains(&name) && latest.skipped[0].path == path);
            assert_whole(&mut latest.checkpoint.unwrap(), 1);
            fs::write(&file, &good).unwrap();
        }
        assert_whole(&mut store.latest_good().unwrap().checkpoint.unwrap(), 2);
    }

    #[test]
    fn a_file_cut_or_lengthened_is_named(place in 0.0f64..1.0) {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path(), 2).unwrap();
        let path = save(&store, 2).unwrap();
        for name in names(&path) {
            let file = path.join(&name);
            let good = fs::read(&file).unwrap();
            for bad in [good[..(good.len() as f64 * place) as usize].to_vec(), [&good[..], b"x"].concat()] {
                fs::write(&file, &bad).unwrap();
                let error = store.open(2).unwrap_err();
                let expected = if name == CHECKSUMS {
                    matches!(error, TrainError::CheckpointChecksumList { .. })
                } else {
                    matches!(error, TrainError::CheckpointLength { .. })
                };
                prop_assert!(expected && error.to_string().contains(&name), "{error}");
            }
            fs::write(&file, &good).unwrap();
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 2).unwrap();
    let path = save(&store, 2).unwrap();
    for name in names(&path) {
        let aside = dir.path().join("aside");
        fs::rename(path.join(&name), &aside).unwrap();
        let error = store.open(2).unwrap_err();
        assert!(matches!(&error, TrainError::CheckpointMissingFile { path: p } if p.ends_with(&name)), "{error}");
        fs::rename(&aside, path.join(&name)).unwrap();
    }
    assert!(matches!(store.open(3), Err(TrainError::CheckpointMissingFile { .. })));
}

/// Writes a list that is consistent in itself over whatever the other files hold now.
fn resign(path: &Path, title: &str) {
    let entries: Vec<_> = [STATE, TENSORS]
        .into_iter()
        .map(|name| {
            let mut sum = checksums::Summing::new(io::sink());
            sum.write_all(&fs::read(path.join(name)).unwrap()).unwrap();
            sum.finish(name).1
        })
        .collect();
    let text = checksums::render(&entries);
    let body = text.replacen(&format!("casallm-checkpoint {FORMAT}"), title, 1);
    let body = &body[..body.trim_end().rfind('\n').unwrap() + 1];
    let sum = xxhash_rust::xxh3::xxh3_128(body.as_bytes());
    fs::write(path.join(CHECKSUMS), format!("{body}{sum:032x}\n")).unwrap();
}

#[test]
fn another_format_is_told_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 2).unwrap();
    let path = save(&store, 2).unwrap();
    resign(&path, &format!("casallm-checkpoint {FORMAT}"));
    assert_whole(&mut store.open(2).unwrap(), 2);

    resign(&path, "casallm-checkpoint 2");
    let error = store.open(2).unwrap_err();
    assert!(matches!(&error, TrainError::CheckpointVersion { found, supported: 1, .. } if found == "2"), "{error}");
}

#[test]
fn whole_files_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 2).unwrap();
    let path = save(&store, 2).unwrap();
    let title = format!("casallm-checkpoint {FORMAT}");
    let state = fs::read_to_string(path.join(STATE)).unwrap();

    fs::rename(&path, store.path_of(3)).unwrap();
    assert!(matches!(store.open(3), Err(TrainError::CheckpointState { .. })), "a renamed directory");
    fs::rename(store.path_of(3), &path).unwrap();

    fs::write(path.join(STATE), state.replacen("\"format\": 1", "\"format\": 9", 1)).unwrap();
    resign(&path, &title);
    assert!(matches!(store.open(2), Err(TrainError::CheckpointVersion { .. })));

    fs::write(path.join(STATE), "{}").unwrap();
    resign(&path, &title);
    assert!(matches!(store.open(2), Err(TrainError::CheckpointState { .. })));
    fs::write(path.join(STATE), &state).unwrap();

    for bad in [&b"\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"\x10\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0{}more"] {
        fs::write(path.join(TENSORS), bad).unwrap();
        resign(&path, &title);
        assert!(matches!(store.open(2), Err(TrainError::CheckpointTensor { .. })));
    }
}

#[test]
fn asking_for_another_tensor_or_state_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 2).unwrap();
    save(&store, 2).unwrap();
    let mut checkpoint = store.open(2).unwrap();
    for (name, dtype, shape, len, said) in [
        ("v", Dtype::F32, &[64, 64][..], 16_384, "not in the checkpoint"),
        ("w", Dtype::Bf16, &[64, 64][..], 16_384, "BF16"),
        ("w", Dtype::F32, &[32, 128][..], 16_384, "[32, 128]"),
        ("w", Dtype::F32, &[64, 64][..], 16_380, "room for 16380"),
    ] {
        let error = checkpoint.read_tensor(name, dtype, shape, &mut vec![0; len]).unwrap_err();
        assert!(matches!(&error, TrainError::CheckpointTensor { name: n, .. } if n == name));
        assert!(error.to_string().contains(said), "{error}");
    }
    let error = checkpoint.meta::<Vec<u8>>().unwrap_err();
    assert!(matches!(error, TrainError::CheckpointState { .. }));
}

#[test]
fn the_last_few_and_the_best_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 2).unwrap();
    for step in [10, 20, 30] {
        save(&store, step).unwrap();
        if step == 20 {
            store.mark_best(20, 1.5).unwrap();
        }
    }
    assert_eq!(store.steps().unwrap(), [20, 30]);
    save(&store, 40).unwrap();
    save(&store, 1_000_000).unwrap();
    assert_eq!(store.steps().unwrap(), [20, 40, 1_000_000]);
    assert_eq!(store.best().unwrap(), Some(Best { step: 20, val_loss: 1.5 }));
    store.mark_best(1_000_000, 1.25).unwrap();
    save(&store, 1_000_001).unwrap();
    assert_eq!(store.steps().unwrap(), [1_000_000, 1_000_001]);
    assert!(matches!(store.mark_best(1, f64::NAN), Err(TrainError::CheckpointBestMark { .. })));
    assert_eq!(names(dir.path()).len(), 3, "{:?}", names(dir.path()));
}

#[test]
fn those_of_every_so_many_steps_are_kept_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 1).unwrap().keeping_every(Some(20));
    for step in [0, 10, 20, 30, 40, 50] {
        save(&store, step).unwrap();
    }
    assert_eq!(store.steps().unwrap(), [20, 40, 50]);
}

#[test]
fn one_of_a_run_that_was_stopped_pushes_out_none_of_the_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let store = || CheckpointStore::new(dir.path(), 2).unwrap().regularly(180, 400);
    let after = |step| {
        save(&store(), step).unwrap();
        store().steps().unwrap()
    };
    assert_eq!(after(0), [0]);
    assert_eq!(after(100), [0, 100]);
    assert_eq!(after(180), [0, 180]);
    assert_eq!(after(184), [0, 180, 184]);
    assert_eq!(after(190), [0, 180, 190]);
    assert_eq!(after(360), [180, 360]);
    // The last step is one of the schedule, whatever its number.
    assert_eq!(after(400), [360, 400]);
    // Of another schedule than the one so far there are none yet: those that are there stand in for them.
    let store = store().regularly(70, 500);
    save(&store, 420).unwrap();
    assert_eq!(store.steps().unwrap(), [400, 420]);
}

#[test]
fn a_run_that_is_set_back_loses_the_way_it_went() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 9).unwrap();
    for step in [1, 2, 3, 4] {
        save(&store, step).unwrap();
    }
    store.mark_best(4, 1.0).unwrap();
    assert_eq!(store.latest_good_of(|step| step <= 3).unwrap().checkpoint.unwrap().step(), 3);
    store.set_back(2, Some(Best { step: 1, val_loss: 2.0 })).unwrap();
    assert_eq!(store.steps().unwrap(), [1, 2]);
    assert_eq!(store.best().unwrap(), Some(Best { step: 1, val_loss: 2.0 }));
    store.set_back(1, None).unwrap();
    assert_eq!((store.steps().unwrap(), store.best().unwrap()), (vec![1], None));
}

#[test]
fn a_disk_too_small_for_all_that_will_be_there_is_refused_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let on = |stated: u64| {
        let disk = SmallDisk { left: Arc::new(u64::MAX.into()), stated };
        CheckpointStore::on(dir.path().into(), 2, Box::new(disk)).unwrap()
    };
    let ahead = Ahead { bytes: 1 << 20, every: 10, step: 0, steps: 100 };
    // Two, the best, one being written, and room beside them.
    let exactly = 5 << 20;
    on(exactly).check_room(ahead).unwrap();
    match on(exactly - 1).check_room(ahead) {
        Err(error @ TrainError::DiskTooSmall { checkpoints: 4, needed: 5_242_880, available: 5_242_879, .. }) => {
            assert!(error.to_string().contains("lower keep_last"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let kept = on(exactly).keeping_every(Some(50)).check_room(ahead);
    assert!(matches!(kept, Err(TrainError::DiskTooSmall { checkpoints: 6, .. })), "{kept:?}");
    // A short run writes fewer, one that is done none, and those that are there are there.
    on(2 << 20).check_room(Ahead { step: 90, ..ahead }).unwrap();
    on(0).check_room(Ahead { step: 100, ..ahead }).unwrap();
    (1..=3).for_each(|step| drop(save(&on(u64::MAX), step).unwrap()));
    on(3 << 20).check_room(Ahead { step: 30, ..ahead }).unwrap();
    assert!(on((3 << 20) - 1).check_room(Ahead { step: 30, ..ahead }).is_err());
    // That of a run that was stopped is there until the next of the schedule is.
    let stopped = |stated| on(stated).regularly(2, 100).check_room(Ahead { step: 30, ..ahead });
    stopped(4 << 20).unwrap();
    assert!(stopped((4 << 20) - 1).is_err());
}

#[test]
fn a_damaged_mark_is_an_error_and_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 1).unwrap();
    save(&store, 1).unwrap();
    fs::write(dir.path().join("best.json"), "{").unwrap();
    assert!(matches!(store.best(), Err(TrainError::CheckpointBestMark { .. })));
    save(&store, 2).unwrap();
    assert_eq!(store.steps().unwrap(), [1, 2]);
    store.mark_best(2, 1.0).unwrap();
    save(&store, 3).unwrap();
    assert_eq!(store.steps().unwrap(), [2, 3]);
}

#[test]
fn a_damaged_newer_checkpoint_pushes_out_no_good_one_and_is_replaced_in_passing() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 1).unwrap();
    save(&store, 1).unwrap();
    save(&store, 9).unwrap();
    fs::write(store.path_of(9).join(TENSORS), "junk").unwrap();
    save(&store, 2).unwrap();
    let latest = store.latest_good().unwrap();
    assert_eq!((latest.checkpoint.unwrap().step(), latest.skipped.len()), (2, 1));
    save(&store, 9).unwrap();
    assert_whole(&mut store.open(9).unwrap(), 9);
    assert_eq!(names(dir.path()), ["step-000009"]);
}

#[test]
fn leftovers_of_a_killed_process_are_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 2).unwrap();
    save(&store, 1).unwrap();
    fs::create_dir(dir.path().join(".tmp-step-000002")).unwrap();
    fs::write(dir.path().join(".tmp-step-000002/tensors.safetensors"), "half").unwrap();
    fs::write(dir.path().join(".tmp-best.json"), "{").unwrap();
    fs::create_dir(dir.path().join("step-7")).unwrap();
    let store = CheckpointStore::new(dir.path(), 2).unwrap();
    assert_eq!(names(dir.path()), ["step-000001", "step-7"], "what is not ours stays");
    assert_eq!(store.steps().unwrap(), [1]);

    // Killed between the two renames of a replacement: the old one is the only one there is.
    fs::rename(store.path_of(1), dir.path().join(".tmp-replaced-step-000001")).unwrap();
    let store = CheckpointStore::new(dir.path(), 2).unwrap();
    assert_whole(&mut store.latest_good().unwrap().checkpoint.unwrap(), 1);
    // Killed after them: it is not needed any more.
    fs::create_dir(dir.path().join(".tmp-replaced-step-000001")).unwrap();
    CheckpointStore::new(dir.path(), 2).unwrap();
    assert_eq!(names(dir.path()), ["step-000001", "step-7"]);
}

/// A disk with room for `left` bytes, and a statement of how much is free that need not be true.
#[derive(Debug, Clone)]
struct SmallDisk {
    left: Arc<AtomicU64>,
    stated: u64,
}

struct SmallFile(File, Arc<AtomicU64>);

impl Disk for SmallDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SmallFile(File::create_new(path)?, self.left.clone())))
    }

    fn available(&self, _: &Path) -> io::Result<u64> {
        Ok(self.stated)
    }
}

impl Write for SmallFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.1.load(Ordering::Relaxed);
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = self.0.write(&bytes[..bytes.len().min(room as usize)])?;
        self.1.fetch_sub(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl DiskFile for SmallFile {
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }
}

#[test]
fn a_disk_that_fills_at_any_byte_leaves_the_older_checkpoint_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&CheckpointStore::new(dir.path(), 1).unwrap(), 1).unwrap();
    let size: u64 = names(&path).iter().map(|name| fs::metadata(path.join(name)).unwrap().len()).sum();
    for room in [0, 1, 50, 200, size / 2, size - 100, size - 1] {
        let disk = SmallDisk { left: Arc::new(room.into()), stated: u64::MAX };
        let store = CheckpointStore::on(dir.path().into(), 1, Box::new(disk)).unwrap();
        let error = save(&store, 2).unwrap_err();
        assert!(matches!(error, TrainError::DiskFull { available: None, .. }), "{room}: {error}");
        assert_eq!(names(dir.path()), ["step-000001"]);
        assert_whole(&mut store.latest_good().unwrap().checkpoint.unwrap(), 1);
    }
    let disk = SmallDisk { left: Arc::new(size.into()), stated: u64::MAX };
    save(&CheckpointStore::on(dir.path().into(), 1, Box::new(disk)).unwrap(), 2).unwrap();
    assert_eq!(names(dir.path()), ["step-000002"]);
}

#[test]
fn a_disk_without_room_is_refused_before_a_byte_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk { left: Arc::new(u64::MAX.into()), stated: 1000 };
    let store = CheckpointStore::on(dir.path().into(), 1, Box::new(disk.clone())).unwrap();
    let error = save(&store, 2).unwrap_err();
    assert!(matches!(error, TrainError::DiskFull { available: Some(1000), .. }), "{error}");
    assert!(error.to_string().contains("1000 are free"), "{error}");
    assert_eq!(disk.left.load(Ordering::Relaxed), u64::MAX);
    assert!(names(dir.path()).is_empty());
    assert!(SystemDisk.available(dir.path()).unwrap() > 0);
}

/// A real device that is always full.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct DevFull;

#[cfg(target_os = "linux")]
impl Disk for DevFull {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if path.ends_with(STATE) {
            return SystemDisk.create(path);
        }
        Ok(Box::new(OpenOptions::new().write(true).open("/dev/full")?))
    }

    fn available(&self, _: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_kernels_own_no_space_left_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    save(&CheckpointStore::new(dir.path(), 1).unwrap(), 1).unwrap();
    let store = CheckpointStore::on(dir.path().into(), 1, Box::new(DevFull)).unwrap();
    let error = save(&store, 2).unwrap_err();
    assert!(matches!(&error, TrainError::DiskFull { path, .. } if path.ends_with(TENSORS)), "{error}");
    assert_eq!(names(dir.path()), ["step-000001"]);
}

#[test]
fn state_and_tensors_that_cannot_be_written_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(dir.path(), 1).unwrap();
    let short = [TensorRef { name: "w", dtype: Dtype::F32, shape: &[2], bytes: (&[0_u8; 4]).into() }];
    assert!(matches!(store.save(1, &meta(), short), Err(TrainError::CheckpointTensor { name, .. }) if name == "w"));
    // JSON has no objects with such keys.
    let keys = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(matches!(store.save(1, &keys, []), Err(TrainError::CheckpointState { .. })));
    assert!(names(dir.path()).is_empty());
}
