//! What a machine and a budget come to: speed from the machine's two rates, loss from a published scaling law.
//!
//! A token's time is what it multiplies over the rate of products, each kind by the share of that rate that it reaches, and what it moves
//! besides over the bandwidth. The shares of a card are from runs of this program where there were any, else a guess that says so; of the
//! machine at hand they are measured.

use casallm_model::config::{Activation, ModelConfig};
use casallm_model::workspace::Recompute;

/// What decides the speed of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// FLOP/s of bf16 products with f32 sums.
    pub flops: f64,
    /// Bytes a second.
    pub bandwidth: f64,
    /// The share of `flops` that linear layers reach.
    pub linear: f64,
    /// The share that attention reaches.
    pub attention: f64,
}

/// A GPU that one may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// As `--gpu` has it.
    pub name: &'static str,
    /// Bytes of memory.
    pub memory: u64,
    /// Watts under load: the vendor's limit.
    pub watts: f64,
    /// Vendor's rates, dense bf16 with f32 sums; shares.
    pub rates: Rates,
    /// Where the shares are from.
    pub measured: bool,
}

const fn card(name: &'static str, gib: u64, watts: f64, teraflops: f64, gigabytes: f64) -> Card {
    // Shares of a consumer card, whose tensor cores are slow beside its memory: LLMQ reaches 0.95 with cuDNN's attention; nothing of
    // ours was measured on one, so this is 0.75 of that. Attention by mma.sync, which is all that these cards have.
    let rates = Rates { flops: teraflops * 1e12, bandwidth: gigabytes * 1e9, linear: 0.71, attention: 0.35 };
    Card { name, memory: gib << 30, watts, rates, measured: false }
}

const fn hopper(card: Card) -> Card {
    // An H200 in a quarter of an hour (docs/GPU.md): 124M, 350M and 1.3B at a context of 1024.
    Card { rates: Rates { linear: 0.59, attention: 0.12, ..card.rates }, measured: true, ..card }
}

/// Cards, with what their vendor says: dense bf16 with f32 accumulation (half of the fp16 rate on consumer cards), bandwidth,
/// power.
pub const CARDS: &[Card] = &[
    card("rtx3060", 12, 170.0, 25.5, 360.0),
    card("rtx3090", 24, 350.0, 71.0, 936.0),
    card("rtx4060ti-16gb", 16, 165.0, 44.1, 288.0),
    card("rtx4070", 12, 200.0, 58.3, 504.0),
    card("rtx4090", 24, 450.0, 165.2, 1008.0),
    card("rtx5060ti-16gb", 16, 180.0, 47.4, 448.0),
    card("rtx5070", 12, 250.0, 61.7, 672.0),
    card("rtx5080", 16, 360.0, 112.6, 960.0),
    card("rtx5090", 32, 575.0, 209.5, 1792.0),
    card("l4", 24, 72.0, 121.0, 300.0),
    card("l40s", 48, 350.0, 362.0, 864.0),
    card("a100-80gb", 80, 400.0, 312.0, 2039.0),
    hopper(card("h100", 80, 700.0, 989.0, 3350.0)),
    hopper(card("h200", 141, 700.0, 989.0, 4800.0)),
];

impl Card {
    /// The card of that name; what is neither letter nor digit does not count.
    pub fn by_name(name: &str) -> Option<&'static Card> {
        let plain = |name: &str| -> String {
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
        };
        CARDS.iter().find(|card| plain(card.name) == plain(name))
    }
}

/// FLOPs of a token's training in linear layers, and in attention: 6 N, and 6 L d T (half of T² is masked).
fn flops(model: &ModelConfig, context: usize) -> (f64, f64) {
    let linear = 6.0 * model.n_params() as f64;
    (linear, model.flops_per_token(context) as f64 - linear)
}

/// Bytes that a token's training moves outside of products: the f32 residual stream and its gradient, norms, queries, keys and values,
/// the MLP's activations, the logits in pieces; bf16 but for the stream.
fn bytes(model: &ModelConfig) -> f64 {
    let wide = if model.activation == Activation::SwiGlu { 16.0 } else { 12.0 };
    let layer = 2.0 * (40.0 * model.n_embd as f64 + wide * model.n_ff as f64);
    model.n_layer as f64 * layer + 8.0 * model.vocab_size as f64
}

