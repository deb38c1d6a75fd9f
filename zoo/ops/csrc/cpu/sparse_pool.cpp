// Maximum and mean over the windows of a kernel map on the CPU, and their gradients.
//
// Forward passes own ranges of output rows. Both rows of the pairs of an offset ascend, so that the gradient of the
// mean, which owns ranges of input rows, reads the same map with the columns swapped. The gradient of the maximum
// scatters and owns ranges of channels.
#include <algorithm>
#include <atomic>
#include <tuple>

#include "cpu/half_precision.h"
#include "cpu/work_queue.h"
#include "runtime/op.h"

namespace zoo {
namespace {

constexpr int64_t kTileRows = 512;
constexpr int64_t kTileChannels = 16;

struct PoolPairs {
  Tensor in_tensor, out_tensor, offsets_tensor;
  const int32_t *in, *out;
  const int64_t* offsets;
  int64_t num_offsets;

  PoolPairs(const char* op, const Tensor& pairs_in, const Tensor& pairs_out, const Tensor& offsets_, int64_t num_in,
            int64_t num_out)
      : in_tensor(packed(pairs_in)),
        out_tensor(packed(pairs_out)),
        offsets_tensor(packed(offsets_)),
        in(cptr<int32_t>(in_tensor)),
        out(cptr<int32_t>(out_tensor)),
        offsets(cptr<int64_t>(offsets_tensor)),
        num_offsets(offsets_tensor.numel() - 1) {
    STD_TORCH_CHECK(in_tensor.numel() == out_tensor.numel() && num_offsets >= 0 && offsets[0] == 0 &&
                        offsets[num_offsets] == in_tensor.numel(),
                    op, ": pairs_in, pairs_out and offsets do not belong together");
    std::atomic<bool> wrong{false};
    torch::stable::parallel_for(0, num_offsets, 4, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        for (int64_t p = offsets[k]; p < offsets[k + 1]; ++p) {
          const bool first = p == offsets[k];
          if (in[p] < 0 || in[p] >= num_in || out[p] < 0 || out[p] >= num_out ||
              (!first && (in[p] <= in[p - 1] || out[p] <= out[p - 1]))) {
            wrong = true;
          }
        }
      }
    });
    STD_TORCH_CHECK(!wrong, op, ": rows of a kernel offset's pairs are not strictly ascending or out of range; build ",
                    "the map with build_kernel_map");
  }

  // Calls visit(owned row, other row) for the pairs whose row of `owned` lies in [first, last), in kernel order.
  template <class Visit>
  void visit(const int32_t* owned, const int32_t* other, int64_t first, int64_t last, const Visit& visit_pair) const {
    for (int64_t k = 0; k < num_offsets; ++k) {
      const int32_t* end = owned + offsets[k + 1];
      for (const int32_t* row = std::lower_bound(owned + offsets[k], end, first); row < end && *row < last; ++row) {
        visit_pair(*row, other[row - owned]);
      }
    }
  }
};

template <class F>
void for_each_tile(int64_t rows, const F& f) {
  for_each_unit((rows + kTileRows - 1) / kTileRows,
                [&] { return [&](int64_t tile) { f(tile * kTileRows, std::min((tile + 1) * kTileRows, rows)); }; });
}

template <class T>
void max_pool_tile(const PoolPairs& pairs, const T* features, int64_t channels, int64_t first, int64_t last, T* out,
                   int32_t* argmax) {
  std::fill(out + first * channels, out + last * channels, T(0));
  std::fill(argmax + first * channels, argmax + last * channels, -1);
  pairs.visit(pairs.out, pairs.in, first, last, [&](int32_t row, int32_t source) {
    const T* value = features + source * channels;
    T* best = out + row * channels;
    int32_t* best_row = argmax + row * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const bool wins = (best_row[c] < 0) | (value[c] > best[c]) | ((value[c] != value[c]) & (best[c] == best[c]));
      best[c] = wins ? value[c] : best[c];
      best_row[c] = wins ? source : best_row[c];
    }
  });
}

std::tuple<Tensor, Tensor> sparse_max_pool(const Tensor& features, const Tensor& pairs_in, const Tensor& pairs_out,
                                           const Tensor& offsets, int64_t num_out) {
  const Tensor x = widened(features);
  const int64_t channels = x.size(1);
  const PoolPairs pairs("sparse_max_pool", pairs_in, pairs_out, offsets, x.size(0), num_out);
  Tensor argmax = empty_on<int32_t>(x, {num_out, channels});
  return dispatch_floating(x.scalar_type(), "sparse_max_pool", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(x, {num_out, channels});
    for_each_tile(num_out, [&](int64_t first, int64_t last) {
      max_pool_tile(pairs, cptr<T>(x), channels, first, last, mptr<T>(out), mptr<int32_t>(argmax));
    });
    return std::tuple<Tensor, Tensor>{narrowed(out, features), argmax};
  });
}

