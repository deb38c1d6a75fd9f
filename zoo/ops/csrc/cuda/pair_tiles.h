// What the CUDA kernels over a kernel map share: stored and summed types, and where the pairs of a tile of rows begin.
//
// Both rows of the pairs of an offset ascend, so that the pairs of an offset whose owned row lies in a tile of rows are
// one run. A table of the runs' starts takes the place of a dense table of neighbours and leaves no gaps to multiply.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

// Values of half precision are summed in float32 and rounded once.
template <class S>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class S>
using accumulator_t = typename accumulator<S>::type;

// Calls f(S{}) with S the C++ type of `dtype`.
template <class F>
auto dispatch_stored(ScalarType dtype, const char* op, F&& f) {
  switch (dtype) {
    case ScalarType::BFloat16:
      return f(torch::headeronly::BFloat16{});
    case ScalarType::Half:
      return f(torch::headeronly::Half{});
    default:
      return dispatch_floating(dtype, op, f);
  }
}

// A kernel map as a kernel sees it: the rows that a tile owns, and the rows on the other side of their pairs.
struct PairView {
  const int32_t *owned, *other;  // (num_pairs,)
  const int64_t* offsets;        // (num_offsets + 1,)
  const int64_t* starts;         // (num_offsets, num_tiles + 1) first pair of each run
  int64_t num_pairs, num_owned, num_other, num_tiles, tile_rows;
  int64_t num_offsets;

  ZOO_HD int64_t begin(int64_t k, int64_t tile) const { return starts[k * (num_tiles + 1) + tile]; }
  // The other row of a pair, or -1 where the map does not belong to these tensors.
  ZOO_HD int32_t other_row(int64_t pair) const {
    const int32_t row = other[pair];
    return static_cast<uint32_t>(row) < static_cast<uint64_t>(num_other) ? row : -1;
  }
};

// Searches the first pair of each run by bisection.
struct RunStarts {
  PairView pairs;
  int64_t* starts;

  ZOO_HD void operator()(int64_t i) const {
    const int64_t k = i / (pairs.num_tiles + 1), tile = i % (pairs.num_tiles + 1);
    int64_t low = inside(pairs.offsets[k]), high = inside(pairs.offsets[k + 1]);
    const int64_t row = tile * pairs.tile_rows;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (pairs.owned[middle] < row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    starts[i] = low;
  }
  ZOO_HD int64_t inside(int64_t pair) const { return pair < 0 ? 0 : pair > pairs.num_pairs ? pairs.num_pairs : pair; }
};

// A kernel map with its runs for tiles of `tile_rows` rows. Holds its tensors.
struct PairTiles {
  Tensor owned, other, offsets, starts;
  PairView view;

  PairTiles(const char* op, const Tensor& owned_rows, const Tensor& other_rows, const Tensor& offset_starts,
            int64_t num_owned, int64_t num_other, int64_t tile_rows)
      : owned(packed(owned_rows)), other(packed(other_rows)), offsets(packed(offset_starts)) {
    STD_TORCH_CHECK(owned.numel() == other.numel(), op, ": pairs_in and pairs_out differ in length: ", other.numel(),
                    " and ", owned.numel());
    STD_TORCH_CHECK(offsets.numel() >= 1, op, ": offsets is empty; expected K + 1 values");
    view = {cptr<int32_t>(owned),
            cptr<int32_t>(other),
            cptr<int64_t>(offsets),
            nullptr,
            owned.numel(),
            num_owned,
            num_other,
            (num_owned + tile_rows - 1) / tile_rows,
            tile_rows,
            offsets.numel() - 1};
    starts = empty_on<int64_t>(offsets, {view.num_offsets, view.num_tiles + 1});
    launch(offsets, starts.numel(), RunStarts{view, mptr<int64_t>(starts)});
    view.starts = cptr<int64_t>(starts);
  }
};

// Rows of a tile whose sums one thread holds in registers, for one channel.
constexpr int kColumnRows = 8;

// Calls visit(k, row in the tile, other row) for the pairs of a tile, in kernel order.
template <class Visit>
ZOO_HD void visit_column(const PairView& pairs, int64_t tile, const Visit& visit) {
  const int64_t first = tile * kColumnRows;
  for (int64_t k = 0; k < pairs.num_offsets; ++k) {
    const int64_t end = pairs.begin(k, tile + 1);
    for (int64_t pair = pairs.begin(k, tile); pair < end; ++pair) {
      const int32_t other = pairs.other_row(pair);
      if (other >= 0) visit(k, static_cast<int>(pairs.owned[pair] - first), other);
    }
  }
}

// Number of blocks as a grid.
inline dim3 flat_grid(const char* op, int64_t blocks) {
  STD_TORCH_CHECK(blocks < int64_t{1} << 31, op, ": ", blocks, " blocks are more than a grid holds");
  return dim3(static_cast<unsigned>(blocks));
}

}  // namespace ZOO_TARGET
}  // namespace zoo
