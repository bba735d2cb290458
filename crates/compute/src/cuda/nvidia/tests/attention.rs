//! Attention on the fake cuDNN, which computes what its descriptors say; "ours" is the reference's result, uploaded.

use std::cell::Cell;
use std::sync::Arc;

use super::super::{CudnnUse, NvidiaDriver, NvidiaSettings};
use super::fakes::Machine;
use super::{bytes, download};
use crate::cuda::CudaDevice;
use crate::cuda::attention::{Backward, Forward};
use crate::cuda::driver::{Address, Attention, AttentionPass, Driver};
use crate::cuda::recorder::Recorder;
use crate::device::{AttentionShape, Device, ScratchShape, Span};
use crate::dtype::{Bf16, DType};
use crate::reference::attention as reference;

const SEQUENCES: usize = 2;
const LENGTH: usize = 128;
const SHAPE: AttentionShape = AttentionShape { n_head: 2, n_kv_head: 2, head_dim: 64 };
const SHARED: AttentionShape = AttentionShape { n_head: 4, n_kv_head: 2, head_dim: 128 };

fn bf16(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|x| Bf16::from_f32(*x as f32).0.to_le_bytes()).collect()
}

fn widened(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<2>().0.iter().map(|b| f64::from(Bf16(u16::from_le_bytes(*b)).to_f32())).collect()
}

fn spans(length: usize) -> Vec<Span> {
    let span = |i| Span { q_start: i * length, q_len: length, kv_start: i * length, kv_len: length };
    (0..SEQUENCES).map(span).collect()
}

/// Where results go, and what is right.
type Wanted = Vec<(Address, Vec<u8>)>;

/// Operands on a driver's device, and what the reference makes of them.
struct Case {
    forward: Attention,
    backward: Attention,
    /// Out and log-sum-exps; dq, dk and dv.
    wanted: [Wanted; 2],
    /// How often "ours" was asked for.
    ours: Cell<usize>,
}

impl Case {
    fn new(driver: &dyn Driver, shape: AttentionShape, seed: u64) -> Self {
        Self::of_length(driver, shape, LENGTH, seed)
    }

    fn of_length(driver: &dyn Driver, shape: AttentionShape, length: usize, seed: u64) -> Self {
        let AttentionShape { n_head, n_kv_head, head_dim } = shape;
        let tokens = SEQUENCES * length;
        let values = |heads: usize, seed| -> Vec<f64> {
            bytes(tokens * heads * head_dim, seed).into_iter().map(|byte| (f64::from(byte) - 127.5) / 64.0).collect()
        };
        let place = |bytes: &[u8]| {
            let at = driver.allocate(bytes.len()).unwrap();
            driver.upload(at, bytes);
            at
        };
        let spans = spans(length);
        let inputs = [(n_head, 1), (n_kv_head, 2), (n_kv_head, 3), (n_head, 4)];
        let inputs = inputs.map(|(heads, salt)| bf16(&values(heads, 10 * seed + salt)));
        let [q, k, v, d_out] = inputs.each_ref().map(|bytes| widened(bytes));
        let computed = reference::forward(shape, &spans, [&q, &k, &v]);
        let out_bytes = bf16(&computed.out);
        let gradients = reference::backward(shape, &spans, [&q, &k, &v], &widened(&out_bytes), &d_out);
        let lse_bytes: Vec<u8> = computed.lse.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
        let [q, k, v, d_out] = inputs.each_ref().map(|bytes| place(bytes));
        let empty = |bytes: &[u8]| place(&vec![0; bytes.len()]);
        let (out, lse) = (empty(&out_bytes), empty(&lse_bytes));
        let gradients = gradients.each_ref().map(|x| bf16(x));
        let [dq, dk, dv] = gradients.each_ref().map(|bytes| empty(bytes));
        // What the backward pass reads is the forward pass's own, in another place than its result.
        let (out_kept, lse_kept) = (place(&out_bytes), place(&lse_bytes));
        let scratch_bytes = driver.attention_scratch(shape, tokens);
        let scratch = driver.allocate(scratch_bytes.max(1)).unwrap();
        let with = |pass| Attention { shape, sequences: SEQUENCES, length, pass, scratch, scratch_bytes };
        let backward = Backward { q, k, v, out: out_kept, lse: lse_kept, d_out, dq, dk, dv };
        let [dq_bytes, dk_bytes, dv_bytes] = gradients;
        Case {
            forward: with(AttentionPass::Forward(Forward { q, k, v, out, lse: Some(lse) })),
            backward: with(AttentionPass::Backward(backward)),
            wanted: [vec![(out, out_bytes), (lse, lse_bytes)], vec![(dq, dq_bytes), (dk, dk_bytes), (dv, dv_bytes)]],
            ours: Cell::new(0),
        }
    }

