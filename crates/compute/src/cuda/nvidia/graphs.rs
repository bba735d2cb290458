//! CUDA graphs: calls captured from the stream into a graph, and started as one.
//!
//! The calls themselves are those that start work one by one; while the stream is being captured they are noted instead of
//! done. Whatever would have to be compiled, timed or allocated is seen to before, or the graph is not made this time: a
//! capture allows none of it. Arguments of our own launches can be changed later, those inside cuBLASLt's products cannot.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys as cu;

use super::error::CudaError;
use super::product::Job;
use super::session::Session;
use super::{NvidiaDriver, pointer_to};
use crate::cuda::calls::{Call, Calls};
use crate::cuda::driver::{Argument, Graph, GraphDriver, Launch, Operand};

/// A launch of ours in a graph.
struct Node {
    handle: cu::CUgraphNode,
    function: cu::CUfunction,
    launch: Launch,
}

/// A graph that can be started.
struct Executable {
    /// Its nodes are what names them in the executable: it lives as long.
    graph: cu::CUgraph,
    executable: cu::CUgraphExec,
    /// One for each call; `None` for those that cannot be changed.
    nodes: Vec<Option<Node>>,
}

// SAFETY: graphs are used behind a lock, from any thread.
unsafe impl Send for Executable {}

/// Every graph of a driver.
#[derive(Default)]
pub(super) struct Graphs {
    /// By their number; `None` where one has been discarded.
    live: Mutex<Vec<Option<Executable>>>,
}

impl Graphs {
    /// Gives all back; the stream is idle.
    pub(super) fn destroy(&self, session: &Session) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.drain(..).flatten().for_each(|executable| executable.destroy(session));
    }
}

impl Executable {
    fn destroy(self, session: &Session) {
        // SAFETY: both were made in `capture` and are destroyed once; a start that is under way keeps what it needs.
        unsafe {
            (session.library.cuda.cuGraphExecDestroy)(self.executable);
            (session.library.cuda.cuGraphDestroy)(self.graph);
        }
    }
}

/// A call that is a product, and where its result goes.
fn job<'a>(call: &Call<'a>) -> Option<(Job, &'a Operand)> {
    match *call {
        Call::Matmul(matmul) => Some((Job::of(matmul), &matmul.c)),
        Call::RowSums { matmul, sums } => Some((Job::with_row_sums(matmul, sums), &matmul.c)),
        Call::Fp8Matmul(matmul) => Some((Job::of_fp8(matmul), &matmul.c)),
        _ => None,
    }
}