/// Bytes an optimizer step moves: gradient, master weight and two moments read, all but the gradient written, and the bf16 copy.
const OPTIMIZER_BYTES: f64 = 30.0;

/// Work of one token.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    linear: f64,
    attention: f64,
    bytes: f64,
}

impl Work {
    /// Of a model trained at a context, with so many tokens a step.
    pub fn of(model: &ModelConfig, context: usize, step_tokens: usize, recompute: Recompute) -> Self {
        let (linear, attention) = flops(model, context);
        // The forward pass is a third of it.
        let again = if recompute == Recompute::Block { 4.0 / 3.0 } else { 1.0 };
        let optimizer = OPTIMIZER_BYTES * model.n_params() as f64 / step_tokens.max(1) as f64;
        Work { linear: again * linear, attention: again * attention, bytes: again * bytes(model) + optimizer }
    }

    /// Seconds on a machine.
    pub fn seconds(&self, rates: &Rates) -> f64 {
        self.linear / (rates.linear * rates.flops)
            + self.attention / (rates.attention * rates.flops)
            + self.bytes / rates.bandwidth
    }
}

/// The shares of `flops` that two measured steps mean: `None` where the second, at the longer context, says nothing of attention.
pub fn fit(flops: f64, bandwidth: f64, measured: [(Work, f64); 2]) -> Option<Rates> {
    // Per second of each: linear x + attention y = seconds - bytes / bandwidth, with x and y the reciprocals of the rates.
    let [(a, at), (b, bt)] = measured;
    let (ar, br) = (at - a.bytes / bandwidth, bt - b.bytes / bandwidth);
    let determinant = a.linear * b.attention - b.linear * a.attention;
    let x = (ar * b.attention - br * a.attention) / determinant;
    let y = (a.linear * br - b.linear * ar) / determinant;
    let shares = Rates { flops, bandwidth, linear: 1.0 / (x * flops), attention: 1.0 / (y * flops) };
    (x > 0.0 && y > 0.0 && x.is_finite() && y.is_finite()).then_some(shares)
}

/// One share for both kinds, of both steps together: where attention is too small a part of them to be told apart.
pub fn fit_together(flops: f64, bandwidth: f64, measured: [(Work, f64); 2]) -> Rates {
    let seconds: f64 = measured.iter().map(|(work, seconds)| seconds - work.bytes / bandwidth).sum();
    let work: f64 = measured.iter().map(|(work, _)| work.linear + work.attention).sum();
    let share = work / (seconds * flops);
    Rates { flops, bandwidth, linear: share, attention: share }
}

/// What the law is and where it holds, for whoever reads its number.
pub const LAW: &str = "L = 1.8172 + 482.01 / N^0.3478 + 2085.43 / D^0.3658, nats a token (Besiroglu et al. 2024, arXiv 2404.10102, a \
                       correction of Chinchilla's), fitted to 44M to 16B weights on MassiveText with a vocabulary of 32,000: another text and \
                       vocabulary have another loss, but mostly the same order";

/// The law's loss of `params` weights trained on `tokens` tokens.
pub fn loss(params: f64, tokens: f64) -> f64 {
    1.8172 + 482.01 / params.powf(0.3478) + 2085.43 / tokens.powf(0.3658)
}

