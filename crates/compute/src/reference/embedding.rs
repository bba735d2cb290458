//! The embedding: a row of the table for each token. Its gradient adds each token's row to the table's.

/// `x[t, :] = table[ids[t], :]`.
pub fn forward(table: &[f64], ids: &[u32], width: usize) -> Vec<f64> {
    ids.iter().flat_map(|id| &table[*id as usize * width..][..width]).copied().collect()
}

/// `d_table[id, :] = sum over the tokens of that id of dx[t, :]`.
pub fn backward(ids: &[u32], dx: &[f64], vocab_size: usize) -> Vec<f64> {
    let width = dx.len() / ids.len();
    let mut d_table = vec![0.0; vocab_size * width];
    for (id, dx) in ids.iter().zip(dx.chunks_exact(width)) {
        for (to, from) in d_table[*id as usize * width..][..width].iter_mut().zip(dx) {
            *to += from;
        }
    }
    d_table
}