impl NvidiaDriver {
    /// Loads what the calls need; `false` if a product has not been met yet.
    fn prepare(&self, calls: &Calls) -> Result<bool, CudaError> {
        for call in calls.iter() {
            match call {
                Call::Launch { kernel, launch, .. } => {
                    self.modules.function(&self.session, kernel, launch.shared_bytes)?;
                }
                Call::Copy { .. } | Call::Zero { .. } | Call::Upload { .. } => {}
                Call::Matmul(_) | Call::RowSums { .. } | Call::Fp8Matmul(_) => {
                    let known = job(&call).and_then(|(job, _)| self.products.known(&job.product));
                    if known != Some(true) {
                        return Ok(false);
                    }
                }
                Call::Attention(attention) => {
                    if self.attentions.known(attention) != Some(true) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Makes the calls on a stream that is being captured.
    fn capture(&self, calls: &Calls) -> Result<Executable, CudaError> {
        let (session, cuda) = (&self.session, &self.session.library.cuda);
        let mode = cu::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive and not being captured; the capture ends below, whatever happens.
        session.result("cuStreamBeginCapture", unsafe { (cuda.cuStreamBeginCapture_v2)(session.stream, mode) })?;
        let nodes = calls.iter().map(|call| self.note(call)).collect::<Result<Vec<_>, _>>();
        let mut graph = std::ptr::null_mut();
        // SAFETY: writes the handle, or null where something that was called cannot be captured.
        let ended = unsafe { (cuda.cuStreamEndCapture)(session.stream, &raw mut graph) };
        let whole = nodes.and_then(|nodes| session.result("cuStreamEndCapture", ended).map(|()| nodes));
        let mut executable = std::ptr::null_mut();
        let made = whole.and_then(|nodes| {
            // SAFETY: the graph is whole; writes the handle.
            let status = unsafe { (cuda.cuGraphInstantiateWithFlags)(&raw mut executable, graph, 0) };
            session.result("cuGraphInstantiate", status).map(|()| nodes)
        });
        match made {
            Ok(nodes) => Ok(Executable { graph, executable, nodes }),
            Err(error) => {
                if !graph.is_null() {
                    // SAFETY: captured above, used by nothing.
                    unsafe { (cuda.cuGraphDestroy)(graph) };
                }
                Err(error)
            }
        }
    }

    /// Makes one call while capturing; what it has become, if it is a launch.
    fn note(&self, call: Call<'_>) -> Result<Option<Node>, CudaError> {
        match call {
            Call::Launch { kernel, launch, arguments } => {
                self.launch_now(kernel, launch, arguments)?;
                let function = self.modules.function(&self.session, kernel, launch.shared_bytes)?;
                return Ok(Some(Node { handle: self.latest_node()?, function, launch }));
            }
            Call::Matmul(_) | Call::RowSums { .. } | Call::Fp8Matmul(_) => {
                let (job, c) = job(&call).expect("a product");
                self.multiply_now(&job, c)?;
            }
            Call::Attention(attention) => self.attentions.start(attention)?,
            Call::Copy { from, to, bytes } => self.copy_now(from, to, bytes)?,
            Call::Zero { at, bytes } => self.zero_now(at, bytes)?,
            Call::Upload { .. } => {
                let text = "an upload cannot be captured: its bytes would change".to_owned();
                return Err(CudaError::Call { call: "cuStreamBeginCapture", text, hint: "" });
            }
        }
        Ok(None)
    }

    /// What the stream's next node would wait for: the call that was captured last.
    fn latest_node(&self) -> Result<cu::CUgraphNode, CudaError> {
        let mut status = cu::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut id, mut graph, mut nodes, mut count) = (0, std::ptr::null_mut(), std::ptr::null(), 0);
        // SAFETY: writes all five; the nodes stay where they are until the stream is given its next call.
        let asked = unsafe {
            (self.session.library.cuda.cuStreamGetCaptureInfo_v2)(
                self.session.stream,
                &raw mut status,
                &raw mut id,
                &raw mut graph,
                &raw mut nodes,
                &raw mut count,
            )
        };
        self.session.result("cuStreamGetCaptureInfo", asked)?;
        if count != 1 || nodes.is_null() {
            let text = format!("{count} nodes at the end of one stream");
            return Err(CudaError::Call { call: "cuStreamGetCaptureInfo", text, hint: "" });
        }
        // SAFETY: there is one.
        Ok(unsafe { *nodes })
    }

    fn set_arguments(&self, of: &Executable, node: &Node, arguments: &[Argument]) -> Result<(), CudaError> {
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(pointer_to).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (node.launch.grid, node.launch.block);
        let parameters = cu::CUDA_KERNEL_NODE_PARAMS {
            func: node.function,
            gridDimX: gx,
            gridDimY: gy,
            gridDimZ: gz,
            blockDimX: bx,
            blockDimY: by,
            blockDimZ: bz,
            sharedMemBytes: node.launch.shared_bytes,
            kernelParams: pointers.as_mut_ptr(),
            extra: std::ptr::null_mut(),
            kern: std::ptr::null_mut(),
            ctx: std::ptr::null_mut(),
        };
        // SAFETY: the executable was made of the node's graph, which is alive; arguments are in the order and of the types
        // of the function's signature (they have the shape of those it was captured with), and the call copies them.
        let status = unsafe {
            (self.session.library.cuda.cuGraphExecKernelNodeSetParams_v2)(
                of.executable,
                node.handle,
                &raw const parameters,
            )
        };
        self.session.result("cuGraphExecKernelNodeSetParams", status)
    }
}

impl GraphDriver for NvidiaDriver {
    fn build(&self, calls: &Calls) -> Result<Option<Graph>, String> {
        if self.session.failed() {
            return Ok(None);
        }
        self.session.enter();
        if !self.prepare(calls).map_err(|error| error.to_string())? {
            return Ok(None);
        }
        let executable = self.capture(calls).map_err(|error| error.to_string())?;
        let mut live = self.graphs.live.lock().unwrap_or_else(PoisonError::into_inner);
        let free = live.iter().position(Option::is_none).unwrap_or(live.len());
        if free == live.len() {
            live.push(None);
        }
        live[free] = Some(executable);
        Ok(Some(Graph(free as u64)))
    }

    fn change(&self, graph: &Graph, i: usize, arguments: &[Argument]) -> Result<(), String> {
        self.session.enter();
        let live = self.graphs.live.lock().unwrap_or_else(PoisonError::into_inner);
        let executable = live[graph.0 as usize].as_ref().ok_or("a graph that is gone")?;
        let node = executable.nodes[i].as_ref().ok_or("a call that is no launch")?;
        self.set_arguments(executable, node, arguments).map_err(|error| error.to_string())
    }

    fn start(&self, graph: &Graph) {
        let live = self.graphs.live.lock().unwrap_or_else(PoisonError::into_inner);
        let executable = live[graph.0 as usize].as_ref().expect("a graph that is alive");
        self.attempt(|| {
            // SAFETY: the executable is alive; the memory that its calls use is in use by the same calls now.
            let status =
                unsafe { (self.session.library.cuda.cuGraphLaunch)(executable.executable, self.session.stream) };
            self.session.result("cuGraphLaunch", status)
        });
    }

    fn discard(&self, graph: Graph) {
        self.session.enter();
        let mut live = self.graphs.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(executable) = live[graph.0 as usize].take() {
            executable.destroy(&self.session);
        }
    }
}
