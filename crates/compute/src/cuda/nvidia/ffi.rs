//! The functions of NVIDIA's libraries that the driver calls, looked up in a library that was found before.
//!
//! Types, constants and signatures are cudarc's; the lookup is ours, for three reasons. cudarc panics where a library or
//! a function is missing, and a person should read what to install instead. It searches by name only, and cannot be
//! told which of several versions to take. And it returns Rust enums, for which a number that a newer driver invents
//! would be undefined behaviour: here a status is a plain `u32`.

#![allow(non_snake_case)] // The functions have the names that NVIDIA's documentation has.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use cudarc::cublaslt::sys as lt;
use cudarc::cudnn::sys as nn;
use cudarc::driver::sys as cu;
use cudarc::nvrtc::sys as rtc;

/// Declares a table of functions: those that return a status (as `u32`), and those that return something else. Each
/// signature is held to cudarc's by the compiler.
macro_rules! functions {
    (
        $(#[$doc:meta])*
        $table:ident: $sys:ident, status $status:ident {
            $( $call:ident($($argument:ty),* $(,)?); )*
        } other {
            $( $plain:ident($($plain_argument:ty),* $(,)?) -> $returned:ty; )*
        }
    ) => {
        $(#[$doc])*
        pub(super) struct $table {
            $( pub(super) $call: unsafe extern "C" fn($($argument),*) -> u32, )*
            $( pub(super) $plain: unsafe extern "C" fn($($plain_argument),*) -> $returned, )*
        }

        impl $table {
            /// Looks every function up.
            ///
            /// # Errors
            /// The name of the first that the library lacks.
            pub(super) fn of(library: &libloading::Library) -> Result<Self, &'static str> {
                Ok($table {
                    // SAFETY: the function of this name has this signature (checked below against cudarc's), a status
                    // being an `unsigned int` enum in C. Libraries are never closed (`libraries::load`).
                    $( $call: unsafe { *library.get(stringify!($call)).map_err(|_| stringify!($call))? }, )*
                    // SAFETY: as above.
                    $( $plain: unsafe { *library.get(stringify!($plain)).map_err(|_| stringify!($plain))? }, )*
                })
            }
        }

        const _: () = {
            $( let _: unsafe fn($($argument),*) -> $sys::$status = $sys::$call; )*
            $( let _: unsafe fn($($plain_argument),*) -> $returned = $sys::$plain; )*
        };
    };
}

functions! {
    /// libcuda, the driver.
    Cuda: cu, status CUresult {
        cuInit(c_uint);
        cuDeviceGetCount(*mut c_int);
        cuDeviceGet(*mut cu::CUdevice, c_int);
        cuDeviceGetName(*mut c_char, c_int, cu::CUdevice);
        cuDeviceGetAttribute(*mut c_int, cu::CUdevice_attribute, cu::CUdevice);
        cuDeviceGetDefaultMemPool(*mut cu::CUmemoryPool, cu::CUdevice);
        cuDevicePrimaryCtxRetain(*mut cu::CUcontext, cu::CUdevice);
        cuDevicePrimaryCtxRelease_v2(cu::CUdevice);
        cuCtxSetCurrent(cu::CUcontext);
        cuMemGetInfo_v2(*mut usize, *mut usize);
        cuMemAlloc_v2(*mut cu::CUdeviceptr, usize);
        cuMemFree_v2(cu::CUdeviceptr);
        cuMemAllocAsync(*mut cu::CUdeviceptr, usize, cu::CUstream);
        cuMemFreeAsync(cu::CUdeviceptr, cu::CUstream);
        cuMemPoolSetAttribute(cu::CUmemoryPool, cu::CUmemPool_attribute, *mut c_void);
        cuMemPoolGetAttribute(cu::CUmemoryPool, cu::CUmemPool_attribute, *mut c_void);
        cuMemPoolTrimTo(cu::CUmemoryPool, usize);
        cuMemAllocHost_v2(*mut *mut c_void, usize);
        cuMemFreeHost(*mut c_void);
        cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
        cuMemHostGetDevicePointer_v2(*mut cu::CUdeviceptr, *mut c_void, c_uint);
        cuMemcpyHtoDAsync_v2(cu::CUdeviceptr, *const c_void, usize, cu::CUstream);
        cuMemcpyDtoHAsync_v2(*mut c_void, cu::CUdeviceptr, usize, cu::CUstream);
        cuMemcpyDtoDAsync_v2(cu::CUdeviceptr, cu::CUdeviceptr, usize, cu::CUstream);
        cuMemsetD8Async(cu::CUdeviceptr, u8, usize, cu::CUstream);
        cuStreamCreate(*mut cu::CUstream, c_uint);
        cuStreamSynchronize(cu::CUstream);
        cuStreamDestroy_v2(cu::CUstream);
        cuEventCreate(*mut cu::CUevent, c_uint);
        cuEventRecord(cu::CUevent, cu::CUstream);
        cuEventSynchronize(cu::CUevent);
        cuEventElapsedTime(*mut f32, cu::CUevent, cu::CUevent);
        cuEventDestroy_v2(cu::CUevent);
        cuStreamBeginCapture_v2(cu::CUstream, cu::CUstreamCaptureMode);
        cuStreamEndCapture(cu::CUstream, *mut cu::CUgraph);
        cuStreamGetCaptureInfo_v2(
            cu::CUstream, *mut cu::CUstreamCaptureStatus, *mut cu::cuuint64_t, *mut cu::CUgraph,
            *mut *const cu::CUgraphNode, *mut usize,
        );
        cuGraphInstantiateWithFlags(*mut cu::CUgraphExec, cu::CUgraph, c_ulonglong);
        cuGraphExecKernelNodeSetParams_v2(cu::CUgraphExec, cu::CUgraphNode, *const cu::CUDA_KERNEL_NODE_PARAMS);
        cuGraphLaunch(cu::CUgraphExec, cu::CUstream);
        cuGraphExecDestroy(cu::CUgraphExec);
        cuGraphDestroy(cu::CUgraph);
        cuModuleLoadData(*mut cu::CUmodule, *const c_void);
        cuModuleUnload(cu::CUmodule);
        cuModuleGetFunction(*mut cu::CUfunction, cu::CUmodule, *const c_char);
        cuFuncSetAttribute(cu::CUfunction, cu::CUfunction_attribute, c_int);
        cuLaunchKernel(
            cu::CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, cu::CUstream,
            *mut *mut c_void, *mut *mut c_void,
        );
    } other {
    }
}

/// `cuGetErrorName` and `cuGetErrorString` take the enum in cudarc; a number must do.
pub(super) type ErrorText = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;

functions! {
    /// libnvrtc, the compiler.
    Nvrtc: rtc, status nvrtcResult {
        nvrtcVersion(*mut c_int, *mut c_int);
        nvrtcGetNumSupportedArchs(*mut c_int);
        nvrtcGetSupportedArchs(*mut c_int);
        nvrtcCreateProgram(
            *mut rtc::nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char,
        );
        nvrtcDestroyProgram(*mut rtc::nvrtcProgram);
        nvrtcCompileProgram(rtc::nvrtcProgram, c_int, *const *const c_char);
        nvrtcGetProgramLogSize(rtc::nvrtcProgram, *mut usize);
        nvrtcGetProgramLog(rtc::nvrtcProgram, *mut c_char);
        nvrtcGetCUBINSize(rtc::nvrtcProgram, *mut usize);
        nvrtcGetCUBIN(rtc::nvrtcProgram, *mut c_char);
        nvrtcGetPTXSize(rtc::nvrtcProgram, *mut usize);
        nvrtcGetPTX(rtc::nvrtcProgram, *mut c_char);
    } other {
    }
}

functions! {
    /// libcublasLt, the matrix products.
    CublasLt: lt, status cublasStatus_t {
        cublasLtCreate(*mut lt::cublasLtHandle_t);
        cublasLtDestroy(lt::cublasLtHandle_t);
        cublasLtMatmulDescCreate(*mut lt::cublasLtMatmulDesc_t, lt::cublasComputeType_t, lt::cudaDataType_t);
        cublasLtMatmulDescDestroy(lt::cublasLtMatmulDesc_t);
        cublasLtMatmulDescSetAttribute(
            lt::cublasLtMatmulDesc_t, lt::cublasLtMatmulDescAttributes_t, *const c_void, usize,
        );
        cublasLtMatrixLayoutCreate(*mut lt::cublasLtMatrixLayout_t, lt::cudaDataType_t, u64, u64, i64);
        cublasLtMatrixLayoutDestroy(lt::cublasLtMatrixLayout_t);
        cublasLtMatmulPreferenceCreate(*mut lt::cublasLtMatmulPreference_t);
        cublasLtMatmulPreferenceDestroy(lt::cublasLtMatmulPreference_t);
        cublasLtMatmulPreferenceSetAttribute(
            lt::cublasLtMatmulPreference_t, lt::cublasLtMatmulPreferenceAttributes_t, *const c_void, usize,
        );
        cublasLtMatmulAlgoGetHeuristic(
            lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t,
            lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatmulPreference_t, c_int,
            *mut lt::cublasLtMatmulHeuristicResult_t, *mut c_int,
        );
        cublasLtMatmulAlgoCheck(
            lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t,
            lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t, *const lt::cublasLtMatmulAlgo_t,
            *mut lt::cublasLtMatmulHeuristicResult_t,
        );
        cublasLtMatmul(
            lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, *const c_void,
            *const c_void, lt::cublasLtMatrixLayout_t, *const c_void, lt::cublasLtMatrixLayout_t, *const c_void,
            *const c_void, lt::cublasLtMatrixLayout_t, *mut c_void, lt::cublasLtMatrixLayout_t,
            *const lt::cublasLtMatmulAlgo_t, *mut c_void, usize, lt::cudaStream_t,
        );
    } other {
        cublasLtGetVersion() -> usize;
    }
}

functions! {
    /// libcudnn, of which only attention is used.
    Cudnn: nn, status cudnnStatus_t {
        cudnnCreate(*mut nn::cudnnHandle_t);
        cudnnDestroy(nn::cudnnHandle_t);
        cudnnSetStream(nn::cudnnHandle_t, nn::cudaStream_t);
        cudnnBackendCreateDescriptor(nn::cudnnBackendDescriptorType_t, *mut nn::cudnnBackendDescriptor_t);
        cudnnBackendDestroyDescriptor(nn::cudnnBackendDescriptor_t);
        cudnnBackendSetAttribute(
            nn::cudnnBackendDescriptor_t, nn::cudnnBackendAttributeName_t, nn::cudnnBackendAttributeType_t, i64,
            *const c_void,
        );
        cudnnBackendGetAttribute(
            nn::cudnnBackendDescriptor_t, nn::cudnnBackendAttributeName_t, nn::cudnnBackendAttributeType_t, i64,
            *mut i64, *mut c_void,
        );
        cudnnBackendFinalize(nn::cudnnBackendDescriptor_t);
        cudnnBackendExecute(nn::cudnnHandle_t, nn::cudnnBackendDescriptor_t, nn::cudnnBackendDescriptor_t);
    } other {
        cudnnGetVersion() -> usize;
        cudnnGetCudartVersion() -> usize;
        cudnnGetLastErrorString(*mut c_char, usize) -> ();
    }
}
