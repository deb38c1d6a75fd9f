// The launcher of functors: `launch(where, n, f)` calls f(i) for i in [0, n), on threads of the CPU or on the GPU.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "runtime/target.h"
#if ZOO_CUDA
#include "runtime/cuda_stream.h"
#endif

namespace zoo {
inline namespace ZOO_TARGET {

#if ZOO_CUDA

constexpr int kThreads = 256;

template <class F>
__global__ void grid_stride_kernel(int64_t n, F f) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) f(i);
}

template <class F>
void launch(const torch::stable::Tensor& where, int64_t n, const F& f, int64_t /*grain*/ = 0) {
  if (n == 0) return;
  const OnDevice guard(where);
  const int64_t blocks = std::min<int64_t>((n + kThreads - 1) / kThreads, 1 << 16);
  ZOO_LAUNCH((grid_stride_kernel<F>), dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, current_stream(where), n,
             f);
}

// Adds to memory that other threads add to at the same time; the order of the additions is not fixed.
template <class T>
__device__ __forceinline__ void add_shared(T* target, T value) {
  atomicAdd(target, value);
}

#else

// `grain` is the least number of calls worth a thread of its own.
template <class F>
void launch(const torch::stable::Tensor& /*where*/, int64_t n, const F& f, int64_t grain = 1024) {
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

#endif

}  // namespace ZOO_TARGET
}  // namespace zoo
