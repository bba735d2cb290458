//! The bodies of OpenAI's two endpoints. What is refused is refused as the client's mistake, in words of bounded length.
#![no_main]

use casallm_serve::api::check_body;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for error in check_body(bytes).into_iter().flatten() {
        assert!(error.status().is_client_error());
        assert!(error.body().error.message.len() < 10_000);
    }
});
