// Reductions over runs of rows: one segment and tile of columns by one thread, rows in order.
#pragma once

#include <tuple>
#include <type_traits>

#include "kernels/column_tiles.h"
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
    const ColumnTile tile(i, channels);
    const Chunk chunk = chunk_of(packed_info, tile.segment, total);
    T sum[kColumns] = {};
    tile.for_each_row(values, chunk, [&](const T* row, int64_t, auto width) {
      for (int c = 0; c < width; ++c) sum[c] += row[c];
    });
    for (int c = 0; c < tile.width; ++c) totals[tile.segment * channels + tile.first + c] = sum[c];
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
template <class T, bool kLargest>
struct SegmentExtreme {
  const T* values;  // (N, C)
  const int64_t* packed_info;
  int64_t total, channels;
  T* extremes;    // (S, C)
  int64_t* rows;  // (S, C)

  using Number = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;  // as wide as a value: they share vector masks

  ZOO_HD void operator()(int64_t i) const {
    const ColumnTile tile(i, channels);
    const Chunk chunk = chunk_of(packed_info, tile.segment, total);
    T best[kColumns] = {};
    Number found[kColumns] = {};
    tile.for_each_row(values, chunk, [&](const T* row, int64_t number, auto width) {
      const auto at = static_cast<Number>(number - chunk.start);
      for (int c = 0; c < width; ++c) {
        const T value = row[c], former = best[c];
        const bool better = (kLargest ? value > former : value < former) | (value != value) | (at == 0);
        const bool wins = better & ((former == former) | (at == 0));
        best[c] = wins ? value : former;
        found[c] = wins ? at : found[c];
      }
    });
    for (int c = 0; c < tile.width; ++c) {
      extremes[tile.segment * channels + tile.first + c] = best[c];
      rows[tile.segment * channels + tile.first + c] = chunk.count == 0 ? -1 : chunk.start + found[c];
    }
  }
};

inline Tensor segment_total(const Tensor& values, const Tensor& packed_info) {
  const Tensor rows = packed(values), info = packed(packed_info);
  const int64_t total = rows.size(0), channels = rows.size(1), segments = info.size(0);
  check_tiling(info, total, "segment_total");
  return dispatch_floating(rows.scalar_type(), "segment_total", [&](auto zero) {
    using T = decltype(zero);
    Tensor totals = empty_on<T>(rows, {segments, channels});
    launch(rows, segments * column_tiles(channels),
           SegmentTotal<T>{cptr<T>(rows), cptr<int64_t>(info), total, channels, mptr<T>(totals)}, 64);
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
  STD_TORCH_CHECK(total <= INT32_MAX, "segment_extreme: found ", total, " rows, expected at most 2^31 - 1");
  return dispatch_floating(rows.scalar_type(), "segment_extreme", [&](auto zero) {
    using T = decltype(zero);
    Tensor extremes = empty_on<T>(rows, {segments, channels}), found = empty_on<int64_t>(rows, {segments, channels});
    const auto reduce = [&](auto is_largest) {
      launch(rows, segments * column_tiles(channels),
             SegmentExtreme<T, is_largest>{cptr<T>(rows), cptr<int64_t>(info), total, channels, mptr<T>(extremes),
                                           mptr<int64_t>(found)},
             64);
    };
    largest ? reduce(std::true_type{}) : reduce(std::false_type{});
    return std::make_tuple(extremes, found);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
