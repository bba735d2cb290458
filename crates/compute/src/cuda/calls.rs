//! A list of the calls that start work on a [`Driver`]: what a graph is made of, and what it is told by.
//!
//! Two lists have the same shape if they differ in nothing but the numbers that kernels are given (learning rates, loss
//! scales, keys of dropout) and the bytes that are uploaded (tables). A graph made of one can then do the work of the other
//! once those have been put in their places.

use super::attention::{Backward, Forward};
use super::driver::{Address, Argument, Attention, AttentionPass, Driver, Fp8Matmul, Kernel, Launch, Matmul};

/// One call.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// [`Driver::launch`].
    Launch {
        /// What.
        kernel: Kernel,
        /// How many of it.
        launch: Launch,
        /// With what.
        arguments: &'a [Argument],
    },
    /// [`Driver::matmul`].
    Matmul(&'a Matmul),
    /// [`Driver::matmul_with_row_sums`], where there is such a product.
    RowSums {
        /// The product.
        matmul: &'a Matmul,
        /// Where the sums go.
        sums: Address,
    },
    /// [`Driver::matmul_fp8`].
    Fp8Matmul(&'a Fp8Matmul),
    /// [`Driver::attention`].
    Attention(&'a Attention),
    /// [`Driver::copy`].
    Copy {
        /// The first byte to read.
        from: Address,
        /// The first byte to write.
        to: Address,
        /// How many.
        bytes: usize,
    },
    /// [`Driver::zero`].
    Zero {
        /// The first byte.
        at: Address,
        /// How many.
        bytes: usize,
    },
    /// [`Driver::upload`].
    Upload {
        /// The first byte to write.
        to: Address,
        /// What.
        bytes: &'a [u8],
    },
}

impl Call<'_> {
    /// Makes the call.
    pub fn make(&self, driver: &(impl Driver + ?Sized)) {
        match *self {
            Call::Launch { kernel, launch, arguments } => driver.launch(kernel, launch, arguments),
            Call::Matmul(matmul) => driver.matmul(matmul),
            Call::RowSums { matmul, sums } => {
                driver.matmul_with_row_sums(matmul, sums);
            }
            Call::Fp8Matmul(matmul) => driver.matmul_fp8(matmul),
            Call::Attention(attention) => driver.attention(attention),
            Call::Copy { from, to, bytes } => driver.copy(from, to, bytes),
            Call::Zero { at, bytes } => driver.zero(at, bytes),
            Call::Upload { to, bytes } => driver.upload(to, bytes),
        }
    }

    /// Whether two calls differ in numbers for a kernel, or in uploaded bytes, at most.
    fn has_shape_of(&self, other: &Call<'_>) -> bool {
        match (*self, *other) {
            (
                Call::Launch { kernel, launch, arguments },
                Call::Launch { kernel: other_kernel, launch: other_launch, arguments: others },
            ) => {
                let same_kind = |(a, b): (&Argument, &Argument)| match (a, b) {
                    (Argument::Pointer(a), Argument::Pointer(b)) => a == b,
                    (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
                };
                launch == other_launch
                    && kernel == other_kernel
                    && arguments.len() == others.len()
                    && arguments.iter().zip(others).all(same_kind)
            }
            (Call::Matmul(a), Call::Matmul(b)) => a == b,
            (Call::RowSums { matmul, sums }, Call::RowSums { matmul: other, sums: others }) => {
                (matmul, sums) == (other, others)
            }
            (Call::Fp8Matmul(a), Call::Fp8Matmul(b)) => a == b,
            (Call::Attention(a), Call::Attention(b)) => a == b,
            (Call::Copy { from, to, bytes }, Call::Copy { from: other_from, to: other_to, bytes: other_bytes }) => {
                (from, to, bytes) == (other_from, other_to, other_bytes)
            }
            (Call::Zero { at, bytes }, Call::Zero { at: other_at, bytes: other_bytes }) => {
                (at, bytes) == (other_at, other_bytes)
            }
            (Call::Upload { to, bytes }, Call::Upload { to: other_to, bytes: others }) => {
                (to, bytes.len()) == (other_to, others.len())
            }
            _ => false,
        }
    }

    /// Adds what belongs to the shape, or most of it, to a hash.
    fn hash_shape(&self, hash: &mut Hash) {
        match *self {
            Call::Launch { kernel, launch, arguments } => {
                hash.add(kernel.family as u64);
                launch.grid.iter().chain(&launch.block).for_each(|n| hash.add(u64::from(*n)));
                for argument in arguments {
                    if let Argument::Pointer(address) = argument {
                        hash.add(address.0);
                    }
                }
            }
            Call::Matmul(Matmul { m, n, k, a, b, c, .. })
            | Call::RowSums { matmul: Matmul { m, n, k, a, b, c, .. }, .. } => {
                [*m, *n, *k].iter().for_each(|n| hash.add(*n as u64));
                [a, b, c].iter().for_each(|operand| hash.add(operand.address.0));
            }
            Call::Fp8Matmul(Fp8Matmul { m, n, k, a, b, c, .. }) => {
                [*m, *n, *k].iter().for_each(|n| hash.add(*n as u64));
                [a.address, b.address, c.address].iter().for_each(|address| hash.add(address.0));
            }
            Call::Attention(Attention { sequences, length, pass, .. }) => {
                let (AttentionPass::Forward(Forward { q, .. }) | AttentionPass::Backward(Backward { q, .. })) = pass;
                [*sequences as u64, *length as u64, q.0].iter().for_each(|n| hash.add(*n));
            }
            Call::Copy { from, to, bytes } => [from.0, to.0, bytes as u64].iter().for_each(|n| hash.add(*n)),
            Call::Zero { at, bytes } => [at.0, bytes as u64].iter().for_each(|n| hash.add(*n)),
            Call::Upload { to, bytes } => [to.0, bytes.len() as u64].iter().for_each(|n| hash.add(*n)),
        }
    }
}

/// A hash that costs one multiplication a number.
struct Hash(u64);

impl Hash {
    fn add(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A call whose arguments or bytes lie in the list's vectors.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Launch { kernel: Kernel, launch: Launch, first: usize, count: usize },
    Matmul(Matmul),
    RowSums { matmul: Matmul, sums: Address },
    Fp8Matmul(Fp8Matmul),
    Attention(Attention),
    Copy { from: Address, to: Address, bytes: usize },
    Zero { at: Address, bytes: usize },
    Upload { to: Address, first: usize, count: usize },
}

/// Calls in their order.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    entries: Vec<Entry>,
    arguments: Vec<Argument>,
    bytes: Vec<u8>,
}

impl Calls {
    /// How many.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends a call.
    pub fn push(&mut self, call: Call<'_>) {
        let entry = match call {
            Call::Launch { kernel, launch, arguments } => {
                let first = self.arguments.len();
                self.arguments.extend_from_slice(arguments);
                Entry::Launch { kernel, launch, first, count: arguments.len() }
            }
            Call::Matmul(matmul) => Entry::Matmul(*matmul),
            Call::RowSums { matmul, sums } => Entry::RowSums { matmul: *matmul, sums },
            Call::Fp8Matmul(matmul) => Entry::Fp8Matmul(*matmul),
            Call::Attention(attention) => Entry::Attention(*attention),
            Call::Copy { from, to, bytes } => Entry::Copy { from, to, bytes },
            Call::Zero { at, bytes } => Entry::Zero { at, bytes },
            Call::Upload { to, bytes } => {
                let first = self.bytes.len();
                self.bytes.extend_from_slice(bytes);
                Entry::Upload { to, first, count: bytes.len() }
            }
        };
        self.entries.push(entry);
    }

    /// Removes all, and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.arguments.clear();
        self.bytes.clear();
    }

    /// Call `i`.
    pub fn get(&self, i: usize) -> Call<'_> {
        match self.entries[i] {
            Entry::Launch { kernel, launch, first, count } => {
                Call::Launch { kernel, launch, arguments: &self.arguments[first..first + count] }
            }
            Entry::Matmul(ref matmul) => Call::Matmul(matmul),
            Entry::RowSums { ref matmul, sums } => Call::RowSums { matmul, sums },
            Entry::Fp8Matmul(ref matmul) => Call::Fp8Matmul(matmul),
            Entry::Attention(ref attention) => Call::Attention(attention),
            Entry::Copy { from, to, bytes } => Call::Copy { from, to, bytes },
            Entry::Zero { at, bytes } => Call::Zero { at, bytes },
            Entry::Upload { to, first, count } => Call::Upload { to, bytes: &self.bytes[first..first + count] },
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Call<'_>> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// What is uploaded, one upload behind the other.
    pub fn uploaded(&self) -> &[u8] {
        &self.bytes
    }

    /// The same calls, with copies from `staged`, where [`Calls::uploaded`] lies, in place of uploads.
    pub fn with_staged_uploads(&self, staged: Address) -> Calls {
        let mut calls = Calls::default();
        for entry in &self.entries {
            calls.entries.push(match *entry {
                Entry::Upload { to, first, count } => Entry::Copy { from: staged.offset(first), to, bytes: count },
                other => other,
            });
        }
        calls.arguments.clone_from(&self.arguments);
        calls
    }

    /// Puts other arguments in place of a launch's own.
    ///
    /// # Panics
    /// Call `i` is no launch, or takes another number of arguments.
    pub fn change(&mut self, i: usize, arguments: &[Argument]) {
        let Entry::Launch { first, count, .. } = self.entries[i] else { panic!("call {i} is no launch") };
        self.arguments[first..first + count].copy_from_slice(arguments);
    }

    /// A number that is equal for lists of one shape, and most likely for no others.
    pub fn shape_hash(&self) -> u64 {
        let mut hash = Hash(self.len() as u64);
        self.iter().for_each(|call| call.hash_shape(&mut hash));
        hash.0
    }

    /// Whether two lists are of one shape.
    pub fn has_shape_of(&self, other: &Calls) -> bool {
        self.len() == other.len() && self.iter().zip(other.iter()).all(|(a, b)| a.has_shape_of(&b))
    }

    /// The launches whose arguments differ, to the bit, from those of another list of the same shape.
    pub fn changed<'a>(&'a self, other: &'a Calls) -> impl Iterator<Item = (usize, &'a [Argument])> {
        let differ = |(a, b): (&Argument, &Argument)| bits(a) != bits(b);
        self.iter().zip(other.iter()).enumerate().filter_map(move |(i, calls)| match calls {
            (Call::Launch { arguments, .. }, Call::Launch { arguments: others, .. }) => {
                arguments.iter().zip(others).any(differ).then_some((i, arguments))
            }
            _ => None,
        })
    }
}

/// An argument's value: zeros of two signs differ, NaN equals itself.
fn bits(argument: &Argument) -> u64 {
    match *argument {
        Argument::Pointer(Address(value)) | Argument::U64(value) => value,
        Argument::U32(value) => u64::from(value),
        Argument::I32(value) => u64::from(value.cast_unsigned()),
        Argument::F32(value) => u64::from(value.to_bits()),
    }
}
