//! One GPU's context and stream, and the first error that happened on it.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys as cu;

use super::error::CudaError;
use super::libraries::DriverLibrary;

/// The context of a GPU with the one stream that all work is ordered on.
pub(super) struct Session {
    pub(super) library: DriverLibrary,
    pub(super) device: cu::CUdevice,
    context: cu::CUcontext,
    pub(super) stream: cu::CUstream,
    /// The GPU's name.
    pub(super) name: String,
    /// Compute capability.
    pub(super) capability: (i32, i32),
    failed: AtomicBool,
    first: Mutex<Option<CudaError>>,
}

// SAFETY: contexts and streams may be used from any thread; `enter` makes the context current on the calling one.
unsafe impl Send for Session {}
// SAFETY: as above; what the driver's calls share, the driver itself guards.
unsafe impl Sync for Session {}

impl Session {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// There is none of that number, it is too old, or the driver refuses.
    pub(super) fn open(library: DriverLibrary, ordinal: usize) -> Result<Self, CudaError> {
        let mut session = Session {
            library,
            device: 0,
            context: std::ptr::null_mut(),
            stream: std::ptr::null_mut(),
            name: String::new(),
            capability: (0, 0),
            failed: AtomicBool::new(false),
            first: Mutex::new(None),
        };
        let mut count: c_int = 0;
        // SAFETY: writes the number.
        session.result("cuDeviceGetCount", unsafe { (session.library.cuda.cuDeviceGetCount)(&raw mut count) })?;
        let count = usize::try_from(count).unwrap_or(0);
        let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        if ordinal >= count {
            return Err(CudaError::NoSuchDevice { ordinal, count });
        }
        let mut device = 0;
        // SAFETY: writes the handle of a GPU that exists.
        session.result("cuDeviceGet", unsafe { (session.library.cuda.cuDeviceGet)(&raw mut device, number) })?;
        session.device = device;
        session.name = session.device_name()?;
        let major = session.attribute(cu::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = session.attribute(cu::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        session.capability = (major, minor);
        if major < 8 {
            return Err(CudaError::DeviceTooOld { name: session.name.clone(), major, minor });
        }
        let mut context = std::ptr::null_mut();
        // SAFETY: writes the primary context's handle; released in `drop`.
        let retained = unsafe { (session.library.cuda.cuDevicePrimaryCtxRetain)(&raw mut context, device) };
        session.result("cuDevicePrimaryCtxRetain", retained)?;
        session.context = context;
        session.enter();
        let mut stream = std::ptr::null_mut();
        let flags = cu::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: writes the stream's handle, in the context that `enter` made current; destroyed in `drop`.
        let created = unsafe { (session.library.cuda.cuStreamCreate)(&raw mut stream, flags) };
        session.result("cuStreamCreate", created)?;
        session.stream = stream;
        Ok(session)
    }

    fn device_name(&self) -> Result<String, CudaError> {
        let mut name = [0_u8; 256];
        let length = name.len() as c_int;
        // SAFETY: writes at most `length` bytes with a zero at the end.
        let got =
            unsafe { (self.library.cuda.cuDeviceGetName)(name.as_mut_ptr().cast::<c_char>(), length, self.device) };
        self.result("cuDeviceGetName", got)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Ok(String::from_utf8_lossy(&name[..end]).into_owned())
    }

    /// A property of the GPU.
    ///
    /// # Errors
    /// The driver does not know it.
    pub(super) fn attribute(&self, attribute: cu::CUdevice_attribute) -> Result<i32, CudaError> {
        let mut value: c_int = 0;
        // SAFETY: writes the number.
        let got = unsafe { (self.library.cuda.cuDeviceGetAttribute)(&raw mut value, attribute, self.device) };
        self.result("cuDeviceGetAttribute", got)?;
        Ok(value)
    }

    /// Makes the context current on this thread: the driver keeps that per thread, and any thread may call.
    pub(super) fn enter(&self) {
        // SAFETY: the context lives as long as the session. A failure shows in the call that follows.
        unsafe { (self.library.cuda.cuCtxSetCurrent)(self.context) };
    }

    /// A status as a result.
    ///
    /// # Errors
    /// The status is one, with CUDA's text.
    pub(super) fn result(&self, call: &'static str, status: u32) -> Result<(), CudaError> {
        match status {
            0 => Ok(()),
            code => Err(CudaError::Call { call, text: self.library.explain(code), hint: hint(call, code) }),
        }
    }

    /// Whether an error has happened: then calls do nothing.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Keeps the first error; gives what was asked for otherwise.
    pub(super) fn keep<T>(&self, result: Result<T, CudaError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                self.failed.store(true, Ordering::Release);
                None
            }
        }
    }

