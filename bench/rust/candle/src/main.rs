//! Steps of training with candle, on the processor, in f32: it multiplies no bf16 there. casallm's `classic` block.
//!
//! candle's fused LayerNorm, softmax and RoPE have no backward pass, so these are made of its plain operations.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{AdamW, Init, Optimizer, ParamsAdamW, VarBuilder, VarMap, loss, ops};

#[path = "../../shape.rs"]
mod shape;
use shape::Shape;

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(d: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Norm { weight: vb.get_with_hints(d, "weight", Init::Const(1.0))?, bias: vb.get_with_hints(d, "bias", Init::Const(0.0))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?;
        centred.broadcast_div(&deviation)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn new(from: usize, to: usize, bias: bool, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get_with_hints((to, from), "weight", Init::Randn { mean: 0.0, stdev: 0.02 })?;
        let bias = bias.then(|| vb.get_with_hints(to, "bias", Init::Const(0.0))).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let y = x.reshape((b * t, d))?.matmul(&self.weight.t()?)?.reshape((b, t, ()))?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

struct Block {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    up: Linear,
    down: Linear,
}

struct Tables {
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
}

fn rotate(x: &Tensor, tables: &Tables) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(&tables.cos)? - b.broadcast_mul(&tables.sin)?)?;
    let second = (a.broadcast_mul(&tables.sin)? + b.broadcast_mul(&tables.cos)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}

impl Block {
    fn new(d: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Block {
            norm1: Norm::new(d, vb.pp("norm1"))?,
            qkv: Linear::new(d, 3 * d, false, vb.pp("qkv"))?,
            out: Linear::new(d, d, true, vb.pp("out"))?,
            norm2: Norm::new(d, vb.pp("norm2"))?,
            up: Linear::new(d, 4 * d, true, vb.pp("up"))?,
            down: Linear::new(4 * d, d, true, vb.pp("down"))?,
        })
    }

    fn forward(&self, x: &Tensor, n_head: usize, tables: &Tables) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?.reshape((b, t, 3, n_head, d / n_head))?;
        let part = |i: usize| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let (q, k, v) = (rotate(&part(0)?, tables)?, rotate(&part(1)?, tables)?, part(2)?);
        let scores = (q.matmul(&k.t()?)? / ((d / n_head) as f64).sqrt())?;
        let probabilities = ops::softmax(&scores.broadcast_add(&tables.mask)?, D::Minus1)?;
        let attended = probabilities.matmul(&v)?.transpose(1, 2)?.reshape((b, t, d))?;
        let x = (x + self.out.forward(&attended)?)?;
        let hidden = self.up.forward(&self.norm2.forward(&x)?)?.gelu_erf()?;
        x + self.down.forward(&hidden)?
    }
}

fn main() -> Result<()> {
    let shape = Shape::from_arguments();
    let device = Device::Cpu;
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &device);
    let d = shape.n_embd;
    let embed = vb.get_with_hints((shape.vocab_size, d), "embed", Init::Randn { mean: 0.0, stdev: 0.02 })?;
    let blocks = (0..shape.n_layer).map(|i| Block::new(d, vb.pp(i))).collect::<Result<Vec<_>>>()?;
    let norm = Norm::new(d, vb.pp("norm"))?;
    let (cos, sin) = shape.rope();
    let (t, half) = (shape.context, d / shape.n_head / 2);
    let tables = Tables {
        cos: Tensor::from_vec(cos, (t, half), &device)?,
        sin: Tensor::from_vec(sin, (t, half), &device)?,
        mask: Tensor::from_vec(shape.mask(), (t, t), &device)?,
    };
    let inputs = Tensor::from_vec(shape.shifted(0), shape.batch * t, &device)?;
    let targets = Tensor::from_vec(shape.shifted(1), shape.batch * t, &device)?;
    let settings = ParamsAdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, weight_decay: 0.1, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(map.all_vars(), settings)?;
    let params = map.all_vars().iter().map(|var| var.elem_count()).sum();
    let mut step = || -> Result<f32> {
        let mut x = embed.index_select(&inputs, 0)?.reshape((shape.batch, t, d))?;
        for block in &blocks {
            x = block.forward(&x, shape.n_head, &tables)?;
        }
        let hidden = norm.forward(&x)?.reshape((shape.batch * t, d))?;
        let loss = loss::cross_entropy(&hidden.matmul(&embed.t()?)?, &targets)?;
        let mut grads = loss.backward()?;
        let mut squares = 0.0;
        for var in map.all_vars() {
            if let Some(grad) = grads.get(&var) {
                squares += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        let scale = (1.0 / squares.sqrt()).min(1.0);
        for var in map.all_vars() {
            if let Some(grad) = grads.remove(&var) {
                grads.insert(&var, (grad * scale)?);
            }
        }
        optimizer.step(&grads)?;
        loss.to_scalar::<f32>()
    };
    shape.time("candle, f32", params, || step().unwrap());
    Ok(())
}
