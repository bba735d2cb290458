//! Graphs on the fake driver, under the recorder that decides about them.

use std::sync::Arc;

use super::fakes::Machine;
use super::{ROUND, bytes, download};
use crate::cuda::driver::{Address, Driver, Launch, Matmul, Operand};
use crate::cuda::nvidia::NvidiaDriver;
use crate::cuda::recorder::Recorder;
use crate::dtype::DType;

/// Bytes of each of five pieces of memory.
const PIECE: usize = 256;
/// Rows and columns of the square product.
const N: usize = 4;

/// A driver with and without a recorder that may make graphs, and memory on it.
struct Bench {
    driver: Arc<NvidiaDriver>,
    recorder: Recorder,
    at: Address,
}

impl Bench {
    fn new(machine: &Machine, graphs: bool) -> Self {
        let driver = Arc::new(machine.open().unwrap());
        let at = driver.allocate(5 * PIECE).unwrap();
        Bench { recorder: Recorder::new(driver.clone(), graphs), driver, at }
    }

    fn piece(&self, i: usize) -> Address {
        self.at.offset(i * PIECE)
    }

    /// Eight calls and more, of every kind; `round` changes what is uploaded and how much of it is rounded.
    fn work(&self, round: u32) {
        let (recorder, table) = (&self.recorder, bytes(4 * N * N, u64::from(round) + 1));
        // Whole numbers of one byte: every product is exact.
        let floats: Vec<u8> = table.chunks(4).flat_map(|b| f32::from(b[0] % 8).to_le_bytes()).collect();
        recorder.begin();
        recorder.zero(self.piece(0), PIECE);
        recorder.upload(self.piece(1), &floats);
        recorder.copy(self.piece(1), self.piece(2), 4 * N * N);
        let square = |i| Operand { address: self.piece(i), dtype: DType::F32, transposed: false, row_stride: N };
        let (a, b, c) = (square(1), square(2), square(3));
        recorder.matmul(&Matmul { m: N, n: N, k: N, a, b, c, beta: 0.0, bias: None });
        recorder.upload(self.piece(2), &floats[..4 * N]);
        recorder.matmul(&Matmul { m: N, n: N, k: N, a, b, c, beta: 1.0, bias: None });
        let arguments = [self.piece(0).into(), self.piece(3).into(), (1 + round % 7).into()];
        recorder.launch(ROUND, Launch::linear(1, 256), &arguments);
        recorder.copy(self.piece(0), self.piece(4), PIECE);
        recorder.end();
    }

    fn result(&self) -> Vec<u8> {
        download(&*self.driver, self.at, 5 * PIECE)
    }
}

#[test]
fn a_graph_does_what_its_calls_would_whatever_has_changed_since() {
    let machine = Machine::new();
    let (plain_machine, rounds) = (Machine::new(), 6);
    let (bench, plain) = (Bench::new(&machine, true), Bench::new(&plain_machine, false));
    for round in 0..rounds {
        bench.work(round);
        plain.work(round);
        assert_eq!(bench.result(), plain.result(), "round {round}");
    }
    let counts = ["fake_graphs", "fake_graph_starts", "fake_graph_changes"].map(|n| machine.get::<i32>("cuda", n));
    // One by one, then captured, then changed before every start.
    assert_eq!(counts, [1, rounds as i32 - 1, rounds as i32 - 2]);
    assert_eq!(plain_machine.get::<i32>("cuda", "fake_graphs"), 0);
    bench.driver.free(bench.at, 5 * PIECE);
    drop(bench);
    machine.assert_empty();
}

/// Nothing waits between rounds: what is under way keeps its numbers and its tables.
#[test]
fn a_start_that_is_under_way_is_not_changed() {
    let machine = Machine::new();
    let plain_machine = Machine::new();
    let (bench, plain) = (Bench::new(&machine, true), Bench::new(&plain_machine, false));
    let kept = |bench: &Bench| bench.driver.allocate(8 * PIECE).unwrap();
    let (to, plain_to) = (kept(&bench), kept(&plain));
    for round in 0..8 {
        for (bench, to) in [(&bench, to), (&plain, plain_to)] {
            bench.work(round);
            bench.recorder.copy(bench.piece(4), to.offset(round as usize * PIECE), PIECE);
        }
    }
    assert_eq!(download(&*bench.driver, to, 8 * PIECE), download(&*plain.driver, plain_to, 8 * PIECE));
}

#[test]
fn where_no_graph_can_be_made_work_is_done_piece_by_piece_and_it_is_said_once() {
    for (name, status, rounds_with_graphs) in
        [("fake_capture", 901, 0), ("fake_instantiate", 2, 0), ("fake_change", 1, 1)]
    {
        let machine = Machine::new();
        let plain_machine = Machine::new();
        machine.set("cuda", name, status);
        let (bench, plain) = (Bench::new(&machine, true), Bench::new(&plain_machine, false));
        let mut notes = Vec::new();
        for round in 0..5 {
            bench.work(round);
            plain.work(round);
            assert_eq!(bench.result(), plain.result(), "{name}, round {round}");
            notes.extend(bench.recorder.take_note());
        }
        bench.driver.check().unwrap();
        assert_eq!(machine.get::<i32>("cuda", "fake_graph_starts"), rounds_with_graphs, "{name}");
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("no CUDA graphs") && notes[0].contains("failed"), "{}", notes[0]);
        bench.driver.free(bench.at, 5 * PIECE);
        drop(bench);
        machine.assert_empty();
    }
}

