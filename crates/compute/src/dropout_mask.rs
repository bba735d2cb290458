//! Which elements a dropout site drops: one counter-based function, the same bits on every device.

use crate::device::Dropout;
use crate::stochastic;

/// Whether an element stays, by a 32-bit mix of its index and the site's key (Wellons, "lowbias32").
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    pub(crate) key: u32,
    /// Elements whose hash is below this fall.
    pub(crate) threshold: u32,
    /// What the others are multiplied by: `1 / (1 - rate)`.
    pub(crate) scale: f32,
}

impl Mask {
    /// Drops nothing and changes nothing.
    pub(crate) const NONE: Mask = Mask { key: 0, threshold: 0, scale: 1.0 };

    pub(crate) fn new(dropout: Dropout) -> Self {
        let mut key = dropout.seed ^ (u64::from(dropout.site) << 32 | 0x9e37_79b9);
        // SplitMix64: neighbouring seeds and sites give unrelated keys.
        key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let threshold = (f64::from(dropout.rate) * 4_294_967_296.0) as u32;
        Mask { key: (key >> 32) as u32 ^ key as u32, threshold, scale: 1.0 / (1.0 - dropout.rate) }
    }

    /// 0, or the scale.
    #[inline(always)]
    pub(crate) fn factor(&self, index: usize) -> f32 {
        if stochastic::bits(self.key, index) < self.threshold { 0.0 } else { self.scale }
    }
}
