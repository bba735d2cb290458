//! Holds the whole model to PyTorch: logits, loss, every gradient, ten AdamW steps, at every instruction set, and on the
//! GPU's code, simulated.
//!
//! The reference is float64 PyTorch (`fixtures/make_fixtures.py`). f32 runs must agree within 1e-5 (logits, loss) and
//! 1e-4 (gradients, parameters after ten steps), as relative L2 norms. bf16 runs must be within what PyTorch's own bf16
//! differs from the same reference.

use std::path::PathBuf;
use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::{AdamW, CpuDevice, DType, Device, Isa, MatrixUse};
use casallm_model::config::ModelConfig;
use casallm_model::decoder::Decoder;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::training::{BatchView, Gradients};
use casallm_model::workspace::{Workspace, WorkspaceShape};
use safetensors::{Dtype, SafeTensors};

const CASES: [&str; 4] = ["classic", "modern", "modern_relu_squared_untied", "llama"];

struct Fixture {
    bytes: Vec<u8>,
    config: ModelConfig,
}

impl Fixture {
    fn open(case: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{case}.safetensors"));
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let config = ModelConfig::from_json(&metadata.metadata().as_ref().unwrap()["config"]).unwrap();
        Fixture { bytes, config }
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        match tensor.dtype() {
            Dtype::F32 => tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::BF16 => tensor
                .data()
                .chunks_exact(2)
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b.try_into().unwrap())) << 16))
                .collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    fn u32(&self, name: &str) -> Vec<u32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = tensors.tensor(name).unwrap();
        data.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// Everything one fixture needs.
struct Run<D: Device> {
    fixture: Fixture,
    network: Network<D>,
    workspace: Workspace<D::Buffer>,
    gradients: Gradients<D::Buffer>,
    ids: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    cu_seqlens: Vec<u32>,
}

/// The processor.
fn cpu(isa: Isa, threads: usize) -> Arc<CpuDevice> {
    Arc::new(CpuDevice::new(threads, isa).unwrap())
}

/// The processor at its best.
fn best_cpu() -> Arc<CpuDevice> {
    cpu(*Isa::available().last().unwrap(), 2)
}

/// The GPU's code on the processor, where there is a C++ compiler.
fn simulated_gpu() -> Option<Arc<CudaDevice>> {
    Simulator::for_test(1).map(|simulator| Arc::new(CudaDevice::new(simulator).unwrap()))
}

impl<D: Device> Run<D> {
    fn new(case: &str, device: &Arc<D>, dtype: DType) -> Self {
        let fixture = Fixture::open(case);
        let config = fixture.config.clone();
        let parameters = Parameters::new(device.clone(), &config, dtype.into(), MatrixUse::Training, |spec| {
            Ok(fixture.f32(&format!("param.{}", spec.name)))
        })
        .unwrap();
        let network = Network::new(config.clone(), dtype, parameters).unwrap();
        let ids = fixture.u32("ids");
        let shape = WorkspaceShape { tokens: ids.len(), sequence: config.context, dtype, training: true };
        let workspace = Workspace::new(&**device, &config, shape).unwrap();
        let gradients = Gradients::new(&**device, &config).unwrap();
        let (targets, weights, cu_seqlens) =
            (fixture.u32("targets"), fixture.f32("weights"), fixture.u32("cu_seqlens"));
        Run { fixture, network, workspace, gradients, ids, targets, weights, cu_seqlens }
    }

    /// One pass: the mean loss; gradients are left in `self`.
    fn step(&mut self) -> f64 {
        let device = self.network.device().clone();
        self.gradients.clear(&*device);
        let batch = BatchView {
            tokens: &self.ids,
            targets: &self.targets,
            weights: &self.weights,
            cu_seqlens: &self.cu_seqlens,
        };
        let scale = 1.0 / self.weights.iter().sum::<f32>();
        let result =
            self.network.loss_and_gradients(&mut self.workspace, batch, scale, 0, &mut self.gradients).unwrap();
        result.weighted_loss / result.weight
    }

    fn logits(&mut self) -> Vec<f32> {
        let batch = BatchView {
            tokens: &self.ids,
            targets: &self.targets,
            weights: &self.weights,
            cu_seqlens: &self.cu_seqlens,
        };
        self.network.loss(&mut self.workspace, batch).unwrap();
        self.network.all_logits(&self.workspace, self.ids.len()).unwrap()
    }

    fn gradient(&self, i: usize) -> Vec<f32> {
        let buffer = self.gradients.get(i);
        let mut values = vec![0.0; self.network.device().len(buffer)];
        self.network.device().read_f32(buffer, 0, &mut values);
        self.network.device().check().unwrap();
        values
    }
}

/// `|a - b| / |b|` in L2.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (difference / size.max(1e-60)).sqrt()
}

#[track_caller]
fn assert_near(what: &str, distance: f64, limit: f64) {
    assert!(distance <= limit, "{what}: relative error {distance:.2e}, allowed {limit:.0e}");
}

