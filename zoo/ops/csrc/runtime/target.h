// Where a translation unit runs: host (C++ compiler), device (nvcc) or emulated (the CUDA source, compiled for the host
// by the fibre emulator of the tests). One set of functors and host functions serves all three.
#pragma once

#if defined(ZOO_EMULATE_CUDA)
#define ZOO_CUDA 1
#define ZOO_TARGET emulated
#define ZOO_HD inline
#elif defined(__CUDACC__)
#include <cuda_runtime.h>
#define ZOO_CUDA 1
#define ZOO_TARGET device
#define ZOO_HD __host__ __device__ __forceinline__
#else
#define ZOO_CUDA 0
#define ZOO_TARGET host
#define ZOO_HD inline
#endif

#define ZOO_RESTRICT __restrict__
