//! Matrix products by cuBLASLt.
//!
//! The library's matrices are column-major. A row-major matrix read as column-major is its transpose, so instead of
//! `c = a b` it is asked for `c' = b' a'`: our `b` is its first operand, our `a` its second, and `m` and `n` change
//! places. Operations count as 2 m n k FLOPs.
//!
//! For each product (sizes, types, strides, alignments) a [`Plan`] is made at its first use: descriptors, and the
//! algorithm, see [`super::algorithms`]. Numbers of tokens vary from batch to batch in fine-tuning and from prompt to
//! prompt; products of nearly the same size share an algorithm, so that they are not all timed.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::sys as lt;

use super::algorithms::{Algorithm, Choices};
use super::error::CudaError;
use super::ffi::CublasLt;
use super::memory::Memory;
use super::product::{Element, Extra, Job, Product, Side, Way};
use super::session::{Event, Session};
use crate::cuda::driver::Address;
use crate::dtype::DType;
use crate::fp8::Fp8;

/// Algorithms that the library is asked for and that are timed.
const CANDIDATES: usize = 8;
/// Timed runs of each, of which the fastest counts.
const RUNS: usize = 3;
/// A candidate must take less than this share of the time of the library's first to be preferred to it: below, the
/// difference is chance.
const CLEARLY_FASTER: f32 = 0.97;
/// Plans that are kept; then all are forgotten, and made again from the choices.
const MOST_PLANS: usize = 4096;
/// bf16 copies of biases as wide as this fit the scratch.
const WIDEST_BIAS: usize = 1 << 19;

/// What the library writes of an algorithm that it proposes. As cudarc's, but that the status is a number: a library
/// may know more of them than an enum does.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Proposal {
    algorithm: Algorithm,
    workspace: usize,
    status: u32,
    waves: f32,
    reserved: [c_int; 4],
}

const _: () = {
    assert!(size_of::<Proposal>() == size_of::<lt::cublasLtMatmulHeuristicResult_t>());
    assert!(align_of::<Proposal>() == align_of::<lt::cublasLtMatmulHeuristicResult_t>());
    assert!(size_of::<Algorithm>() == size_of::<lt::cublasLtMatmulAlgo_t>());
};

/// Descriptors, destroyed by `destroy`.
#[derive(Clone, Copy)]
struct Descriptors {
    operation: lt::cublasLtMatmulDesc_t,
    a: lt::cublasLtMatrixLayout_t,
    b: lt::cublasLtMatrixLayout_t,
    c: lt::cublasLtMatrixLayout_t,
}

/// A product that is ready to run.
#[derive(Clone, Copy)]
struct Plan {
    descriptors: Descriptors,
    algorithm: Algorithm,
    way: Way,
}

struct State {
    /// `None` where the library has none.
    plans: HashMap<Product, Option<Plan>>,
    choices: Choices,
}

/// How products are computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatmulSettings {
    /// Whether f32 operands may be rounded to TF32 (10 bits of mantissa).
    pub(super) tf32: bool,
    /// Whether algorithms are timed; else the library's first proposal is taken.
    pub(super) tune: bool,
}

/// The library with everything that its products need.
pub(super) struct Products {
    library: CublasLt,
    handle: lt::cublasLtHandle_t,
    settings: MatmulSettings,
    workspace: Address,
    workspace_bytes: usize,
    /// bf16 copies of biases.
    rounded: Address,
    state: Mutex<State>,
}

// SAFETY: the handle may be used from any thread; descriptors are behind the lock.
unsafe impl Send for Products {}
// SAFETY: as above.
unsafe impl Sync for Products {}

/// What remains for the caller before the product itself.
pub(super) struct Kernels<'a> {
    /// Starts the kernel that rounds the f32 bias to bf16 at an address.
    pub(super) round_bias: &'a dyn Fn(Address) -> Result<(), CudaError>,
    /// Starts the kernel that adds the bias to the result, or puts it there where the result held nothing.
    pub(super) put_bias: &'a dyn Fn() -> Result<(), CudaError>,
}