fn f32_equals_pytorch<D: Device>(device: &Arc<D>) {
    for case in CASES {
        let mut run = Run::new(case, device, DType::F32);
        let loss = run.step();
        let what = |name: &str| format!("{case} {} {name}", device.info().isa);
        let wanted = f64::from(run.fixture.f32("loss")[0]);
        assert_near(&what("loss"), ((loss - wanted) / wanted).abs(), 1e-5);
        let logits = run.logits();
        assert_near(&what("logits"), distance(&logits, &run.fixture.f32("logits")), 1e-5);
        for i in 0..run.network.parameters.len() {
            let name = run.network.parameters.spec(i).name.clone();
            let wanted = run.fixture.f32(&format!("grad.{name}"));
            assert_near(&what(&format!("gradient of {name}")), distance(&run.gradient(i), &wanted), 1e-4);
        }
        let row_losses = run.network.row_losses(&run.workspace, run.ids.len());
        for ((got, wanted), weight) in row_losses.iter().zip(run.fixture.f32("token_loss")).zip(&run.weights) {
            let wanted = if *weight == 0.0 { 0.0 } else { wanted };
            assert!((got - wanted).abs() < 1e-4, "{}: {got} {wanted}", what("row loss"));
        }
    }
}

#[test]
fn f32_equals_pytorch_at_every_instruction_set() {
    for isa in Isa::available() {
        f32_equals_pytorch(&cpu(isa, 2));
    }
}

#[test]
fn f32_equals_pytorch_on_the_gpu() {
    simulated_gpu().iter().for_each(f32_equals_pytorch);
}

fn ten_adamw_steps_equal_pytorch<D: Device>(device: &Arc<D>) {
    for case in CASES {
        let mut run = Run::new(case, device, DType::F32);
        let allocate = |len| device.allocate("moment", DType::F32, len).unwrap();
        let lens: Vec<usize> =
            (0..run.network.parameters.len()).map(|i| run.network.parameters.spec(i).len()).collect();
        let mut moments: Vec<_> = lens.iter().map(|len| (allocate(*len), allocate(*len))).collect();
        let (rates, norms, losses) =
            (run.fixture.f32("lr"), run.fixture.f32("grad_norm"), run.fixture.f32("loss_steps"));
        for step in 0..10 {
            let loss = run.step();
            let wanted = f64::from(losses[step]);
            assert_near(&format!("{case} loss of step {step}"), ((loss - wanted) / wanted).abs(), 1e-4);
            let norm = run.gradients.norm(&**device);
            let wanted = f64::from(norms[step]);
            assert_near(&format!("{case} gradient norm of step {step}"), ((norm - wanted) / wanted).abs(), 1e-4);
            for (i, (m, v)) in moments.iter_mut().enumerate() {
                let decay = if run.network.parameters.spec(i).decays() { 0.1 } else { 0.0 };
                let update = AdamW {
                    lr: rates[step],
                    beta1: 0.9,
                    beta2: 0.95,
                    eps: 1e-8,
                    weight_decay: decay,
                    step: step as u64 + 1,
                    gradient_scale: (1.0 / (norm + 1e-6)).min(1.0) as f32,
                };
                let gradient = run.gradients.get(i);
                run.network.parameters.update(i, |w| device.adamw(&update, w, gradient, [m, v]));
            }
        }
        for i in 0..run.network.parameters.len() {
            let name = run.network.parameters.spec(i).name.clone();
            let got = run.network.parameters.read(i).unwrap();
            let wanted = run.fixture.f32(&format!("adamw.{name}"));
            assert_near(&format!("{case} {name} after ten steps"), distance(&got, &wanted), 1e-4);
        }
    }
}

#[test]
fn ten_adamw_steps_equal_pytorch_on_the_processor() {
    ten_adamw_steps_equal_pytorch(&best_cpu());
}

#[test]
fn ten_adamw_steps_equal_pytorch_on_the_gpu() {
    simulated_gpu().iter().for_each(ten_adamw_steps_equal_pytorch);
}

/// Our bf16 error over PyTorch's, for logits and for all gradients as one vector (single small ones are noise).
///
/// One case is one draw of rounding errors in either program, so a case may be a quarter above PyTorch; over all cases
/// together ours must be below.
fn bf16_is_as_near_as_pytorch_in_bf16<D: Device>(device: &Arc<D>) {
    let (mut logit_ratios, mut gradient_ratios) = (Vec::new(), Vec::new());
    for case in CASES {
        let mut run = Run::new(case, device, DType::Bf16);
        run.step();
        let (mut ours, mut theirs, mut exact) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..run.network.parameters.len() {
            let name = run.network.parameters.spec(i).name.clone();
            ours.extend(run.gradient(i));
            theirs.extend(run.fixture.f32(&format!("bf16.grad.{name}")));
            exact.extend(run.fixture.f32(&format!("grad.{name}")));
        }
        gradient_ratios.push(distance(&ours, &exact) / distance(&theirs, &exact));
        let exact = run.fixture.f32("logits");
        logit_ratios.push(distance(&run.logits(), &exact) / distance(&run.fixture.f32("bf16.logits"), &exact));
    }
    for (what, ratios) in [("logits", logit_ratios), ("gradients", gradient_ratios)] {
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        let what = format!("{} bf16 {what}: {ratios:?} of PyTorch's error", device.info().isa);
        assert!(mean <= 1.0, "{what}");
        assert!(ratios.iter().all(|r| *r <= 1.25), "{what}");
    }
}

