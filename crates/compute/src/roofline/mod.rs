//! How near the operations of a device come to what the machine can do (Williams, Waterman and Patterson 2009).
//!
//! [`Tracer`] is a device that computes nothing and notes every operation it is asked for: whatever is written against
//! [`Device`](crate::Device) becomes a list of [`Work`] with the shapes it really has. [`Ceilings`] are the machine's
//! limits, measured; [`time`] measures the listed work, each alone, and [`Work::flops`] and [`Work::bytes`] say what it
//! amounts to. Called by `casallm bench roofline`.

mod case;
mod ceilings;
mod operands;
#[cfg(test)]
mod tests;
mod timing;
mod tracer;
mod work;

pub use ceilings::{Bandwidth, Bound, Ceilings, fastest_product};
pub use timing::{Timing, time};
pub use tracer::{Traced, Tracer};
pub use work::{BlockedTensor, Destination, UpdatedTensor, Work};
