//! Steps of training with Burn's `flex` backend, on the processor, in f32. casallm's `classic` block.

use burn::backend::{Autodiff, Flex};
use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Module, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData, activation};

#[path = "../../shape.rs"]
mod shape;
use shape::Shape;

type Here = Autodiff<Flex>;

#[derive(Module, Debug)]
struct Block<B: Backend> {
    norm1: LayerNorm<B>,
    qkv: Linear<B>,
    out: Linear<B>,
    norm2: LayerNorm<B>,
    up: Linear<B>,
    down: Linear<B>,
}

#[derive(Module, Debug)]
struct Model<B: Backend> {
    embed: Embedding<B>,
    blocks: Vec<Block<B>>,
    norm: LayerNorm<B>,
}

struct Tables<B: Backend> {
    cos: Tensor<B, 4>,
    sin: Tensor<B, 4>,
    mask: Tensor<B, 4>,
}

fn rotate<B: Backend>(x: Tensor<B, 4>, tables: &Tables<B>) -> Tensor<B, 4> {
    let half = x.dims()[3] / 2;
    let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let first = a.clone() * tables.cos.clone() - b.clone() * tables.sin.clone();
    let second = a * tables.sin.clone() + b * tables.cos.clone();
    Tensor::cat(vec![first, second], 3)
}

impl<B: Backend> Block<B> {
    fn new(d: usize, device: &B::Device) -> Self {
        let linear = |from, to, bias| LinearConfig::new(from, to).with_bias(bias).init(device);
        Block {
            norm1: LayerNormConfig::new(d).init(device),
            qkv: linear(d, 3 * d, false),
            out: linear(d, d, true),
            norm2: LayerNormConfig::new(d).init(device),
            up: linear(d, 4 * d, true),
            down: linear(4 * d, d, true),
        }
    }

    fn forward(&self, x: Tensor<B, 3>, n_head: usize, tables: &Tables<B>) -> Tensor<B, 3> {
        let [b, t, d] = x.dims();
        let qkv = self.qkv.forward(self.norm1.forward(x.clone()));
        let part = |i: usize| qkv.clone().narrow(2, i * d, d).reshape([b, t, n_head, d / n_head]).swap_dims(1, 2);
        let (q, k, v) = (rotate(part(0), tables), rotate(part(1), tables), part(2));
        let scores = q.matmul(k.swap_dims(2, 3)).div_scalar(((d / n_head) as f64).sqrt());
        let attended = activation::softmax(scores + tables.mask.clone(), 3).matmul(v);
        let x = x + self.out.forward(attended.swap_dims(1, 2).reshape([b, t, d]));
        let hidden = activation::gelu(self.up.forward(self.norm2.forward(x.clone())));
        x + self.down.forward(hidden)
    }
}

fn main() {
    let shape = Shape::from_arguments();
    let device = Default::default();
    Here::seed(&device, 0);
    let (d, t) = (shape.n_embd, shape.context);
    let mut model = Model::<Here> {
        embed: EmbeddingConfig::new(shape.vocab_size, d).init(&device),
        blocks: (0..shape.n_layer).map(|_| Block::new(d, &device)).collect(),
        norm: LayerNormConfig::new(d).init(&device),
    };
    model.embed.weight = Param::from_tensor(Tensor::random(
        [shape.vocab_size, d],
        burn::tensor::Distribution::Normal(0.0, 0.02),
        &device,
    ));
    let params = model.num_params();
    let (cos, sin) = shape.rope();
    let half = d / shape.n_head / 2;
    let table = |values, sides| Tensor::<Here, 4>::from_data(TensorData::new(values, sides), &device);
    let tables = Tables {
        cos: table(cos, [1, 1, t, half]),
        sin: table(sin, [1, 1, t, half]),
        mask: table(shape.mask(), [1, 1, t, t]),
    };
    let ids = |by: usize| -> Vec<i32> { shape.shifted(by).into_iter().map(|id| id as i32).collect() };
    let inputs = Tensor::<Here, 2, Int>::from_data(TensorData::new(ids(0), [shape.batch, t]), &device);
    let targets = Tensor::<Here, 1, Int>::from_data(TensorData::new(ids(1), [shape.batch * t]), &device);
    let cross_entropy = CrossEntropyLossConfig::new().init::<Here>(&device);
    let mut optimizer = AdamWConfig::new()
        .with_beta_1(0.9)
        .with_beta_2(0.95)
        .with_weight_decay(0.1)
        .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
        .init();
    let mut model = Some(model);
    shape.time("burn, flex, f32", params, || {
        let trained = model.take().unwrap();
        let mut x = trained.embed.forward(inputs.clone());
        for block in &trained.blocks {
            x = block.forward(x, shape.n_head, &tables);
        }
        let hidden = trained.norm.forward(x).reshape([shape.batch * t, d]);
        let logits = hidden.matmul(trained.embed.weight.val().transpose());
        let loss = cross_entropy.forward(logits, targets.clone());
        let value = loss.clone().into_scalar();
        let grads = GradientsParams::from_grads(loss.backward(), &trained);
        model = Some(optimizer.step(3e-4, trained, grads));
        value
    });
}