Tensor sparse_max_pool_backward(const Tensor& grad_out, const Tensor& argmax, int64_t num_in) {
  const Tensor g = widened(grad_out), rows_tensor = packed(argmax);
  const int64_t channels = g.size(1), num_out = g.size(0);
  const int32_t* rows = cptr<int32_t>(rows_tensor);
  return dispatch_floating(g.scalar_type(), "sparse_max_pool_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor grad_tensor = zeros_on<T>(g, {num_in, channels});
    T* grad = mptr<T>(grad_tensor);
    std::atomic<bool> wrong{false};
    for_each_unit((channels + kTileChannels - 1) / kTileChannels, [&] {
      return [&](int64_t tile) {
        const int64_t first = tile * kTileChannels, last = std::min(first + kTileChannels, channels);
        for (int64_t o = 0; o < num_out; ++o) {
          for (int64_t c = first; c < last; ++c) {
            const int32_t row = rows[o * channels + c];
            if (row >= num_in) wrong = true;
            if (row >= 0 && row < num_in) grad[row * channels + c] += cptr<T>(g)[o * channels + c];
          }
        }
      };
    });
    STD_TORCH_CHECK(!wrong, "sparse_max_pool_backward: argmax holds a row that is not below num_in = ", num_in);
    return narrowed(grad_tensor, grad_out);
  });
}

// Number of pairs of each output row, as the divisor of its mean.
std::vector<int32_t> input_counts(const PoolPairs& pairs, int64_t num_out) {
  std::vector<int32_t> counts(num_out, 0);
  for_each_tile(num_out, [&](int64_t first, int64_t last) {
    pairs.visit(pairs.out, pairs.in, first, last, [&](int32_t row, int32_t) { ++counts[row]; });
  });
  return counts;
}

Tensor sparse_avg_pool(const Tensor& features, const Tensor& pairs_in, const Tensor& pairs_out, const Tensor& offsets,
                       int64_t num_out) {
  const Tensor x = widened(features);
  const int64_t channels = x.size(1);
  const PoolPairs pairs("sparse_avg_pool", pairs_in, pairs_out, offsets, x.size(0), num_out);
  const std::vector<int32_t> counts = input_counts(pairs, num_out);
  return dispatch_floating(x.scalar_type(), "sparse_avg_pool", [&](auto zero) {
    using T = decltype(zero);
    Tensor out_tensor = empty_on<T>(x, {num_out, channels});
    const T* values = cptr<T>(x);
    T* out = mptr<T>(out_tensor);
    for_each_tile(num_out, [&](int64_t first, int64_t last) {
      std::fill(out + first * channels, out + last * channels, T(0));
      pairs.visit(pairs.out, pairs.in, first, last, [&](int32_t row, int32_t source) {
        for (int64_t c = 0; c < channels; ++c) out[row * channels + c] += values[source * channels + c];
      });
      for (int64_t row = first; row < last; ++row) {
        const T divisor = static_cast<T>(std::max(counts[row], 1));
        for (int64_t c = 0; c < channels; ++c) out[row * channels + c] /= divisor;
      }
    });
    return narrowed(out_tensor, features);
  });
}

Tensor sparse_avg_pool_backward(const Tensor& grad_out, const Tensor& pairs_in, const Tensor& pairs_out,
                                const Tensor& offsets, int64_t num_in) {
  const Tensor g = widened(grad_out);
  const int64_t channels = g.size(1), num_out = g.size(0);
  const PoolPairs pairs("sparse_avg_pool_backward", pairs_in, pairs_out, offsets, num_in, num_out);
  const std::vector<int32_t> counts = input_counts(pairs, num_out);
  return dispatch_floating(g.scalar_type(), "sparse_avg_pool_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor grad_tensor = empty_on<T>(g, {num_in, channels});
    const T* values = cptr<T>(g);
    T* grad = mptr<T>(grad_tensor);
    for_each_tile(num_in, [&](int64_t first, int64_t last) {
      std::fill(grad + first * channels, grad + last * channels, T(0));
      pairs.visit(pairs.in, pairs.out, first, last, [&](int32_t row, int32_t source) {
        const T divisor = static_cast<T>(counts[source]);
        for (int64_t c = 0; c < channels; ++c) grad[row * channels + c] += values[source * channels + c] / divisor;
      });
    });
    return narrowed(grad_tensor, grad_out);
  });
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("sparse_max_pool", TORCH_BOX(&zoo::sparse_max_pool));
  m.impl("sparse_max_pool_backward", TORCH_BOX(&zoo::sparse_max_pool_backward));
  m.impl("sparse_avg_pool", TORCH_BOX(&zoo::sparse_avg_pool));
  m.impl("sparse_avg_pool_backward", TORCH_BOX(&zoo::sparse_avg_pool_backward));
}