    fn pass(&self, backward: bool) -> &Attention {
        if backward { &self.backward } else { &self.forward }
    }

    /// As the device does: the library where it is known, ours where it is not, both where nothing is.
    fn run(&self, driver: &dyn Driver, backward: bool) -> Vec<Vec<u8>> {
        let (attention, wanted) = (self.pass(backward), &self.wanted[usize::from(backward)]);
        let ours = || {
            self.ours.set(self.ours.get() + 1);
            wanted.iter().for_each(|(at, bytes)| driver.upload(*at, bytes));
        };
        match driver.knows_attention(attention) {
            Some(true) => driver.attention(attention),
            Some(false) => ours(),
            None => driver.choose_attention(attention, &ours),
        }
        wanted.iter().map(|(at, bytes)| download(driver, *at, bytes.len())).collect()
    }

    fn is_ours(&self, got: &[Vec<u8>], backward: bool) -> bool {
        self.wanted[usize::from(backward)].iter().zip(got).all(|((_, want), got)| want == got)
    }

    /// Nothing of the results is further from the reference than bf16 is coarse.
    fn assert_right(&self, got: &[Vec<u8>], backward: bool) {
        for (i, ((_, want), got)) in self.wanted[usize::from(backward)].iter().zip(got).enumerate() {
            let (want, got) = if !backward && i == 1 {
                let floats = |bytes: &[u8]| -> Vec<f64> {
                    bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
                };
                (floats(want), floats(got))
            } else {
                (widened(want), widened(got))
            };
            for (x, y) in want.iter().zip(&got) {
                assert!((x - y).abs() <= 0.008 * x.abs() + 1e-3, "backward {backward}, result {i}: {x} and {y}");
            }
        }
    }
}

/// Runs both passes of a new case on a new driver; whether each was the library's, and what was noted.
fn first_run(machine: &Machine, settings: NvidiaSettings) -> ([bool; 2], Option<String>) {
    let driver = machine.open_with(settings).unwrap();
    let case = Case::new(&driver, SHAPE, 1);
    let library = [false, true].map(|backward| {
        let got = case.run(&driver, backward);
        case.assert_right(&got, backward);
        driver.knows_attention(case.pass(backward)).unwrap()
    });
    (library, driver.take_note())
}

fn default_run(machine: &Machine) -> ([bool; 2], Option<String>) {
    first_run(machine, NvidiaSettings::default())
}

/// Copies take longer than the library.
fn make_ours_slow(machine: &Machine) {
    machine.set("cuda", "fake_copy_milliseconds", 10.0_f64);
}

#[test]
fn the_librarys_attention_is_what_the_reference_says() {
    for shape in [SHAPE, SHARED] {
        let machine = Machine::with_cudnn();
        make_ours_slow(&machine);
        let driver = machine.open().unwrap();
        for seed in 1..3 {
            let case = Case::new(&driver, shape, seed);
            for backward in [false, true] {
                let executions = machine.get::<i32>("cudnn", "fake_executions");
                let got = case.run(&driver, backward);
                case.assert_right(&got, backward);
                assert_eq!(driver.knows_attention(case.pass(backward)), Some(true));
                if seed == 2 {
                    // Met before: started, and nothing else, on other operands.
                    assert_eq!(machine.get::<i32>("cudnn", "fake_executions"), executions + 1);
                    assert_eq!(case.ours.get(), 0);
                }
            }
        }
        assert_eq!((driver.take_note(), machine.get::<i32>("cudnn", "fake_plans")), (None, 2));
    }
}

