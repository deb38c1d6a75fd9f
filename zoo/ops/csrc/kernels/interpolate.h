// Weighted sums of a few rows for each query, and their gradients.
#pragma once

#include <tuple>

#include "kernels/packed_chunks.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int64_t kChannelsAtOnce = 16;

ZOO_HD int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// A call makes up to kChannelsAtOnce channels of one query.
template <class T>
struct Interpolate {
  const T* features;    // (N, C)
  const int64_t* rows;  // (M, K)
  const T* weights;     // (M, K)
  int64_t num_rows, channels, neighbors, parts;
  T* out;  // (M, C)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t query = i / parts, begin = i % parts * kChannelsAtOnce;
    const int64_t count = least(kChannelsAtOnce, channels - begin);
    T sums[kChannelsAtOnce] = {};
    for (int64_t k = 0; k < neighbors; ++k) {
      const int64_t row = rows[query * neighbors + k];
      if (row < 0 || row >= num_rows) continue;
      const T weight = weights[query * neighbors + k];
      const T* feature = features + row * channels + begin;
      for (int64_t c = 0; c < count; ++c) sums[c] += weight * feature[c];
    }
    for (int64_t c = 0; c < count; ++c) out[query * channels + begin + c] = sums[c];
  }
};

// The uses of feature row n are `uses[start, start + count)`, positions in the flat (M K) lists, ascending.
template <class T>
struct InterpolateFeatureGradient {
  const T* grad;            // (M, C)
  const T* weights;         // (M, K)
  const int64_t* uses;      // (M K,)
  const int64_t* use_info;  // (N, 2)
  int64_t num_uses, channels, neighbors, parts;
  T* out;  // (N, C)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t row = i / parts, begin = i % parts * kChannelsAtOnce;
    const int64_t count = least(kChannelsAtOnce, channels - begin);
    const Chunk chunk = chunk_of(use_info, row, num_uses);
    T sums[kChannelsAtOnce] = {};
    for (int64_t u = 0; u < chunk.count; ++u) {
      const int64_t use = uses[chunk.start + u];
      const T weight = weights[use];
      const T* from = grad + use / neighbors * channels + begin;
      for (int64_t c = 0; c < count; ++c) sums[c] += weight * from[c];
    }
    for (int64_t c = 0; c < count; ++c) out[row * channels + begin + c] = sums[c];
  }
};

template <class T>
struct InterpolateWeightGradient {
  const T* grad;        // (M, C)
  const T* features;    // (N, C)
  const int64_t* rows;  // (M, K)
  int64_t num_rows, channels, neighbors;
  T* out;  // (M, K)

  ZOO_HD void operator()(int64_t use) const {
    const int64_t row = rows[use];
    T sum = 0;
    if (row >= 0 && row < num_rows) {
      const T *a = grad + use / neighbors * channels, *b = features + row * channels;
      for (int64_t c = 0; c < channels; ++c) sum += a[c] * b[c];
    }
    out[use] = sum;
  }
};

inline int64_t parts_of(int64_t channels) {
  return (channels + kChannelsAtOnce - 1) / kChannelsAtOnce;
}

inline Tensor interpolate_rows(const Tensor& features, const Tensor& indices, const Tensor& weights) {
  const Tensor f = packed(features), rows = packed(indices), w = packed(weights);
  const int64_t count = rows.size(0), channels = f.size(1), parts = parts_of(channels);
  return dispatch_floating(f.scalar_type(), "three_interpolate", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(f, {count, channels});
    launch(f, count * parts,
           Interpolate<T>{cptr<T>(f), cptr<int64_t>(rows), cptr<T>(w), f.size(0), channels, rows.size(1), parts,
                          mptr<T>(out)},
           256);
    return out;
  });
}

inline std::tuple<Tensor, Tensor> interpolate_rows_backward(const Tensor& grad, const Tensor& features,
                                                            const Tensor& indices, const Tensor& weights,
                                                            const Tensor& uses, const Tensor& use_info) {
  const Tensor g = packed(grad), f = packed(features), rows = packed(indices), w = packed(weights), u = packed(uses),
               info = packed(use_info);
  const int64_t num_rows = f.size(0), channels = f.size(1), neighbors = rows.size(1), parts = parts_of(channels);
  return dispatch_floating(f.scalar_type(), "three_interpolate_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor to_features = empty_on<T>(f, {num_rows, channels}), to_weights = empty_on<T>(f, {rows.size(0), neighbors});
    launch(f, num_rows * parts,
           InterpolateFeatureGradient<T>{cptr<T>(g), cptr<T>(w), cptr<int64_t>(u), cptr<int64_t>(info), u.size(0),
                                         channels, neighbors, parts, mptr<T>(to_features)},
           128);
    launch(f, rows.size(0) * neighbors,
           InterpolateWeightGradient<T>{cptr<T>(g), cptr<T>(f), cptr<int64_t>(rows), num_rows, channels, neighbors,
                                        mptr<T>(to_weights)},
           256);
    return std::make_tuple(to_features, to_weights);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
