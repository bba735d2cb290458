//! Freed memory goes back to the system. Alone in its process, whose memory is measured.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

use casallm_compute::memory::give_back;

/// Bytes that are the process' own and in memory, not read from files.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn freed_memory_goes_back_to_the_system() {
    const PIECE: usize = 1000;
    const PIECES: usize = 100_000;
    let before = resident();
    let mut pieces: Vec<Box<[u8]>> = (0..PIECES).map(|i| vec![i as u8; PIECE].into_boxed_slice()).collect();
    // What is held lies behind what is freed, which an allocator then keeps.
    let held = pieces.pop().unwrap();
    drop(pieces);
    let kept = resident() - before;
    assert!(kept > PIECE * PIECES / 2, "nothing was kept, so that nothing is shown: {kept} bytes");
    give_back();
    let left = resident() - before;
    assert!(left < kept / 10, "{left} of {kept} bytes are still there");
    assert_eq!(held[0], (PIECES - 1) as u8);
}