/// What is waited for inside, or memory given back, ends the listing: everything before it has been started by then.
#[test]
fn what_no_graph_can_hold_ends_the_listing() {
    let machine = Machine::new();
    let bench = Bench::new(&machine, true);
    for round in 0..4_u8 {
        bench.recorder.begin();
        (0..10).for_each(|i| bench.recorder.zero(bench.piece(i % 5), PIECE));
        bench.recorder.upload(bench.at, &[round; 8]);
        let mut got = [99; 8];
        bench.recorder.download(bench.at, &mut got);
        assert_eq!(got, [round; 8]);
        bench.recorder.zero(bench.at, 4);
        bench.recorder.end();
        assert_eq!(bench.result()[..8], [0, 0, 0, 0, round, round, round, round]);
    }
    assert_eq!(machine.get::<i32>("cuda", "fake_graphs"), 0);
}

/// A product that was never met would be timed, which no capture allows: the graph waits until it has been.
#[test]
fn a_graph_waits_for_products_that_are_not_planned() {
    use crate::cuda::calls::{Call, Calls};
    use crate::cuda::driver::GraphDriver;
    let machine = Machine::new();
    let bench = Bench::new(&machine, true);
    let square = |i| Operand { address: bench.piece(i), dtype: DType::F32, transposed: false, row_stride: N };
    let matmul = Matmul { m: N, n: N, k: N, a: square(0), b: square(1), c: square(2), beta: 0.0, bias: None };
    let mut calls = Calls::default();
    calls.push(Call::Matmul(&matmul));
    assert_eq!(bench.driver.build(&calls), Ok(None));
    bench.driver.matmul(&matmul);
    let graph = bench.driver.build(&calls).unwrap().unwrap();
    // An upload in a capture would read memory that has been written over by the time it runs.
    calls.push(Call::Upload { to: bench.at, bytes: &[1] });
    assert!(bench.driver.build(&calls).unwrap_err().contains("upload"));
    bench.driver.start(&graph);
    bench.driver.discard(graph);
    bench.driver.synchronize();
    bench.driver.check().unwrap();
}

/// Posted bytes are those of their place in the stream, in any order of collecting, and slots serve again.
#[test]
fn posts_are_collected_without_waiting_for_what_came_after() {
    let machine = Machine::new();
    let bench = Bench::new(&machine, true);
    for round in 0..3_u8 {
        let posts: Vec<_> = (0..3_u8)
            .map(|i| {
                bench.driver.upload(bench.at, &[10 * round + i; 48]);
                bench.driver.post(bench.at, 48)
            })
            .collect();
        // Once with all of them there already.
        if round == 2 {
            bench.driver.synchronize();
        }
        for (i, post) in posts.into_iter().enumerate().rev() {
            let mut got = [0; 48];
            bench.driver.collect(post, &mut got);
            assert_eq!(got, [10 * round + i as u8; 48]);
        }
    }
    assert_eq!(machine.get::<usize>("cuda", "fake_pinned"), 6 + 3, "slots of copies and of three posts");
    machine.set("cuda", "fake_fail", 719);
    bench.driver.upload(bench.at, &[1; 48]);
    let post = bench.driver.post(bench.at, 48);
    let mut got = [7; 48];
    bench.driver.collect(post, &mut got);
    assert_eq!(got, [7; 48]);
    let error = bench.driver.check().unwrap_err().to_string();
    assert!(error.contains("cuEventSynchronize"), "{error}");
    // Nothing is posted any more, and nothing waits.
    let post = bench.driver.post(bench.at, 48);
    bench.driver.collect(post, &mut got);
    assert_eq!(got, [7; 48]);
}

/// Whether there is a product with row sums is told by trying it, on what everything before it has left: the first listing
/// ends there, later ones know.
#[test]
fn a_product_that_must_be_tried_is_in_graphs_from_then_on() {
    for offered in [1, 0] {
        let machines = [Machine::new(), Machine::new()];
        machines.iter().for_each(|machine| machine.set("cublaslt", "fake_row_sums", offered));
        let benches = [Bench::new(&machines[0], true), Bench::new(&machines[1], false)];
        for round in 0..5 {
            for Bench { driver: _, recorder, at } in &benches {
                let piece = |i: usize| at.offset(i * PIECE);
                let operand = |i| Operand { address: piece(i), dtype: DType::F32, transposed: false, row_stride: N };
                let floats: Vec<u8> = (0..N * N).flat_map(|i| ((i + round) as f32).to_le_bytes()).collect();
                recorder.begin();
                (0..5).for_each(|i| recorder.zero(piece(i), PIECE));
                recorder.upload(piece(1), &floats);
                recorder.copy(piece(1), piece(2), 4 * N * N);
                recorder.copy(piece(1), piece(3), 4 * N);
                let a = Operand { transposed: true, ..operand(1) };
                let product = Matmul { m: N, n: N, k: N, a, b: operand(2), c: operand(3), beta: 1.0, bias: None };
                assert_eq!(recorder.matmul_with_row_sums(&product, piece(4)), offered == 1, "round {round}");
                recorder.copy(piece(3), piece(0), 4 * N * N);
                recorder.end();
            }
            assert_eq!(benches[0].result(), benches[1].result(), "offered {offered}, round {round}");
        }
        benches[0].driver.check().unwrap();
        let counts = ["fake_graphs", "fake_graph_starts"].map(|name| machines[0].get::<i32>("cuda", name));
        assert_eq!(counts, [1, 3], "offered {offered}");
    }
}
