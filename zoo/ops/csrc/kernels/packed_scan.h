// Running sums and products along packed rays, one ray by one thread. CUDA has a cooperative version of its own
// (cuda/packed_scan.cu): a warp for each ray.
#pragma once

#include "kernels/packed_chunks.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class T>
struct PackedSum {
  const T* x;  // (N,)
  const int64_t* packed_info;
  int64_t total;
  bool exclusive, reverse;
  T* output;  // (N,)

  ZOO_HD void operator()(int64_t ray) const {
    const Chunk chunk = chunk_of(packed_info, ray, total);
    T sum = 0;
    for (int64_t i = 0; i < chunk.count; ++i) {
      const int64_t row = chunk.start + (reverse ? chunk.count - 1 - i : i);
      const T before = sum;
      sum += x[row];
      output[row] = exclusive ? before : sum;
    }
  }
};

template <class T>
struct PackedProd {
  const T* x;  // (N,)
  const int64_t* packed_info;
  int64_t total;
  bool exclusive;
  T* output;  // (N,)

  ZOO_HD void operator()(int64_t ray) const {
    const Chunk chunk = chunk_of(packed_info, ray, total);
    T product = 1;
    for (int64_t i = 0; i < chunk.count; ++i) {
      const int64_t row = chunk.start + i;
      const T before = product;
      product *= x[row];
      output[row] = exclusive ? before : product;
    }
  }
};

// grad_x_k = (prod_{j < k} x_j) s_k, where s_k gathers what follows: s_k = g_k + x_{k+1} s_{k+1} for the inclusive
// product and s_k = g_{k+1} + x_{k+1} s_{k+1} for the exclusive one. Nothing is divided, so zero factors are exact.
template <class T>
struct PackedProdBackward {
  const T* grad_output;  // (N,)
  const T* x;            // (N,)
  const int64_t* packed_info;
  int64_t total;
  bool exclusive;
  T* grad_x;  // (N,)

  ZOO_HD void operator()(int64_t ray) const {
    const Chunk chunk = chunk_of(packed_info, ray, total);
    const T* factors = x + chunk.start;
    const T* grad = grad_output + chunk.start;
    T* result = grad_x + chunk.start;
    T before = 1;
    for (int64_t i = 0; i < chunk.count; ++i) {
      result[i] = before;
      before *= factors[i];
    }
    T following = 0;
    for (int64_t i = chunk.count - 1; i >= 0; --i) {
      if (i + 1 < chunk.count) following = (exclusive ? grad[i + 1] : T(0)) + factors[i + 1] * following;
      if (!exclusive) following += grad[i];
      result[i] *= following;
    }
  }
};

}  // namespace ZOO_TARGET
}  // namespace zoo