impl Products {
    /// Starts the library. `choices` is the file of algorithms.
    ///
    /// # Errors
    /// The library refuses, or the workspace cannot be had.
    pub(super) fn new(
        session: &Session,
        memory: &Memory,
        library: CublasLt,
        settings: MatmulSettings,
        choices: Choices,
    ) -> Result<Self, CudaError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes the handle, in the current context; destroyed in `destroy`.
        result("cublasLtCreate", unsafe { (library.cublasLtCreate)(&raw mut handle) })?;
        // Split sums want room; Hopper's and Blackwell's algorithms more.
        let workspace_bytes = if session.capability.0 >= 9 { 64 << 20 } else { 32 << 20 };
        let workspace = memory.allocate(session, workspace_bytes)?;
        let rounded = memory.allocate(session, WIDEST_BIAS * DType::Bf16.size())?;
        let state = Mutex::new(State { plans: HashMap::new(), choices });
        Ok(Products { library, handle, settings, workspace, workspace_bytes, rounded, state })
    }

    /// Starts a product; false if it is to leave row sums and no algorithm does.
    ///
    /// # Errors
    /// There is no algorithm for it, or a call fails.
    pub(super) fn run(
        &self,
        session: &Session,
        memory: &Memory,
        job: &Job,
        kernels: &Kernels<'_>,
    ) -> Result<bool, CudaError> {
        let product = job.product;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match state.plans.get(&product) {
            Some(plan) => *plan,
            None => {
                let plan = self.plan(session, memory, &mut state.choices, job)?;
                if state.plans.len() >= MOST_PLANS {
                    self.forget(&mut state);
                }
                state.plans.insert(product, plan);
                plan
            }
        };
        let Some(plan) = plan else {
            if product.extra == Extra::RowSums {
                return Ok(false);
            }
            // SAFETY: takes nothing.
            let version = unsafe { (self.library.cublasLtGetVersion)() };
            return Err(CudaError::NoAlgorithm { version, product: product.to_string() });
        };
        match plan.way {
            Way::RoundedBias => (kernels.round_bias)(self.rounded)?,
            Way::BiasBefore => (kernels.put_bias)()?,
            Way::Plain | Way::Bias | Way::RowSums => {}
        }
        let asked = if plan.way == Way::BiasBefore { product.behind_bias() } else { product };
        self.pointers(&plan.descriptors, plan.way, job)?;
        self.start(session, &plan.descriptors, &plan.algorithm, &Job { product: asked, ..*job }, job.c)?;
        Ok(true)
    }

    /// Whether a product has been met before, and whether it can be done; `None` where that is to be tried and timed first.
    pub(super) fn known(&self, product: &Product) -> Option<bool> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.plans.get(product).map(Option::is_some)
    }

    /// The ways of doing a product, the best first. In all of those that end in bf16 the bias is rounded to bf16, added to
    /// the sum in f32, and the result rounded: bits do not depend on which of them a library has. (The other order, a
    /// product that is rounded and a bias added behind, would round the larger of the two numbers twice.)
    fn ways(product: &Product) -> &'static [Way] {
        match product.extra {
            Extra::None => &[Way::Plain],
            Extra::RowSums => &[Way::RowSums],
            Extra::Bias if product.c.element == Element::F32 && !product.is_fp8() => &[Way::Bias, Way::BiasBefore],
            Extra::Bias if product.n <= WIDEST_BIAS => &[Way::RoundedBias, Way::BiasBefore],
            Extra::Bias => &[Way::BiasBefore],
        }
    }

    fn plan(
        &self,
        session: &Session,
        memory: &Memory,
        choices: &mut Choices,
        job: &Job,
    ) -> Result<Option<Plan>, CudaError> {
        for way in Self::ways(&job.product) {
            let product = if *way == Way::BiasBefore { job.product.behind_bias() } else { job.product };
            let job = Job { product, ..*job };
            let descriptors = self.describe(&product, *way)?;
            let found = self.pointers(&descriptors, *way, &job);
            let found = found.and_then(|()| self.choose(session, memory, choices, &descriptors, *way, &job));
            match found {
                Ok(Some(algorithm)) => return Ok(Some(Plan { descriptors, algorithm, way: *way })),
                Ok(None) => self.destroy_descriptors(descriptors),
                Err(error) => {
                    self.destroy_descriptors(descriptors);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// The remembered algorithm, else the fastest; `None` if the library has none.
    fn choose(
        &self,
        session: &Session,
        memory: &Memory,
        choices: &mut Choices,
        descriptors: &Descriptors,
        way: Way,
        job: &Job,
    ) -> Result<Option<Algorithm>, CudaError> {
        let product = job.product;
        if !self.settings.tune {
            return Ok(self.proposals(descriptors, &product)?.first().map(|proposal| proposal.algorithm));
        }
        let tf32 = if self.settings.tf32 { " tf32" } else { "" };
        let name = |of: Product| format!("{of}{tf32} way={way:?}");
        // What does not fit a neighbour of its size has a choice of its own, remembered as well.
        let names = [name(product.representative()), name(product)];
        let remembered = names.iter().filter_map(|name| choices.get(name)).find(|known| self.fits(descriptors, known));
        if remembered.is_some() {
            return Ok(remembered);
        }
        let proposals = self.proposals(descriptors, &product)?;
        if proposals.is_empty() {
            return Ok(None);
        }
        let fastest = self.fastest(session, memory, descriptors, &proposals, job)?;
        let settled = names.iter().map(|name| choices.settle(name, fastest));
        let holds = |settled: &Algorithm| *settled == fastest || self.fits(descriptors, settled);
        Ok(Some(settled.into_iter().find(holds).unwrap_or(fastest)))
    }

    /// Whether a remembered algorithm can compute this very product in the workspace.
    fn fits(&self, d: &Descriptors, algorithm: &Algorithm) -> bool {
        let mut checked = Proposal::default();
        // SAFETY: descriptors are alive; both structs have the library's layout (asserted above).
        let status = unsafe {
            (self.library.cublasLtMatmulAlgoCheck)(
                self.handle,
                d.operation,
                d.b,
                d.a,
                d.c,
                d.c,
                std::ptr::from_ref(algorithm).cast(),
                (&raw mut checked).cast(),
            )
        };
        status == 0 && checked.status == 0 && checked.workspace <= self.workspace_bytes
    }

    /// What the library proposes, the best by its own judgement first.
    fn proposals(&self, d: &Descriptors, product: &Product) -> Result<Vec<Proposal>, CudaError> {
        use lt::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let mut preference = std::ptr::null_mut();
        // SAFETY: writes the handle; destroyed below.
        let created = unsafe { (self.library.cublasLtMatmulPreferenceCreate)(&raw mut preference) };
        result("cublasLtMatmulPreferenceCreate", created)?;
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: the preference is alive; `value` points to so many bytes.
            let status =
                unsafe { (self.library.cublasLtMatmulPreferenceSetAttribute)(preference, attribute, value, bytes) };
            result("cublasLtMatmulPreferenceSetAttribute", status)
        };
        let workspace = self.workspace_bytes as u64;
        // Sums that are split are added in f32, never in the result's type.
        let reduction = lt::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        let mut settings =
            set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::ptr::from_ref(&workspace).cast(), 8).and(
                set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::ptr::from_ref(&reduction).cast(), 4),
            );
        for (attribute, side) in [
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &product.b),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &product.a),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &product.c),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &product.c),
        ] {
            settings = settings.and(set(attribute, std::ptr::from_ref(&side.alignment).cast(), 4));
        }
        let mut proposals = [Proposal::default(); CANDIDATES];
        let mut count: c_int = 0;
        let found = settings.map(|()| {
            // SAFETY: everything is alive; there is room for as many results as are asked for, in the library's layout.
            unsafe {
                (self.library.cublasLtMatmulAlgoGetHeuristic)(
                    self.handle,
                    d.operation,
                    d.b,
                    d.a,
                    d.c,
                    d.c,
                    preference,
                    CANDIDATES as c_int,
                    proposals.as_mut_ptr().cast(),
                    &raw mut count,
                )
            }
        });
        // SAFETY: created above.
        unsafe { (self.library.cublasLtMatmulPreferenceDestroy)(preference) };
        match found? {
            // Nothing for this product, or a bias of a type that it does not take: the caller has another way, or an error of
            // its own.
            NOT_SUPPORTED | INVALID_VALUE => Ok(Vec::new()),
            status => {
                result("cublasLtMatmulAlgoGetHeuristic", status)?;
                let count = usize::try_from(count).unwrap_or(0).min(CANDIDATES);
                let good = |p: &&Proposal| p.status == 0 && p.workspace <= self.workspace_bytes;
                Ok(proposals[..count].iter().filter(good).copied().collect())
            }
        }
    }

    /// Times proposals on the operands at hand. The result is `c` overwritten where that will be done anyway, else a
    /// scratch of its size; where there is no room for one, the library's first proposal is taken on trust.
    fn fastest(
        &self,
        session: &Session,
        memory: &Memory,
        descriptors: &Descriptors,
        proposals: &[Proposal],
        job: &Job,
    ) -> Result<Algorithm, CudaError> {
        let first = proposals[0].algorithm;
        if proposals.len() == 1 {
            return Ok(first);
        }
        let Product { m, c, accumulate, .. } = job.product;
        let scratch = match accumulate {
            false => None,
            true => match memory.allocate(session, m * c.row_stride * c.element.size()) {
                Ok(scratch) => Some(scratch),
                Err(CudaError::OutOfMemory { .. }) => return Ok(first),
                Err(error) => return Err(error),
            },
        };
        let target = scratch.unwrap_or(job.c);
        let timed = self.time_all(session, descriptors, proposals, job, target);
        if let Some(scratch) = scratch {
            memory.free(session, scratch)?;
        }
        let times = timed?;
        let limit = times[0] * CLEARLY_FASTER;
        let fastest = (1..times.len()).filter(|i| times[*i] < limit).min_by(|i, j| times[*i].total_cmp(&times[*j]));
        Ok(fastest.map_or(first, |i| proposals[i].algorithm))
    }

    /// Milliseconds of each proposal, infinite for one that does not run after all.
    fn time_all(
        &self,
        session: &Session,
        descriptors: &Descriptors,
        proposals: &[Proposal],
        job: &Job,
        target: Address,
    ) -> Result<Vec<f32>, CudaError> {
        let (begin, end) = (Event::new(session, true)?, Event::new(session, true)?);
        let time = |proposal: &Proposal| -> Result<f32, CudaError> {
            let mut best = f32::INFINITY;
            // The first run loads the kernel.
            for run in 0..=RUNS {
                begin.record(session)?;
                if self.start(session, descriptors, &proposal.algorithm, job, target).is_err() {
                    return Ok(f32::INFINITY);
                }
                end.record(session)?;
                end.wait(session)?;
                if run > 0 {
                    best = best.min(begin.milliseconds_to(&end, session)?);
                }
            }
            Ok(best)
        };
        let times = proposals.iter().map(time).collect();
        begin.destroy(session);
        end.destroy(session);
        times
    }

    /// Starts the product with an algorithm; the result goes to `target`.
    fn start(
        &self,
        session: &Session,
        d: &Descriptors,
        algorithm: &Algorithm,
        job: &Job,
        target: Address,
    ) -> Result<(), CudaError> {
        let (alpha, beta) = (1.0_f32, job.product.beta());
        let pointer = |address: Address| address.0 as *const c_void;
        // SAFETY: the descriptors describe the operands' memory, which the caller of `Driver::matmul` vouches for; the
        // workspace is ours, and products follow one another on one stream.
        let status = unsafe {
            (self.library.cublasLtMatmul)(
                self.handle,
                d.operation,
                std::ptr::from_ref(&alpha).cast(),
                pointer(job.b),
                d.b,
                pointer(job.a),
                d.a,
                std::ptr::from_ref(&beta).cast(),
                pointer(job.c),
                d.c,
                pointer(target).cast_mut(),
                d.c,
                std::ptr::from_ref(algorithm).cast(),
                pointer(self.workspace).cast_mut(),
                self.workspace_bytes,
                session.stream.cast(),
            )
        };
        result("cublasLtMatmul", status)
    }

    /// Tells where the bias, the sums and the scales are: the library reads them at each start.
    fn pointers(&self, d: &Descriptors, way: Way, job: &Job) -> Result<(), CudaError> {
        use lt::cublasLtMatmulDescAttributes_t as Attribute;
        if job.product.is_fp8() {
            let [a, b] = job.scales;
            self.operation(d.operation, Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &b.0)?;
            self.operation(d.operation, Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &a.0)?;
        }
        let address = match way {
            Way::Plain | Way::BiasBefore => return Ok(()),
            Way::Bias | Way::RowSums => job.extra,
            Way::RoundedBias => self.rounded,
        };
        self.operation(d.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address.0)
    }

    /// Sets an attribute of an operation.
    fn operation<T>(
        &self,
        operation: lt::cublasLtMatmulDesc_t,
        attribute: lt::cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> Result<(), CudaError> {
        // SAFETY: the operation is alive; reads as many bytes as the value has.
        let status = unsafe {
            (self.library.cublasLtMatmulDescSetAttribute)(
                operation,
                attribute,
                std::ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        };
        result("cublasLtMatmulDescSetAttribute", status)
    }

    fn describe(&self, product: &Product, way: Way) -> Result<Descriptors, CudaError> {
        use lt::cublasLtMatmulDescAttributes_t as Attribute;
        let compute = match self.settings.tf32 && product.a.element == Element::F32 {
            true => lt::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => lt::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let null = std::ptr::null_mut();
        let mut d = Descriptors { operation: null, a: null.cast(), b: null.cast(), c: null.cast() };
        let scale = lt::cudaDataType_t::CUDA_R_32F;
        // SAFETY: writes the handle; destroyed with the plan.
        let created = unsafe { (self.library.cublasLtMatmulDescCreate)(&raw mut d.operation, compute, scale) };
        let built = result("cublasLtMatmulDescCreate", created).and_then(|()| {
            // CUBLAS_OP_N is 0 and CUBLAS_OP_T is 1 (cuBLAS' header, which cudarc translates with cuBLAS itself only).
            let transposition = |side: &Side| i32::from(side.transposed);
            self.operation(d.operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &transposition(&product.b))?;
            self.operation(d.operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &transposition(&product.a))?;
            let epilogue = match way {
                Way::Plain | Way::BiasBefore => None,
                Way::Bias => Some((lt::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS, Element::F32)),
                Way::RoundedBias => Some((lt::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS, Element::Bf16)),
                // Our left operand is the library's B; the sums run over k.
                Way::RowSums => Some((lt::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB, Element::F32)),
            };
            if let Some((epilogue, element)) = epilogue {
                let element = data_type(element) as i32;
                self.operation(d.operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
                self.operation(d.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &element)?;
            }
            let Product { m, n, k, .. } = *product;
            d.b = self.layout(&product.b, if product.b.transposed { (k, n) } else { (n, k) })?;
            d.a = self.layout(&product.a, if product.a.transposed { (m, k) } else { (k, m) })?;
            d.c = self.layout(&product.c, (n, m))?;
            Ok(())
        });
        match built {
            Ok(()) => Ok(d),
            Err(error) => {
                self.destroy_descriptors(d);
                Err(error)
            }
        }
    }

    /// A column-major matrix: rows, columns, and elements from one column to the next.
    fn layout(&self, side: &Side, (rows, columns): (usize, usize)) -> Result<lt::cublasLtMatrixLayout_t, CudaError> {
        let mut layout = std::ptr::null_mut();
        // SAFETY: writes the handle; destroyed with the plan.
        let status = unsafe {
            (self.library.cublasLtMatrixLayoutCreate)(
                &raw mut layout,
                data_type(side.element),
                rows as u64,
                columns as u64,
                side.row_stride as i64,
            )
        };
        result("cublasLtMatrixLayoutCreate", status)?;
        Ok(layout)
    }

    fn destroy_descriptors(&self, d: Descriptors) {
        if !d.operation.is_null() {
            // SAFETY: created in `describe`, destroyed once.
            unsafe { (self.library.cublasLtMatmulDescDestroy)(d.operation) };
        }
        for layout in [d.a, d.b, d.c] {
            if !layout.is_null() {
                // SAFETY: created in `layout`, destroyed once.
                unsafe { (self.library.cublasLtMatrixLayoutDestroy)(layout) };
            }
        }
    }

    fn forget(&self, state: &mut State) {
        for plan in state.plans.drain().filter_map(|(_, plan)| plan) {
            self.destroy_descriptors(plan.descriptors);
        }
    }

    /// Ends the library; the stream is idle.
    pub(super) fn destroy(&self, session: &Session, memory: &Memory) {
        self.forget(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: created in `new`; no product runs any more.
        unsafe { (self.library.cublasLtDestroy)(self.handle) };
        for scratch in [self.workspace, self.rounded] {
            // Nobody is left to be told.
            let _ = memory.free(session, scratch);
        }
    }
}

/// cuBLAS' word for "no algorithm does this".
const NOT_SUPPORTED: u32 = lt::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED as u32;

/// cuBLAS' word for "this makes no sense".
const INVALID_VALUE: u32 = lt::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE as u32;

/// cuBLAS' statuses by name: the library's own function for it came late.
fn result(call: &'static str, status: u32) -> Result<(), CudaError> {
    let name = match status {
        0 => return Ok(()),
        1 => {
            "CUBLAS_STATUS_NOT_INITIALIZED (the library could not start: not enough GPU memory, or a driver too old for it)"
        }
        3 => "CUBLAS_STATUS_ALLOC_FAILED (not enough memory)",
        INVALID_VALUE => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH (the library does not know this GPU: install a newer one)",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED (the product, or a kernel before it)",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        NOT_SUPPORTED => "CUBLAS_STATUS_NOT_SUPPORTED",
        _ => return Err(CudaError::Call { call, text: format!("cuBLAS status {status}"), hint: "" }),
    };
    Err(CudaError::Call { call, text: name.to_owned(), hint: "" })
}

fn data_type(element: Element) -> lt::cudaDataType_t {
    match element {
        Element::F32 => lt::cudaDataType_t::CUDA_R_32F,
        Element::Bf16 => lt::cudaDataType_t::CUDA_R_16BF,
        Element::Fp8(Fp8::E4m3) => lt::cudaDataType_t::CUDA_R_8F_E4M3,
        Element::Fp8(Fp8::E5m2) => lt::cudaDataType_t::CUDA_R_8F_E5M2,
    }
}
