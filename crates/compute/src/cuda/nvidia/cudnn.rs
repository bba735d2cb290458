//! cuDNN's graph interface, as far as it is needed here: descriptors that are created, given attributes, finalised and read.
//!
//! A descriptor may refer to others; the library keeps what it needs of them, but says nowhere for how long it looks at
//! them, so that a [`Descriptor`] keeps those it was given.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cudnn::sys as nn;
use nn::cudnnBackendAttributeName_t as Name;
use nn::cudnnBackendAttributeType_t as Type;

use super::error::CudaError;
use super::ffi::Cudnn;

/// A descriptor, destroyed when it is dropped.
pub(super) struct Descriptor {
    library: Arc<Cudnn>,
    handle: nn::cudnnBackendDescriptor_t,
    /// What it refers to.
    of: Vec<Descriptor>,
}

// SAFETY: descriptors are used on one thread at a time, behind a lock.
unsafe impl Send for Descriptor {}

/// What an attribute may consist of. Values are plain data without padding.
pub(super) trait Element: Copy {}
impl Element for bool {}
impl Element for u32 {}
impl Element for i64 {}
impl Element for *mut c_void {}
impl Element for nn::cudnnHandle_t {}
impl Element for u8 {}

impl Descriptor {
    /// A new one.
    ///
    /// # Errors
    /// The library does not know the kind, or refuses.
    pub(super) fn new(library: &Arc<Cudnn>, kind: nn::cudnnBackendDescriptorType_t) -> Result<Self, CudaError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes the handle; destroyed in `drop`.
        let status = unsafe { (library.cudnnBackendCreateDescriptor)(kind, &raw mut handle) };
        result(library, "cudnnBackendCreateDescriptor", status)?;
        Ok(Descriptor { library: library.clone(), handle, of: Vec::new() })
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// The library refuses it.
    pub(super) fn set<T: Element>(&self, name: Name, kind: Type, values: &[T]) -> Result<(), CudaError> {
        // SAFETY: the descriptor is alive; the call copies so many values of the type that `kind` says.
        let status = unsafe {
            (self.library.cudnnBackendSetAttribute)(
                self.handle,
                name,
                kind,
                values.len() as i64,
                values.as_ptr().cast::<c_void>(),
            )
        };
        result(&self.library, "cudnnBackendSetAttribute", status)
    }

    /// Sets an attribute to other descriptors, which it keeps.
    ///
    /// # Errors
    /// The library refuses them.
    pub(super) fn refer(&mut self, name: Name, to: Vec<Descriptor>) -> Result<(), CudaError> {
        let handles: Vec<*mut c_void> = to.iter().map(|descriptor| descriptor.handle).collect();
        self.of.extend(to);
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &handles)
    }

    /// Ends the setting of attributes.
    ///
    /// # Errors
    /// What was set makes no sense, or is not supported.
    pub(super) fn finalize(self) -> Result<Self, CudaError> {
        // SAFETY: the descriptor is alive.
        result(&self.library, "cudnnBackendFinalize", unsafe { (self.library.cudnnBackendFinalize)(self.handle) })?;
        Ok(self)
    }

    /// Reads an attribute; how many values there were room for.
    ///
    /// # Errors
    /// The library refuses.
    pub(super) fn get<T: Element>(&self, name: Name, kind: Type, values: &mut [T]) -> Result<usize, CudaError> {
        let mut count = 0;
        // SAFETY: the descriptor is alive; the call writes at most so many values of the type that `kind` says.
        let status = unsafe {
            (self.library.cudnnBackendGetAttribute)(
                self.handle,
                name,
                kind,
                values.len() as i64,
                &raw mut count,
                values.as_mut_ptr().cast(),
            )
        };
        result(&self.library, "cudnnBackendGetAttribute", status)?;
        Ok(usize::try_from(count).unwrap_or(0).min(values.len()))
    }

    /// Reads up to `most` descriptors.
    ///
    /// # Errors
    /// The library refuses.
    pub(super) fn read(
        &self,
        name: Name,
        kind: nn::cudnnBackendDescriptorType_t,
        most: usize,
    ) -> Result<Vec<Descriptor>, CudaError> {
        // The call fills descriptors that the caller has created.
        let mut found = (0..most).map(|_| Self::new(&self.library, kind)).collect::<Result<Vec<_>, _>>()?;
        let mut handles: Vec<*mut c_void> = found.iter().map(|descriptor| descriptor.handle).collect();
        let count = self.get(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut handles)?;
        found.truncate(count);
        Ok(found)
    }

    /// Starts an execution plan.
    ///
    /// # Errors
    /// The library refuses.
    pub(super) fn execute(&self, handle: nn::cudnnHandle_t, variant: &Descriptor) -> Result<(), CudaError> {
        // SAFETY: all three are alive; the caller of `Driver::attention` vouches for the memory that the variant names.
        let status = unsafe { (self.library.cudnnBackendExecute)(handle, self.handle, variant.handle) };
        result(&self.library, "cudnnBackendExecute", status)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        unsafe { (self.library.cudnnBackendDestroyDescriptor)(self.handle) };
    }
}

/// A status as a result, with the library's own words.
///
/// # Errors
/// The status is one.
pub(super) fn result(library: &Cudnn, call: &'static str, status: u32) -> Result<(), CudaError> {
    if status == 0 {
        return Ok(());
    }
    let mut said = [0_u8; 512];
    // SAFETY: writes at most so many bytes, with a zero at the end.
    unsafe { (library.cudnnGetLastErrorString)(said.as_mut_ptr().cast(), said.len()) };
    let end = said.iter().position(|byte| *byte == 0).unwrap_or(said.len());
    let said = String::from_utf8_lossy(&said[..end]).trim().to_owned();
    let text = match (name(status), said.is_empty()) {
        (name, true) => name,
        (name, false) => format!("{name} ({said})"),
    };
    Err(CudaError::Call { call, text, hint: "" })
}

/// cuDNN's statuses by their group.
fn name(status: u32) -> String {
    let group = match status {
        1001 => "not initialized",
        1008 | 3008 => "a library that it needs is missing",
        1000..2000 => "not ready",
        2000..3000 => "bad parameter",
        3000..4000 => "not supported",
        4000..5000 => "internal error",
        5000..6000 => "execution failed",
        _ => "unknown",
    };
    format!("cuDNN status {status}: {group}")
}
