// Softmax over runs of rows: one segment and tile of columns by one thread, rows in order.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/column_tiles.h"
#include "kernels/exponential.h"
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
    const ColumnTile tile(i, channels);
    const Chunk chunk = chunk_of(packed_info, tile.segment, total);
    T largest[kColumns], sum[kColumns] = {};
    for (int c = 0; c < kColumns; ++c) largest[c] = -std::numeric_limits<T>::infinity();
    tile.for_each_row(values, chunk, [&](const T* row, int64_t, auto width) {
      for (int c = 0; c < width; ++c) largest[c] = row[c] > largest[c] ? row[c] : largest[c];
    });
    tile.for_each_row(values, chunk, [&](const T* row, int64_t number, auto width) {
      T* to = out + number * channels + tile.first;
      for (int c = 0; c < width; ++c) {
        to[c] = vector_exp(row[c] - largest[c]);
        sum[c] += to[c];
      }
    });
    tile.for_each_row(values, chunk, [&](const T*, int64_t number, auto width) {
      T* to = out + number * channels + tile.first;
      for (int c = 0; c < width; ++c) to[c] /= sum[c];
    });
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
    const ColumnTile tile(i, channels);
    const Chunk chunk = chunk_of(packed_info, tile.segment, total);
    T sum[kColumns] = {};
    tile.for_each_row(grad, chunk, [&](const T* g, int64_t number, auto width) {
      const T* y = softmax + number * channels + tile.first;
      for (int c = 0; c < width; ++c) sum[c] += g[c] * y[c];
    });
    tile.for_each_row(grad, chunk, [&](const T* g, int64_t number, auto width) {
      const int64_t at = number * channels + tile.first;
      for (int c = 0; c < width; ++c) out[at + c] = softmax[at + c] * (g[c] - sum[c]);
    });
  }
};

inline Tensor segment_softmax(const Tensor& values, const Tensor& packed_info) {
  const Tensor rows = packed(values), info = packed(packed_info);
  const int64_t total = rows.size(0), channels = rows.size(1);
  check_tiling(info, total, "segment_softmax");
  return dispatch_floating(rows.scalar_type(), "segment_softmax", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(rows, {total, channels});
    launch(rows, info.size(0) * column_tiles(channels),
           SegmentSoftmax<T>{cptr<T>(rows), cptr<int64_t>(info), total, channels, mptr<T>(out)}, 32);
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
    launch(y, info.size(0) * column_tiles(channels),
           SegmentSoftmaxGradient<T>{cptr<T>(g), cptr<T>(y), cptr<int64_t>(info), total, channels, mptr<T>(out)}, 32);
    return out;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
