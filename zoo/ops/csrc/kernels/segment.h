// Reductions over runs of rows: one segment and column by one thread, rows in order.
#pragma once

#include <tuple>

#include "kernels/packed_chunks.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class T>
struct SegmentTotal {
  const T* values;  // (N, C)
  const int64_t* packed_info;
  int64_t total, channels;
  T* totals;  // (S, C)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t segment = i / channels, channel = i % channels;
    const Chunk chunk = chunk_of(packed_info, segment, total);
    T sum = 0;
    for (int64_t k = 0; k < chunk.count; ++k) sum += values[(chunk.start + k) * channels + channel];
    totals[i] = sum;
  }
};

template <class T>
struct SegmentSpread {
  const T* totals;  // (S, C)
  const int64_t* packed_info;
  int64_t total, channels;
  T* values;  // (N, C)

  ZOO_HD void operator()(int64_t segment) const {
    const Chunk chunk = chunk_of(packed_info, segment, total);
    for (int64_t k = 0; k < chunk.count; ++k) {
      for (int64_t c = 0; c < channels; ++c) values[(chunk.start + k) * channels + c] = totals[segment * channels + c];
    }
  }
};

// The first NaN of a segment wins over every number, as in torch's amax and amin.
template <class T>
struct SegmentExtreme {
  const T* values;  // (N, C)
  const int64_t* packed_info;
  int64_t total, channels;
  bool largest;
  T* extremes;    // (S, C)
  int64_t* rows;  // (S, C)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t segment = i / channels, channel = i % channels;
    const Chunk chunk = chunk_of(packed_info, segment, total);
    T best = 0;
    int64_t row = -1;
    for (int64_t k = 0; k < chunk.count && best == best; ++k) {
      const T value = values[(chunk.start + k) * channels + channel];
      if (row < 0 || (largest ? value > best : value < best) || value != value) {
        best = value;
        row = chunk.start + k;
      }
    }
    extremes[i] = best;
    rows[i] = row;
  }
};

inline Tensor segment_total(const Tensor& values, const Tensor& packed_info) {
  const Tensor rows = packed(values), info = packed(packed_info);
  const int64_t total = rows.size(0), channels = rows.size(1), segments = info.size(0);
  check_tiling(info, total, "segment_total");
  return dispatch_floating(rows.scalar_type(), "segment_total", [&](auto zero) {
    using T = decltype(zero);
    Tensor totals = empty_on<T>(rows, {segments, channels});
    launch(rows, segments * channels,
           SegmentTotal<T>{cptr<T>(rows), cptr<int64_t>(info), total, channels, mptr<T>(totals)}, 256);
    return totals;
  });
}

inline Tensor segment_spread(const Tensor& totals, const Tensor& packed_info, int64_t num_rows) {
  const Tensor sums = packed(totals), info = packed(packed_info);
  const int64_t channels = sums.size(1);
  check_tiling(info, num_rows, "segment_spread");
  return dispatch_floating(sums.scalar_type(), "segment_spread", [&](auto zero) {
    using T = decltype(zero);
    Tensor values = empty_on<T>(sums, {num_rows, channels});
    launch(sums, info.size(0),
           SegmentSpread<T>{cptr<T>(sums), cptr<int64_t>(info), num_rows, channels, mptr<T>(values)}, 256);
    return values;
  });
}

inline std::tuple<Tensor, Tensor> segment_extreme(const Tensor& values, const Tensor& packed_info, bool largest) {
  const Tensor rows = packed(values), info = packed(packed_info);
  const int64_t total = rows.size(0), channels = rows.size(1), segments = info.size(0);
  check_tiling(info, total, "segment_extreme");
  return dispatch_floating(rows.scalar_type(), "segment_extreme", [&](auto zero) {
    using T = decltype(zero);
    Tensor extremes = empty_on<T>(rows, {segments, channels}), found = empty_on<int64_t>(rows, {segments, channels});
    launch(rows, segments * channels,
           SegmentExtreme<T>{cptr<T>(rows), cptr<int64_t>(info), total, channels, largest, mptr<T>(extremes),
                             mptr<int64_t>(found)},
           256);
    return std::make_tuple(extremes, found);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
