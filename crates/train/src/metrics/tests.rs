use super::*;
use proptest::prelude::*;

fn row(stage: Stage, step: u64) -> MetricsRow {
    let val = SourceValidation { loss: Some(3.0 / 7.0), bits_per_byte: Some(0.1 + 0.2) };
    MetricsRow {
        step,
        stage,
        tokens: step * 1000,
        loss: Some(1.0 / (step as f64 + 3.0)),
        val_loss: step.is_multiple_of(5).then_some(1.1),
        bits_per_byte: None,
        val: if step.is_multiple_of(5) { BTreeMap::from([("books".into(), val)]) } else { BTreeMap::new() },
        accuracy: None,
        preference: None,
        val_preference: None,
        lr: 3e-4,
        grad_norm: Some(0.3),
        timing: Timing { seconds: Some(step as f64 * 0.7), tokens_per_s: Some(5600.1), ..Default::default() },
    }
}

fn after(step: u64) -> Option<Position> {
    Some(Position { step, lines: None })
}

fn log(path: &Path, stage: Stage, from: Option<u64>, steps: std::ops::RangeInclusive<u64>) {
    let mut log = MetricsLog::open(path, stage, from.and_then(after)).unwrap();
    for step in steps {
        log.append(&row(stage, step)).unwrap();
    }
    log.for_sync().unwrap().sync_data().unwrap();
}

#[test]
fn rows_come_back_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    assert_eq!(read(&path).unwrap(), []);
    log(&path, Stage::Pretrain, None, 0..=12);
    assert_eq!(read(&path).unwrap(), (0..=12).map(|step| row(Stage::Pretrain, step)).collect::<Vec<_>>());
}

#[test]
fn a_resumed_log_equals_one_that_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, resumed) = (dir.path().join("whole"), dir.path().join("resumed"));
    log(&whole, Stage::Pretrain, None, 0..=20);
    log(&resumed, Stage::Pretrain, None, 0..=13);
    log(&resumed, Stage::Pretrain, Some(10), 11..=20);
    assert_eq!(fs::read(&resumed).unwrap(), fs::read(&whole).unwrap());
}

#[test]
fn a_new_start_drops_its_own_rows_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    log(&path, Stage::Pretrain, None, 0..=3);
    log(&path, Stage::Sft, None, 0..=9);
    log(&path, Stage::Sft, None, 0..=2);
    log(&path, Stage::Sft, Some(1), 2..=2);
    let found: Vec<_> = read(&path).unwrap().iter().map(|row| (row.stage, row.step)).collect();
    let expected: Vec<_> = (0..=3).map(|s| (Stage::Pretrain, s)).chain((0..=2).map(|s| (Stage::Sft, s))).collect();
    assert_eq!(found, expected);
}

#[test]
fn non_finite_numbers_are_null() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut bad = row(Stage::Sft, 1);
    bad.loss = Some(f64::NAN);
    bad.timing.tokens_per_s = Some(f64::INFINITY);
    MetricsLog::open(&path, Stage::Sft, None).unwrap().append(&bad).unwrap();
    let read = read(&path).unwrap();
    assert_eq!((read[0].loss, read[0].timing.tokens_per_s), (None, None));
}

#[test]
fn only_the_timing_may_differ() {
    let a = row(Stage::Sft, 1);
    let mut b = a.clone();
    b.timing = Timing { seconds: Some(9.0), checkpoint_s: Some(0.5), ..Default::default() };
    assert_eq!(a.reproducible_line().unwrap(), b.reproducible_line().unwrap());
    b.loss = b.loss.map(|loss| loss + f64::EPSILON);
    assert_ne!(a.reproducible_line().unwrap(), b.reproducible_line().unwrap());
}

#[test]
fn a_bad_line_in_the_middle_is_named_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    log(&path, Stage::Pretrain, None, 1..=3);
    let text = fs::read_to_string(&path).unwrap().replacen("\"step\":2", "\"step\":two", 1);
    fs::write(&path, &text).unwrap();
    for error in [read(&path).unwrap_err(), MetricsLog::open(&path, Stage::Pretrain, after(1)).unwrap_err()] {
        assert!(matches!(error, TrainError::MetricsLine { line: 2, .. }), "{error}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_full_disk_does_not_take_waits_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut log = MetricsLog::open(&path, Stage::Sft, None).unwrap();
    let room = std::mem::replace(&mut log.file, OpenOptions::new().append(true).open("/dev/full").unwrap());
    log.append(&row(Stage::Sft, 1)).unwrap();
    log.append(&row(Stage::Sft, 2)).unwrap();
    assert!(log.waits_for().unwrap().contains("the disk is full"));
    let error = log.for_sync().unwrap_err();
    assert!(matches!(error, TrainError::DiskFull { available: None, .. }), "{error}");
    log.file = room;
    log.append(&row(Stage::Sft, 3)).unwrap();
    assert_eq!(log.waits_for(), None);
    assert_eq!(read(&path).unwrap(), (1..=3).map(|step| row(Stage::Sft, step)).collect::<Vec<_>>());
    // There is an end to it.
    log.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
    log.waiting = vec![b' '; MOST_WAITING];
    assert!(matches!(log.append(&row(Stage::Sft, 4)), Err(TrainError::DiskFull { .. })));
}

#[test]
fn a_checkpoints_place_is_counted_in_what_comes_again() {
    use crate::events::What;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let event = |step, what| Event { what, step, stage: Stage::Pretrain };
    let back = || What::RolledBack { to: 2, passed_over: vec![3] };
    log(&path, Stage::Pretrain, None, 1..=2);
    let mut log = MetricsLog::open(&path, Stage::Pretrain, after(2)).unwrap();
    // Back from step 4, which is told before step 3 is done again; the machine's own event lies in between.
    log.append_event(&event(4, back())).unwrap();
    log.append_event(&event(2, What::Resumed)).unwrap();
    log.append(&row(Stage::Pretrain, 3)).unwrap();
    assert_eq!(log.lines(), 4);
    let whole = fs::read(&path).unwrap();
    log.append(&row(Stage::Pretrain, 4)).unwrap();
    drop(log);
    let place = |lines| Some(Position { step: 3, lines: Some(lines) });
    assert_eq!(MetricsLog::open(&path, Stage::Pretrain, place(4)).unwrap().lines(), 4);
    assert_eq!(fs::read(&path).unwrap(), whole);
    MetricsLog::open(&path, Stage::Pretrain, place(2)).unwrap();
    assert_eq!(read_events(&path).unwrap(), [event(2, What::Resumed)]);
    assert_eq!(read(&path).unwrap().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_file_cut_anywhere_loses_only_its_torn_line(place in 0.0f64..=1.0, zeros in 0usize..5) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        log(&path, Stage::Pretrain, None, 1..=6);
        let whole = fs::read(&path).unwrap();
        let mut cut = whole[..(whole.len() as f64 * place) as usize].to_vec();
        let complete = cut.iter().filter(|byte| **byte == b'\n').count() as u64;
        // A power cut may leave a file that is longer than what was written, filled with zeros.
        cut.resize(cut.len() + zeros, 0);
        fs::write(&path, &cut).unwrap();
        prop_assert_eq!(read(&path).unwrap().len() as u64, complete);
        log(&path, Stage::Pretrain, Some(complete), complete + 1..=6);
        prop_assert_eq!(fs::read(&path).unwrap(), whole);
    }
}
