// Maximum and mean over the windows of a kernel map on the GPU, and their gradients.
//
// A thread owns eight rows of one channel and visits their pairs in kernel order, without atomics; the gradient of the
// mean owns input rows. The gradient of the maximum knows only where each maximum came from and adds atomically: where
// more than two windows share a maximum, the last bits of its sum may change from run to run.
#include <tuple>

#include "cuda/pair_tiles.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class S>
struct MaxOfPairs {
  PairView pairs;
  const S* features;  // (num_in, C)
  int64_t channels;
  S* out;           // (num_out, C)
  int32_t* argmax;  // (num_out, C)

  ZOO_HD void operator()(int64_t i) const {
    using A = accumulator_t<S>;
    const int64_t tile = i / channels, channel = i % channels;
    A best[kColumnRows] = {};
    int32_t best_row[kColumnRows];
#pragma unroll
    for (int r = 0; r < kColumnRows; ++r) best_row[r] = -1;
    visit_column(pairs, tile, [&](int64_t, int row, int32_t source) {
      const A value = static_cast<A>(features[source * channels + channel]);
#pragma unroll
      for (int r = 0; r < kColumnRows; ++r) {
        const bool wins = best_row[r] < 0 || value > best[r] || (value != value && best[r] == best[r]);
        best[r] = r == row && wins ? value : best[r];
        best_row[r] = r == row && wins ? source : best_row[r];
      }
    });
#pragma unroll
    for (int r = 0; r < kColumnRows; ++r) {
      const int64_t row = tile * kColumnRows + r;
      if (row >= pairs.num_owned) continue;
      out[row * channels + channel] = static_cast<S>(best[r]);
      argmax[row * channels + channel] = best_row[r];
    }
  }
};

template <class S>
struct AddToArgmax {
  const S* grad_out;      // (num_out, C)
  const int32_t* argmax;  // (num_out, C)
  int64_t channels, num_in;
  accumulator_t<S>* grad;  // (num_in, C)

  __device__ __forceinline__ void operator()(int64_t i) const {
    const int64_t row = argmax[i];
    if (row < 0 || row >= num_in) return;
    add_shared(grad + row * channels + i % channels, static_cast<accumulator_t<S>>(grad_out[i]));
  }
};

// The number of pairs of each owned row.
struct CountPairs {
  PairView pairs;
  int32_t* counts;

  ZOO_HD void operator()(int64_t tile) const {
    int32_t found[kColumnRows] = {};
    visit_column(pairs, tile, [&](int64_t, int row, int32_t) {
#pragma unroll
      for (int r = 0; r < kColumnRows; ++r) found[r] += r == row ? 1 : 0;
    });
#pragma unroll
    for (int r = 0; r < kColumnRows; ++r) {
      const int64_t row = tile * kColumnRows + r;
      if (row < pairs.num_owned) counts[row] = found[r];
    }
  }
};

// Sums over the pairs of each owned row. Means divide the sum by the row's count; their gradients divide each value by
// the count of the window that it comes from.
template <class S>
struct SumOfPairs {
  PairView pairs;
  const S* values;        // (num_other, C)
  const int32_t* counts;  // of the windows
  bool divide_values;
  int64_t channels;
  S* out;  // (num_owned, C)

  ZOO_HD void operator()(int64_t i) const {
    using A = accumulator_t<S>;
    const int64_t tile = i / channels, channel = i % channels;
    A sums[kColumnRows] = {};
    visit_column(pairs, tile, [&](int64_t, int row, int32_t other) {
      A value = static_cast<A>(values[other * channels + channel]);
      if (divide_values) value /= static_cast<A>(counts[other]);
#pragma unroll
      for (int r = 0; r < kColumnRows; ++r) sums[r] += r == row ? value : A(0);
    });
#pragma unroll
    for (int r = 0; r < kColumnRows; ++r) {
      const int64_t row = tile * kColumnRows + r;
      if (row >= pairs.num_owned) continue;
      const A divisor = divide_values || counts[row] == 0 ? A(1) : static_cast<A>(counts[row]);
      out[row * channels + channel] = static_cast<S>(sums[r] / divisor);
    }
  }
};