#[test]
fn the_faster_one_is_chosen_and_stays_chosen_in_the_next_process() {
    let machine = Machine::with_cudnn();
    // Slower: ours, although right.
    machine.set("cudnn", "fake_milliseconds", 50.0_f64);
    make_ours_slow(&machine);
    assert_eq!(default_run(&machine), ([false; 2], None));
    let executions = machine.get::<i32>("cudnn", "fake_executions");
    // Timing is chance; a choice is not.
    machine.set("cudnn", "fake_milliseconds", 0.1_f64);
    assert_eq!(default_run(&machine), ([false; 2], None));
    assert_eq!(machine.get::<i32>("cudnn", "fake_executions"), executions, "nothing is tried again");
    // Another version of the library is another library.
    machine.set("cudnn", "fake_version", 92_900_usize);
    assert_eq!(default_run(&machine), ([true; 2], None));
    machine.set("cudnn", "fake_milliseconds", 50.0_f64);
    let executions = machine.get::<i32>("cudnn", "fake_executions");
    assert_eq!(default_run(&machine), ([true; 2], None));
    assert_eq!(machine.get::<i32>("cudnn", "fake_executions"), executions + 2, "started, not compared");
    let names: Vec<String> = std::fs::read_dir(machine.path("cache/cuda"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("attention"))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&"attention-fake-gpu-0-46-cudnn-92801-driver-12080.tsv".to_owned()), "{names:?}");
    machine.assert_ended();
}

/// Both with no choice made yet when they began.
#[test]
fn of_two_processes_that_choose_at_once_both_go_on_with_what_is_written() {
    for (first_times, second_times, library) in [(0.1_f64, 50.0_f64, true), (50.0, 0.1, false)] {
        let machine = Machine::with_cudnn();
        make_ours_slow(&machine);
        let drivers = [machine.open().unwrap(), machine.open().unwrap()];
        for (driver, milliseconds) in drivers.iter().zip([first_times, second_times]) {
            machine.set("cudnn", "fake_milliseconds", milliseconds);
            let case = Case::new(driver, SHAPE, 1);
            case.assert_right(&case.run(driver, false), false);
            assert_eq!(driver.knows_attention(&case.forward), Some(library), "{milliseconds} ms");
        }
    }
}

#[test]
fn a_tie_is_ours() {
    let machine = Machine::with_cudnn();
    // Two copies forward, three backward.
    machine.set("cuda", "fake_copy_milliseconds", 10.0_f64);
    machine.set("cudnn", "fake_milliseconds", 20.0_f64);
    assert_eq!(default_run(&machine), ([false, true], None));
}

#[test]
fn a_wrong_result_is_never_chosen() {
    for (wrong, about) in [(1, "row 0 of out"), (2, "of out"), (3, "lse")] {
        let machine = Machine::with_cudnn();
        make_ours_slow(&machine);
        machine.set("cudnn", "fake_wrong", wrong);
        let driver = machine.open().unwrap();
        let case = Case::new(&driver, SHAPE, 1);
        let got = case.run(&driver, false);
        assert!(case.is_ours(&got, false), "wrong {wrong}: what stays is ours");
        assert_eq!(driver.knows_attention(&case.forward), Some(false));
        let note = driver.take_note().unwrap();
        assert!(note.contains(about) && note.contains("attention forward 2x128") && note.contains(".tsv"), "{note}");
        assert_eq!(driver.take_note(), None);
        // Nor later, when it happens to be right.
        machine.set("cudnn", "fake_wrong", 0);
        assert_eq!(default_run(&machine).0, [false, true]);
    }
    let machine = Machine::with_cudnn();
    make_ours_slow(&machine);
    machine.set("cudnn", "fake_wrong", 1);
    let driver = machine.open().unwrap();
    let case = Case::new(&driver, SHARED, 1);
    assert!(case.is_ours(&case.run(&driver, true), true));
    assert!(driver.take_note().unwrap().contains("dq"));
}