/// Passes over the same text that are worth nearly as much as new text (Muennighoff et al. 2023, arXiv 2305.16264).
pub const PASSES: f64 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Qwen2.5's shapes, but for the biases of queries, keys and values.
    fn qwen(n_layer: usize, n_embd: usize, n_head: usize, n_ff: usize) -> ModelConfig {
        let mut model = ModelConfig::modern(n_layer, n_embd, n_head, 2, 151_936, 1024).unwrap();
        model.n_ff = n_ff;
        model.tie_embeddings = true;
        model
    }

    #[test]
    fn published_speeds_come_out_with_one_constant_a_card() {
        // LLMQ, bf16, context 1024, 524,288 tokens a step (its benchmarks/4090x1.md, H100x1.md and README, 2025), tokens/s.
        let (half, larger) = (qwen(24, 896, 14, 4864), qwen(28, 1536, 12, 8960));
        assert!((half.n_params() as f64 / 494e6 - 1.0).abs() < 0.01, "{}", half.n_params());
        assert!((larger.n_params() as f64 / 1.54e9 - 1.0).abs() < 0.01, "{}", larger.n_params());
        // On the 5090 the larger one repeats attention and MLP.
        for (name, constant, rows) in [
            ("rtx4090", 0.96, [(39_850.0, Recompute::None), (14_070.0, Recompute::None)]),
            ("h100", 0.68, [(149_500.0, Recompute::None), (59_200.0, Recompute::None)]),
            ("rtx5090", 1.05, [(55_000.0, Recompute::None), (17_000.0, Recompute::Block)]),
        ] {
            let card = Card::by_name(name).unwrap();
            let rates = Rates { linear: constant, attention: constant / 2.0, ..card.rates };
            for (model, (published, recompute)) in [&half, &larger].into_iter().zip(rows) {
                let predicted = 1.0 / Work::of(model, 1024, 524_288, recompute).seconds(&rates);
                let ratio = predicted / published;
                assert!((0.85..1.15).contains(&ratio), "{name}: {predicted:.0}, published {published}");
            }
        }
    }

    #[test]
    fn what_was_measured_on_an_h200_comes_out() {
        // docs/GPU.md, 2026-11-26; the 124M before the last changes, which gained 6 %.
        for (n_layer, n_embd, n_head, rows, measured) in
            [(12, 768, 12, 32, 431_819.0 * 1.06), (24, 1024, 16, 16, 171_112.0), (24, 2048, 16, 8, 57_925.0)]
        {
            let model = ModelConfig::classic(n_layer, n_embd, n_head, 50_304, 1024).unwrap();
            let work = Work::of(&model, 1024, 1024 * rows, Recompute::None);
            let ratio = 1.0 / work.seconds(&Card::by_name("H200").unwrap().rates) / measured;
            assert!((0.9..1.1).contains(&ratio), "{n_layer} x {n_embd}: {ratio}");
        }
    }

    #[test]
    fn two_steps_give_the_shares_back() {
        let rates = Rates { flops: 2e11, bandwidth: 2e10, linear: 0.6, attention: 0.2 };
        let model = ModelConfig::classic(4, 256, 4, 4096, 1024).unwrap();
        let work = [Work::of(&model, 256, 1024, Recompute::Light), Work::of(&model, 1024, 1024, Recompute::Light)];
        let fitted = fit(rates.flops, rates.bandwidth, work.map(|work| (work, work.seconds(&rates)))).unwrap();
        assert!((fitted.linear / rates.linear - 1.0).abs() < 1e-9, "{fitted:?}");
        assert!((fitted.attention / rates.attention - 1.0).abs() < 1e-9, "{fitted:?}");
        assert_eq!(fit(2e11, 2e10, work.map(|work| (work, 1e-12))), None);
    }

    #[test]
    fn the_law_is_the_published_one_and_more_of_either_is_better() {
        // Chinchilla itself: 70B weights, 1.4T tokens; the corrected fit gives 1.97.
        assert!((loss(70e9, 1.4e12) - 1.97).abs() < 0.02, "{}", loss(70e9, 1.4e12));
        assert!(loss(1e9, 1e10) < loss(3e8, 1e10) && loss(1e9, 1e11) < loss(1e9, 1e10));
    }

    #[test]
    fn cards_are_found_by_whatever_people_write() {
        for name in ["rtx4090", "RTX 4090", "RTX-4090"] {
            assert_eq!(Card::by_name(name).unwrap().name, "rtx4090");
        }
        assert!(Card::by_name("rtx9090").is_none());
        for card in CARDS {
            assert!(card.memory >= 12 << 30 && card.watts > 50.0 && card.rates.flops > 1e13, "{card:?}");
        }
    }
}