#[test]
fn bf16_is_as_near_as_pytorch_at_every_instruction_set() {
    for isa in Isa::available() {
        bf16_is_as_near_as_pytorch_in_bf16(&cpu(isa, 1));
    }
}

#[test]
fn bf16_is_as_near_as_pytorch_on_the_gpu() {
    simulated_gpu().iter().for_each(bf16_is_as_near_as_pytorch_in_bf16);
}

fn cached_decoding_equals_the_full_forward<D: Device>(device: &Arc<D>) {
    // In bf16 either side is within 2e-2 of the exact logits (as PyTorch's own bf16 is), so they are within twice that.
    for (dtype, limit) in [(DType::F32, 1e-5), (DType::Bf16, 4e-2)] {
        for case in CASES {
            let run = Run::new(case, device, dtype);
            let vocab_size = run.network.config().vocab_size;
            let ids = &run.ids[18..51];
            let mut whole = Decoder::new(&run.network, 48).unwrap();
            let wanted = whole.extend(ids).unwrap().to_vec();
            // One by one, in two pieces, and after taking back what was read.
            let mut single = Decoder::new(&run.network, 48).unwrap();
            let mut got = Vec::new();
            for id in ids {
                got = single.extend(&[*id]).unwrap().to_vec();
            }
            assert_near(&format!("{case} token by token"), distance(&got, &wanted), limit);
            let mut pieces = Decoder::new(&run.network, 48).unwrap();
            pieces.extend(&ids[..20]).unwrap();
            pieces.extend(&ids[3..9]).unwrap();
            pieces.truncate(20);
            let got = pieces.extend(&ids[20..]).unwrap();
            assert_near(&format!("{case} in pieces"), distance(got, &wanted), limit);
            assert_eq!(got.len(), vocab_size);
        }
    }
}

#[test]
fn cached_decoding_equals_the_full_forward_on_the_processor() {
    cached_decoding_equals_the_full_forward(&best_cpu());
}

#[test]
fn cached_decoding_equals_the_full_forward_on_the_gpu() {
    simulated_gpu().iter().for_each(cached_decoding_equals_the_full_forward);
}

fn packed_sequences_give_the_gradients_of_sequences_apart<D: Device>(device: &Arc<D>) {
    for case in CASES {
        let mut run = Run::new(case, device, DType::F32);
        run.step();
        let packed: Vec<Vec<f32>> = (0..run.network.parameters.len()).map(|i| run.gradient(i)).collect();
        run.gradients.clear(&**device);
        let scale = 1.0 / run.weights.iter().sum::<f32>();
        for ends in run.cu_seqlens.windows(2) {
            let part = ends[0] as usize..ends[1] as usize;
            let batch = BatchView {
                tokens: &run.ids[part.clone()],
                targets: &run.targets[part.clone()],
                weights: &run.weights[part.clone()],
                cu_seqlens: &[0, part.len() as u32],
            };
            run.network.loss_and_gradients(&mut run.workspace, batch, scale, 0, &mut run.gradients).unwrap();
        }
        for (i, packed) in packed.iter().enumerate() {
            let name = &run.network.parameters.spec(i).name;
            assert_near(&format!("{case} {name} packed"), distance(&run.gradient(i), packed), 1e-5);
        }
    }
}

#[test]
fn packed_sequences_give_the_gradients_of_sequences_apart_on_the_processor() {
    packed_sequences_give_the_gradients_of_sequences_apart(&best_cpu());
}

#[test]
fn packed_sequences_give_the_gradients_of_sequences_apart_on_the_gpu() {
    simulated_gpu().iter().for_each(packed_sequences_give_the_gradients_of_sequences_apart);
}

#[test]
fn thread_count_changes_no_bit() {
    for dtype in [DType::F32, DType::Bf16] {
        for case in CASES {
            let results: Vec<(f64, Vec<Vec<f32>>)> = [1, 2, 3]
                .into_iter()
                .map(|threads| {
                    let device = cpu(*Isa::available().last().unwrap(), threads);
                    let mut run = Run::new(case, &device, dtype);
                    let loss = run.step();
                    (loss, (0..run.network.parameters.len()).map(|i| run.gradient(i)).collect())
                })
                .collect();
            assert!(results.windows(2).all(|w| w[0] == w[1]), "{case} {}", dtype.name());
        }
    }
}