#[test]
fn gradients_that_do_not_repeat_are_never_chosen() {
    // No number of stages with which they do; one that is said to, and does not; an engine that says it does not.
    for (name, value, about) in
        [("fake_stages", 9, "stages"), ("fake_restless", 1, "differ"), ("fake_noted", 1, "does not repeat")]
    {
        let machine = Machine::with_cudnn();
        make_ours_slow(&machine);
        if name == "fake_stages" {
            machine.set("cudnn", name, i64::from(value));
        } else {
            machine.set("cudnn", name, value);
        }
        let (library, note) = default_run(&machine);
        assert_eq!(library, [name != "fake_noted", false], "{name}");
        assert!(note.as_ref().is_some_and(|note| note.contains(about)), "{name}: {note:?}");
    }
    // The other way of repeating.
    let machine = Machine::with_cudnn();
    make_ours_slow(&machine);
    machine.set("cudnn", "fake_stages", 2_i64);
    assert_eq!(default_run(&machine), ([true; 2], None));
}

#[test]
fn what_the_library_cannot_do_is_ours_and_noted() {
    for (name, value, about) in [
        ("fake_engines", 0, "no engine"),
        ("fake_refuse", 3000, "not supported (as it was told to)"),
        ("fake_workspace", 1 << 28, "268435456 bytes of workspace"),
    ] {
        let machine = Machine::with_cudnn();
        make_ours_slow(&machine);
        if name == "fake_workspace" {
            machine.set("cudnn", name, i64::from(value));
        } else {
            machine.set("cudnn", name, value);
        }
        let (library, note) = default_run(&machine);
        assert_eq!(library, [false; 2], "{name}");
        assert!(note.as_ref().is_some_and(|note| note.contains(about)), "{name}: {note:?}");
        machine.assert_ended();
    }
}

#[test]
fn a_damaged_file_of_choices_is_no_choice() {
    let machine = Machine::with_cudnn();
    make_ours_slow(&machine);
    assert_eq!(default_run(&machine).0, [true; 2]);
    let path = machine.path("cache/cuda/attention-fake-gpu-0-46-cudnn-92801-driver-12080.tsv");
    let text = std::fs::read_to_string(&path).unwrap().replace("\t0000000000000001", "\t0000000000000000");
    std::fs::write(&path, text).unwrap();
    assert_eq!(default_run(&machine), ([true; 2], None));
}

#[test]
fn absence_is_silent_and_what_will_not_do_is_said() {
    // Not there; another GPU; told not to; told to repeat without a file.
    let absent = Machine::new();
    absent.set("cuda", "fake_major", 9);
    assert_eq!(default_run(&absent), ([false; 2], None));
    let other_gpu = Machine::with_cudnn();
    other_gpu.set("cuda", "fake_major", 8);
    make_ours_slow(&other_gpu);
    assert_eq!(default_run(&other_gpu), ([false; 2], None));
    let machine = Machine::with_cudnn();
    make_ours_slow(&machine);
    for settings in [
        NvidiaSettings { cudnn: CudnnUse::Never, ..NvidiaSettings::default() },
        NvidiaSettings { untimed: true, ..NvidiaSettings::default() },
    ] {
        assert_eq!(first_run(&machine, settings), ([false; 2], None));
        assert_eq!(machine.get::<i32>("cudnn", "fake_plans"), 0);
    }
    // Too old, and for another CUDA.
    for (name, value, about) in [
        ("fake_version", 91_002_usize, "version 9.10.2, and its attention needs 9.21"),
        ("fake_version", 8_907, "version 8.9.7"),
        ("fake_cudart", 13_000, "for CUDA 13, and the driver for 12"),
    ] {
        let machine = Machine::with_cudnn();
        machine.set("cudnn", name, value);
        let (library, note) = default_run(&machine);
        assert_eq!(library, [false; 2]);
        let note = note.unwrap();
        assert!(note.contains(about) && note.contains("libcudnn.so.9"), "{note}");
        assert!(note.contains("pip install --target") && note.contains("nvidia-cudnn-cu12"), "{note}");
    }
}

