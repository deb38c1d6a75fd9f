// Softmax over runs of rows: one segment and column by one thread, rows in order.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/packed_chunks.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class T>
struct SegmentSoftmax {
  const T* values;  // (N, C)
  const int64_t* packed_info;
  int64_t total, channels;
  T* out;  // (N, C)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t segment = i / channels, channel = i % channels;
    const Chunk chunk = chunk_of(packed_info, segment, total);
    const T* in = values + chunk.start * channels + channel;
    T* to = out + chunk.start * channels + channel;
    T largest = -std::numeric_limits<T>::infinity();
    for (int64_t k = 0; k < chunk.count; ++k) {
      if (in[k * channels] > largest) largest = in[k * channels];
    }
    T sum = 0;
    for (int64_t k = 0; k < chunk.count; ++k) {
      const T share = exp(in[k * channels] - largest);
      to[k * channels] = share;
      sum += share;
    }
    for (int64_t k = 0; k < chunk.count; ++k) to[k * channels] /= sum;
  }
};

// y (g - sum g y)
template <class T>
struct SegmentSoftmaxGradient {
  const T* grad;     // (N, C)
  const T* softmax;  // (N, C)
  const int64_t* packed_info;
  int64_t total, channels;
  T* out;  // (N, C)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t segment = i / channels, channel = i % channels;
    const Chunk chunk = chunk_of(packed_info, segment, total);
    const int64_t base = chunk.start * channels + channel;
    T sum = 0;
    for (int64_t k = 0; k < chunk.count; ++k) sum += grad[base + k * channels] * softmax[base + k * channels];
    for (int64_t k = 0; k < chunk.count; ++k) {
      const int64_t at = base + k * channels;
      out[at] = softmax[at] * (grad[at] - sum);
    }
  }
};

inline Tensor segment_softmax(const Tensor& values, const Tensor& packed_info) {
  const Tensor rows = packed(values), info = packed(packed_info);
  const int64_t total = rows.size(0), channels = rows.size(1);
  check_tiling(info, total, "segment_softmax");
  return dispatch_floating(rows.scalar_type(), "segment_softmax", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(rows, {total, channels});
    launch(rows, info.size(0) * channels,
           SegmentSoftmax<T>{cptr<T>(rows), cptr<int64_t>(info), total, channels, mptr<T>(out)}, 128);
    return out;
  });
}

inline Tensor segment_softmax_backward(const Tensor& grad, const Tensor& softmax, const Tensor& packed_info) {
  const Tensor g = packed(grad), y = packed(softmax), info = packed(packed_info);
  const int64_t total = y.size(0), channels = y.size(1);
  check_tiling(info, total, "segment_softmax_backward");
  return dispatch_floating(y.scalar_type(), "segment_softmax_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(y, {total, channels});
    launch(y, info.size(0) * channels,
           SegmentSoftmaxGradient<T>{cptr<T>(g), cptr<T>(y), cptr<int64_t>(info), total, channels, mptr<T>(out)}, 128);
    return out;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