    /// The first error.
    ///
    /// # Errors
    /// That one.
    pub(super) fn check(&self) -> Result<(), CudaError> {
        match &*self.first.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) if self.failed() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Waits for everything that was started.
    ///
    /// # Errors
    /// One of the things started failed.
    pub(super) fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as the session.
        self.result("cuStreamSynchronize", unsafe { (self.library.cuda.cuStreamSynchronize)(self.stream) })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.context.is_null() {
            return;
        }
        self.enter();
        if !self.stream.is_null() {
            // SAFETY: created in `open`; nothing else holds it, for what does holds the session.
            unsafe { (self.library.cuda.cuStreamDestroy_v2)(self.stream) };
        }
        // SAFETY: retained once in `open`.
        unsafe { (self.library.cuda.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}

/// What may be behind an error of a call.
fn hint(call: &str, code: u32) -> &'static str {
    match code {
        2 if call == "cuMemAllocHost" => {
            "\n  the system does not lock memory of the host for the GPU: free some, or raise the limit (ulimit -l; under WSL, memory in .wslconfig); --device cpu works without"
        }
        2 => {
            "\n  the GPU's memory is full: what else is on it? (nvidia-smi lists it.) If nothing is, choose a smaller model, micro-batch or context; --device cpu works without"
        }
        46 => {
            "\n  another process has this GPU for itself, or it is in a bad state: nvidia-smi tells of both; --device cpu works without"
        }
        // A kernel's fault surfaces in whatever call comes after it.
        700 | 702 | 715 | 716 | 717 | 718 | 719 => {
            "\n  a kernel that was started before is at fault: run again with CUDA_LAUNCH_BLOCKING=1, which names it, or under compute-sanitizer"
        }
        200 | 209 | 218 | 222 => "\n  driver and NVRTC do not fit each other: update the driver",
        _ => "",
    }
}

/// A CUDA event, for the moment when the stream gets to a place.
pub(super) struct Event {
    pub(super) handle: cu::CUevent,
}

// SAFETY: events may be used from any thread of the context.
unsafe impl Send for Event {}

impl Event {
    /// A new event. With `timing` it can be measured between two; without it costs less.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn new(session: &Session, timing: bool) -> Result<Self, CudaError> {
        let flags = if timing { 0 } else { cu::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as c_uint };
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes the handle; destroyed in `destroy`.
        session.result("cuEventCreate", unsafe { (session.library.cuda.cuEventCreate)(&raw mut handle, flags) })?;
        Ok(Event { handle })
    }

    /// Marks the stream's present end.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn record(&self, session: &Session) -> Result<(), CudaError> {
        // SAFETY: both handles are alive.
        session.result("cuEventRecord", unsafe { (session.library.cuda.cuEventRecord)(self.handle, session.stream) })
    }

    /// Waits until the stream is past the mark.
    ///
    /// # Errors
    /// Something before the mark failed.
    pub(super) fn wait(&self, session: &Session) -> Result<(), CudaError> {
        // SAFETY: the handle is alive.
        session.result("cuEventSynchronize", unsafe { (session.library.cuda.cuEventSynchronize)(self.handle) })
    }

    /// Milliseconds from this mark to a later one; both have been waited for.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn milliseconds_to(&self, later: &Event, session: &Session) -> Result<f32, CudaError> {
        let mut milliseconds = 0.0;
        // SAFETY: both handles are alive and were created with timing.
        let status =
            unsafe { (session.library.cuda.cuEventElapsedTime)(&raw mut milliseconds, self.handle, later.handle) };
        session.result("cuEventElapsedTime", status)?;
        Ok(milliseconds)
    }

    /// Gives it back.
    pub(super) fn destroy(self, session: &Session) {
        // SAFETY: created in `new`, and moved here: nothing uses it after.
        unsafe { (session.library.cuda.cuEventDestroy_v2)(self.handle) };
    }
}