#[test]
fn whoever_insists_has_it_on_any_gpu_at_any_speed_but_not_wrong() {
    let insisted = NvidiaSettings { cudnn: CudnnUse::Always, ..NvidiaSettings::default() };
    let machine = Machine::with_cudnn();
    machine.set("cuda", "fake_major", 8);
    machine.set("cudnn", "fake_milliseconds", 50.0_f64);
    assert_eq!(first_run(&machine, insisted), ([true; 2], None));
    // Nothing is remembered: it was no choice.
    assert!(!std::fs::read_dir(machine.path("cache/cuda")).is_ok_and(|mut files| {
        files.any(|file| file.unwrap().file_name().to_string_lossy().starts_with("attention"))
    }));
    machine.set("cudnn", "fake_wrong", 1);
    let driver = machine.open_with(insisted).unwrap();
    let case = Case::new(&driver, SHAPE, 1);
    assert!(case.is_ours(&case.run(&driver, false), false));
    assert!(driver.take_note().unwrap().contains("out"));
    let absent = Machine::new();
    let (library, note) = first_run(&absent, insisted);
    assert!(library == [false; 2] && note.unwrap().contains("libcudnn.so.9 was not found"));
}

/// Under the recorder: found out at the first round, one of a list at the second, in a graph from then on.
#[test]
fn attention_is_captured_with_the_calls_around_it() {
    let machine = Machine::with_cudnn();
    make_ours_slow(&machine);
    let driver: Arc<NvidiaDriver> = Arc::new(machine.open().unwrap());
    let recorder = Recorder::new(driver.clone(), true);
    let case = Case::new(&*driver, SHAPE, 3);
    let AttentionPass::Forward(Forward { q, out, .. }) = case.forward.pass else { panic!("a forward pass") };
    let (out_bytes, of) = (case.wanted[0][0].1.len(), driver.allocate(1 << 20).unwrap());
    recorder.begin();
    recorder.zero(of, 16);
    // Ends the listing: what is compared must be there.
    let got = case.run(&recorder, false);
    case.assert_right(&got, false);
    recorder.end();
    let mut before = Vec::new();
    for round in 0..5 {
        // Other queries each time: a graph that did not run would leave an old result.
        let queries: Vec<f64> =
            bytes(out_bytes / 2, 51 + 2 * round).iter().map(|x| (f64::from(*x) - 127.5) / 64.0).collect();
        driver.upload(of, &bf16(&queries));
        driver.zero(out, out_bytes);
        recorder.begin();
        for _ in 0..8 {
            recorder.zero(of.offset(out_bytes), 16);
        }
        recorder.copy(of, q, out_bytes);
        assert_eq!(recorder.knows_attention(&case.forward), Some(true));
        recorder.attention(&case.forward);
        recorder.end();
        let listed = download(&*driver, out, out_bytes);
        driver.zero(out, out_bytes);
        driver.attention(&case.forward);
        assert!(listed == download(&*driver, out, out_bytes), "round {round}");
        assert!(listed != before, "round {round}");
        before = listed;
    }
    let counts = ["fake_graphs", "fake_graph_starts"].map(|name| machine.get::<i32>("cuda", name));
    assert_eq!((counts, recorder.take_note()), ([1, 4], None));
}