std::tuple<Tensor, Tensor> sparse_max_pool(const Tensor& features, const Tensor& pairs_in, const Tensor& pairs_out,
                                           const Tensor& offsets, int64_t num_out) {
  const Tensor x = packed(features);
  const int64_t channels = x.size(1);
  Tensor out = torch::stable::new_empty(x, std::vector<int64_t>{num_out, channels});
  Tensor argmax = empty_on<int32_t>(x, {num_out, channels});
  const PairTiles tiles("sparse_max_pool", pairs_out, pairs_in, offsets, num_out, x.size(0), kColumnRows);
  return dispatch_stored(x.scalar_type(), "sparse_max_pool", [&](auto zero) {
    using S = decltype(zero);
    launch(x, tiles.view.num_tiles * channels,
           MaxOfPairs<S>{tiles.view, cptr<S>(x), channels, mptr<S>(out), mptr<int32_t>(argmax)});
    return std::tuple<Tensor, Tensor>{out, argmax};
  });
}

Tensor sparse_max_pool_backward(const Tensor& grad_out, const Tensor& argmax, int64_t num_in) {
  const Tensor g = packed(grad_out), rows = packed(argmax);
  const int64_t channels = g.size(1);
  STD_TORCH_CHECK(rows.numel() == g.numel(), "sparse_max_pool_backward: argmax has ", rows.numel(),
                  " values, grad_out ", g.numel());
  return dispatch_stored(g.scalar_type(), "sparse_max_pool_backward", [&](auto zero) {
    using S = decltype(zero);
    Tensor grad = zeros_on<accumulator_t<S>>(g, {num_in, channels});
    launch(g, g.numel(),
           AddToArgmax<S>{cptr<S>(g), cptr<int32_t>(rows), channels, num_in, mptr<accumulator_t<S>>(grad)});
    return torch::stable::to(grad, g.scalar_type());
  });
}

Tensor input_counts(const PairTiles& windows) {
  Tensor counts = empty_on<int32_t>(windows.offsets, {windows.view.num_owned});
  launch(counts, windows.view.num_tiles, CountPairs{windows.view, mptr<int32_t>(counts)});
  return counts;
}

Tensor sum_of_pairs(const char* op, const PairTiles& tiles, const Tensor& values, const Tensor& counts,
                    bool divide_values) {
  const int64_t channels = values.size(1);
  Tensor out = torch::stable::new_empty(values, std::vector<int64_t>{tiles.view.num_owned, channels});
  return dispatch_stored(values.scalar_type(), op, [&](auto zero) {
    using S = decltype(zero);
    launch(values, tiles.view.num_tiles * channels,
           SumOfPairs<S>{tiles.view, cptr<S>(values), cptr<int32_t>(counts), divide_values, channels, mptr<S>(out)});
    return out;
  });
}

Tensor sparse_avg_pool(const Tensor& features, const Tensor& pairs_in, const Tensor& pairs_out, const Tensor& offsets,
                       int64_t num_out) {
  const Tensor x = packed(features);
  const PairTiles tiles("sparse_avg_pool", pairs_out, pairs_in, offsets, num_out, x.size(0), kColumnRows);
  return sum_of_pairs("sparse_avg_pool", tiles, x, input_counts(tiles), false);
}

Tensor sparse_avg_pool_backward(const Tensor& grad_out, const Tensor& pairs_in, const Tensor& pairs_out,
                                const Tensor& offsets, int64_t num_in) {
  const char* op = "sparse_avg_pool_backward";
  const Tensor g = packed(grad_out);
  const PairTiles windows(op, pairs_out, pairs_in, offsets, g.size(0), num_in, kColumnRows);
  const PairTiles inputs(op, pairs_in, pairs_out, offsets, num_in, g.size(0), kColumnRows);
  return sum_of_pairs(op, inputs, g, input_counts(windows), true);
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("sparse_max_pool", TORCH_BOX(&zoo::sparse_max_pool));
  m.impl("sparse_max_pool_backward", TORCH_BOX(&zoo::sparse_max_pool_backward));
  m.impl("sparse_avg_pool", TORCH_BOX(&zoo::sparse_avg_pool));
  m.impl("sparse_avg_pool_backward", TORCH_BOX(&zoo::sparse_avg_pool_backward));
}
