//! Decoding in graphs: the same bits as call by call, over the edges of what one graph serves.

use std::sync::Arc;

use casallm_compute::DType;
use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_model::config::ModelConfig;
use casallm_model::decoder::Decoder;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;

const VOCAB_SIZE: usize = 23;

/// The logits, to the bit, after each of some pieces of text; `None` goes back to 252 tokens.
fn logits(network: &Network<CudaDevice>, pieces: &[Option<Vec<u32>>]) -> Vec<Vec<u32>> {
    let mut decoder = Decoder::new(network, 300).unwrap();
    let mut read = Vec::new();
    for piece in pieces {
        match piece {
            Some(ids) => read.push(decoder.extend(ids).unwrap().iter().map(|x| x.to_bits()).collect()),
            None => decoder.truncate(252),
        }
    }
    read
}

#[test]
fn decoding_in_graphs_changes_no_bit() {
    let ids = |count: u32, seed: u32| (0..count).map(|i| (i * i + seed * i + seed) % VOCAB_SIZE as u32).collect();
    let mut pieces: Vec<Option<Vec<u32>>> = vec![Some(ids(250, 1))];
    // Over 256 keys, where the cache is cut in two; then back, with other tokens.
    pieces.extend((0..10).map(|i| Some(ids(1, i))));
    pieces.push(None);
    pieces.extend((0..8).map(|i| Some(ids(1, 20 + i))));
    for dtype in [DType::F32, DType::Bf16] {
        let run = |graphs| {
            let simulator = Simulator::for_test(2)?;
            let device = Arc::new(CudaDevice::with_graphs(simulator.clone(), graphs).unwrap());
            let config = ModelConfig::modern(2, 16, 2, 1, VOCAB_SIZE, 300).unwrap();
            let parameters = Parameters::random(device.clone(), &config, dtype.into(), 3).unwrap();
            let network = Network::new(config, dtype, parameters).unwrap();
            Some((logits(&network, &pieces), simulator.graphs()))
        };
        let (Some((with, made)), Some((without, none))) = (run(true), run(false)) else { return };
        assert!(with == without, "{}", dtype.name());
        // Up to 256 keys 6 tokens and later 4, beyond 4 and 4; the first of each kind goes call by call.
        assert_eq!((made.0, made.2), (2, 5 + 3 + 4 + 4), "{}", dtype.name());
        assert_eq!(none.0, 0);
    }
}