/// From the device's operation down, with a choice that was made before: the fake GPU knows none of our kernels, so that
/// there is nothing to compare with.
#[test]
fn the_device_hands_the_spans_of_pre_training_to_the_library() {
    const LENGTH: usize = 256;
    let machine = Machine::with_cudnn();
    make_ours_slow(&machine);
    let driver = machine.open().unwrap();
    let case = Case::of_length(&driver, SHAPE, LENGTH, 4);
    let got = [false, true].map(|backward| case.run(&driver, backward));
    let AttentionPass::Backward(Backward { q, k, v, d_out, .. }) = case.backward.pass else {
        panic!("a backward pass")
    };
    let tokens = SEQUENCES * LENGTH;
    let inputs = [q, k, v, d_out].map(|at| download(&driver, at, 2 * tokens * 128));
    drop(driver);

    let device = CudaDevice::new(Arc::new(machine.open().unwrap())).unwrap();
    let shape = ScratchShape {
        dtype: DType::Bf16,
        matrices: DType::Bf16.into(),
        tokens,
        width: 128,
        vocab_size: 16,
        n_embd: 128,
        sequence: LENGTH,
        n_head: 2,
        n_kv_head: 2,
        head_dim: 64,
        training: true,
    };
    device.reserve_scratch(&shape).unwrap();
    let workspace = device.driver().attention_scratch(SHAPE, tokens);
    assert!(workspace > 0 && device.scratch_held() >= workspace, "the workspace is planned");
    let buffer = |name| device.allocate(name, DType::Bf16, tokens * 128).unwrap();
    let [q, k, v, d_out] = inputs.map(|bytes| {
        let mut buffer = buffer("input");
        device.write_f32(&mut buffer, 0, &widened(&bytes).iter().map(|x| *x as f32).collect::<Vec<_>>());
        buffer
    });
    let (mut out, mut dq, mut dk, mut dv) = (buffer("out"), buffer("dq"), buffer("dk"), buffer("dv"));
    let mut lse = device.allocate("lse", DType::F32, tokens * 2).unwrap();
    let (held, executions) = (device.allocated_bytes(), || machine.get::<i32>("cudnn", "fake_executions"));
    let before = executions();
    device.attention(SHAPE, &spans(LENGTH), [&q, &k, &v], &mut out, Some(&mut lse));
    let operands = [&mut dq, &mut dk, &mut dv];
    device.attention_backward(SHAPE, &spans(LENGTH), [&q, &k, &v], &out, &lse, &d_out, operands);
    device.check().unwrap();
    assert_eq!((executions() - before, device.take_note()), (2, None));
    assert_eq!(device.allocated_bytes(), held, "nothing is allocated in a step");
    assert!(*device.bytes(&out) == *got[0][0] && *device.bytes(&lse) == *got[0][1]);
    case.assert_right(&[&dq, &dk, &dv].map(|x| device.bytes(x).into_owned()), true);

    // Another number of tokens in a sequence, keys before its queries, no gradients to come, f32: ours.
    let mut cut = spans(LENGTH);
    (cut[0].q_len, cut[0].kv_len) = (100, 100);
    device.attention(SHAPE, &cut, [&q, &k, &v], &mut out, Some(&mut lse));
    let later = [Span { q_start: 0, q_len: LENGTH, kv_start: 0, kv_len: 2 * LENGTH }];
    device.attention(SHAPE, &later, [&q, &k, &v], &mut out, Some(&mut lse));
    device.attention(SHAPE, &spans(LENGTH), [&q, &k, &v], &mut out, None);
    let odd = AttentionShape { n_head: 4, n_kv_head: 4, head_dim: 32 };
    let mut lse = device.allocate("lse", DType::F32, tokens * 4).unwrap();
    device.attention(odd, &spans(LENGTH), [&q, &k, &v], &mut out, Some(&mut lse));
    device.check().unwrap();
    assert_eq!(executions() - before, 2);
}
