//! The PyTorch fixtures list the parameters this crate lists: same names, same shapes, nothing more.

use casallm_model::config::ModelConfig;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn fixtures_hold_the_canonical_parameters() {
    for name in ["classic", "modern", "modern_relu_squared_untied", "llama"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let config = ModelConfig::from_json(&header.metadata().as_ref().unwrap()["config"]).unwrap();
        let expected: BTreeMap<String, Vec<usize>> =
            config.parameters().into_iter().map(|spec| (spec.name, spec.shape)).collect();
        for group in ["param.", "grad.", "adamw.", "autocast.grad.", "bf16.grad."] {
            let found: BTreeMap<String, Vec<usize>> = header
                .tensors()
                .into_iter()
                .filter_map(|(name, info)| Some((name.strip_prefix(group)?.to_owned(), info.shape.clone())))
                .collect();
            assert_eq!(found, expected, "{name}: {group}");
        }
    }
}
