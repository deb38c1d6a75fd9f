// Sparse convolution over a kernel map on the CPU: features -> features, and both gradients.
//
// dgrad is the forward pass with pairs swapped and the weight transposed: both rows of a pair ascend inside the group
// of an offset, so that no map needs reordering. Half-precision values are widened, and results are rounded once.
#include "cpu/isa/sparse_conv.h"

#include <algorithm>
#include <numeric>

#include "cpu/half_precision.h"
#include "cpu/work_queue.h"
#include "runtime/isa.h"
#include "runtime/op.h"

ZOO_DECLARE_ISA(const conv::KernelTable&, sparse_conv_kernels, ())
ZOO_DECLARE_ISA(bool, strictly_ascending, (const int32_t*, int64_t))

namespace zoo {
namespace {

using conv::ForwardArgs;
using conv::PackArgs;
using conv::WgradArgs;

constexpr int64_t kTileElements = 1 << 16;  // sums of one tile: with the gathered rows they fill half of an L2 cache

template <class T>
const conv::Kernels<T>& kernels();
template <>
const conv::Kernels<float>& kernels<float>() {
  return ZOO_CALL_ISA(sparse_conv_kernels)().float32;
}
template <>
const conv::Kernels<double>& kernels<double>() {
  return ZOO_CALL_ISA(sparse_conv_kernels)().float64;
}

// The pairs of a kernel map, checked: the kernels rely on both rows ascending inside the group of each offset.
struct Pairs {
  Tensor in, out, starts;
  const int64_t* offsets;
  int64_t num_offsets;

  Pairs(const char* op, const Tensor& pairs_in, const Tensor& pairs_out, const Tensor& offsets_tensor, int64_t num_in,
        int64_t num_out)
      : in(packed(pairs_in)),
        out(packed(pairs_out)),
        starts(packed(offsets_tensor)),
        offsets(cptr<int64_t>(starts)),
        num_offsets(starts.numel() - 1) {
    STD_TORCH_CHECK(in.numel() == out.numel(), op, ": pairs_in has ", in.numel(), " values, pairs_out ", out.numel());
    STD_TORCH_CHECK(num_offsets >= 0 && offsets[0] == 0 && offsets[num_offsets] == in.numel(), op,
                    ": offsets do not run from 0 to the number of pairs, ", in.numel());
    for (int64_t k = 0; k < num_offsets; ++k) {
      STD_TORCH_CHECK(offsets[k] <= offsets[k + 1], op, ": offsets descend at ", k);
    }
    check_ascending(op, "pairs_in", cptr<int32_t>(in), num_in);
    check_ascending(op, "pairs_out", cptr<int32_t>(out), num_out);
  }

  void check_ascending(const char* op, const char* name, const int32_t* rows, int64_t limit) const {
    std::atomic<int64_t> bad{-1};
    torch::stable::parallel_for(0, num_offsets, 4, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t first = offsets[k], last = offsets[k + 1];
        if (first == last) continue;
        const bool inside = rows[first] >= 0 && rows[last - 1] < limit;
        if (!inside || !ZOO_CALL_ISA(strictly_ascending)(rows + first, last - first)) bad = k;
      }
    });
    STD_TORCH_CHECK(bad < 0, op, ": ", name, " of kernel offset ", bad.load(),
                    " are not strictly ascending rows from 0 to ", limit - 1, "; build the map with build_kernel_map");
  }
};

int64_t num_threads() {
  return torch::stable::get_num_threads();
}

// Groups of units, several for each thread, so that a thread's start-up is paid seldom and the load still levels out.
template <class Run>
void for_each_range(int64_t units, const Run& make_run) {
  const int64_t step = std::max<int64_t>(1, units / (num_threads() * 16));
  for_each_unit((units + step - 1) / step, [&] {
    return [run = make_run(), step, units](int64_t i) { run(i * step, std::min(units, (i + 1) * step)); };
  });
}

// One channel in, one out: weights (C, K, 1) -> (K, C), the same for the gradient with respect to the input.
template <class T>
void depthwise(ForwardArgs& args, const T* weight) {
  Scratch<T> turned(static_cast<int64_t>(args.num_offsets) * args.groups);
  for (int64_t c = 0; c < args.groups; ++c) {
    for (int64_t k = 0; k < args.num_offsets; ++k) turned.get()[k * args.groups + c] = weight[c * args.num_offsets + k];
  }
  args.weight = turned.get();
  const int64_t tiles = (args.num_out + args.tile_rows - 1) / args.tile_rows;
  for_each_range(tiles, [&] { return [&](int64_t begin, int64_t end) { kernels<T>().depthwise(args, begin, end); }; });
}

// out[o] = sum over pairs (i, o) of offset k of W_k in[i], or with W_k transposed.
template <class T>
void gather_multiply(ForwardArgs args, const T* weight, bool transposed) {
  const int64_t most = std::clamp<int64_t>(kTileElements / std::max(1, args.groups * args.cout), 64, 2048);
  args.tile_rows = std::clamp<int64_t>(args.num_out / (4 * num_threads()), 32, most);
  if (args.cin == 1 && args.cout == 1) return depthwise(args, weight);
  const conv::Kernels<T>& kernel = kernels<T>();
  PackArgs pack{weight, nullptr, args.num_offsets, args.groups, args.cout, args.cin, transposed};
  if (transposed) std::swap(pack.rows, pack.cols);
  Scratch<T> weights(kernel.packed_elements(pack));
  pack.packed = weights.get();
  torch::stable::parallel_for(0, args.num_offsets, 1,
                              [&](int64_t begin, int64_t end) { kernel.pack_weight(pack, begin, end); });
  args.weight = weights.get();
  const int64_t tiles = (args.num_out + args.tile_rows - 1) / args.tile_rows;
  for_each_range(tiles, [&] {
    return [&, scratch = Scratch<char>(kernel.forward_scratch(args))](int64_t begin, int64_t end) {
      kernel.forward(args, begin, end, scratch.get());
    };
  });
}

Tensor sparse_conv(const Tensor& features, const Tensor& weight, const Tensor& pairs_in, const Tensor& pairs_out,
                   const Tensor& offsets, int64_t num_out, int64_t groups) {
  const Tensor x = widened(features), w = widened(weight);
  const int64_t out_channels = w.size(0), group_channels = w.size(2);
  const Pairs pairs("sparse_conv", pairs_in, pairs_out, offsets, x.size(0), num_out);
  STD_TORCH_CHECK(w.size(1) == pairs.num_offsets && x.size(1) == groups * group_channels && out_channels % groups == 0,
                  "sparse_conv: weight does not fit features, offsets and groups");
  return dispatch_floating(x.scalar_type(), "sparse_conv", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(x, {num_out, out_channels});
    ForwardArgs args{};
    args.in = cptr<T>(x);
    args.out = mptr<T>(out);
    args.pairs_in = cptr<int32_t>(pairs.in);
    args.pairs_out = cptr<int32_t>(pairs.out);
    args.offsets = pairs.offsets;
    args.num_out = num_out;
    args.num_offsets = static_cast<int32_t>(pairs.num_offsets);
    args.groups = static_cast<int32_t>(groups);
    args.cin = static_cast<int32_t>(group_channels);
    args.cout = static_cast<int32_t>(out_channels / groups);
    gather_multiply<T>(args, cptr<T>(w), false);
    return narrowed(out, features);
  });
}

Tensor sparse_conv_dgrad(const Tensor& grad_out, const Tensor& weight, const Tensor& pairs_in, const Tensor& pairs_out,
                         const Tensor& offsets, int64_t num_in, int64_t groups) {
  const Tensor g = widened(grad_out), w = widened(weight);
  const int64_t out_channels = w.size(0), group_channels = w.size(2);
  const Pairs pairs("sparse_conv_dgrad", pairs_in, pairs_out, offsets, num_in, g.size(0));
  STD_TORCH_CHECK(w.size(1) == pairs.num_offsets && g.size(1) == out_channels && out_channels % groups == 0,
                  "sparse_conv_dgrad: weight does not fit grad_out, offsets and groups");
  return dispatch_floating(g.scalar_type(), "sparse_conv_dgrad", [&](auto zero) {
    using T = decltype(zero);
    Tensor grad = empty_on<T>(g, {num_in, group_channels * groups});
    ForwardArgs args{};
    args.in = cptr<T>(g);
    args.out = mptr<T>(grad);
    args.pairs_in = cptr<int32_t>(pairs.out);
    args.pairs_out = cptr<int32_t>(pairs.in);
    args.offsets = pairs.offsets;
    args.num_out = num_in;
    args.num_offsets = static_cast<int32_t>(pairs.num_offsets);
    args.groups = static_cast<int32_t>(groups);
    args.cin = static_cast<int32_t>(out_channels / groups);
    args.cout = static_cast<int32_t>(group_channels);
    gather_multiply<T>(args, cptr<T>(w), true);
    return narrowed(grad, grad_out);
  });
}

// Offsets by falling number of pairs: the long ones first, so that threads end together.
std::vector<int64_t> longest_first(const int64_t* offsets, int64_t count) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return offsets[a + 1] - offsets[a] > offsets[b + 1] - offsets[b]; });
  return order;
}

template <class T>
void depthwise_wgrad(WgradArgs args, T* grad) {
  Scratch<T> turned(static_cast<int64_t>(args.num_offsets) * args.groups);  // (K, C)
  args.grad = turned.get();
  const std::vector<int64_t> order = longest_first(args.offsets, args.num_offsets);
  for_each_unit(args.num_offsets, [&] {
    return [&, scratch = Scratch<T>(args.groups)](int64_t i) {
      kernels<T>().depthwise_wgrad(args, order[i], scratch.get());
    };
  });
  for (int64_t c = 0; c < args.groups; ++c) {
    for (int64_t k = 0; k < args.num_offsets; ++k) grad[c * args.num_offsets + k] = turned.get()[k * args.groups + c];
  }
}

Tensor sparse_conv_wgrad(const Tensor& features, const Tensor& grad_out, const Tensor& pairs_in,
                         const Tensor& pairs_out, const Tensor& offsets, int64_t groups) {
  const Tensor x = widened(features), g = widened(grad_out);
  const int64_t in_channels = x.size(1) / groups, out_channels = g.size(1) / groups;
  const Pairs pairs("sparse_conv_wgrad", pairs_in, pairs_out, offsets, x.size(0), g.size(0));
  return dispatch_floating(x.scalar_type(), "sparse_conv_wgrad", [&](auto zero) {
    using T = decltype(zero);
    Tensor grad = empty_on<T>(x, {g.size(1), pairs.num_offsets, in_channels});
    WgradArgs args{};
    args.in = cptr<T>(x);
    args.grad_out = cptr<T>(g);
    args.grad = mptr<T>(grad);
    args.pairs_in = cptr<int32_t>(pairs.in);
    args.pairs_out = cptr<int32_t>(pairs.out);
    args.offsets = pairs.offsets;
    args.num_offsets = static_cast<int32_t>(pairs.num_offsets);
    args.groups = static_cast<int32_t>(groups);
    args.cin = static_cast<int32_t>(in_channels);
    args.cout = static_cast<int32_t>(out_channels);
    if (in_channels == 1 && out_channels == 1) {
      depthwise_wgrad<T>(args, mptr<T>(grad));
      return narrowed(grad, features);
    }
    const int64_t units = pairs.num_offsets * groups;
    const int64_t wanted = units > 0 && num_threads() > 1 ? (6 * num_threads() + units - 1) / units : 1;
    args.splits = static_cast<int32_t>(
        std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, std::min(in_channels, out_channels) / 16)));
    const std::vector<int64_t> order = longest_first(args.offsets, args.num_offsets);
    const int64_t per_offset = groups * args.splits;
    const conv::Kernels<T>& kernel = kernels<T>();
    for_each_unit(units * args.splits, [&] {
      return [&, scratch = Scratch<char>(kernel.wgrad_scratch(args))](int64_t i) {
        kernel.wgrad(args, order[i / per_offset] * per_offset + i % per_offset, scratch.get());
      };
    });
    return narrowed(grad, features);
  });
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("sparse_conv", TORCH_BOX(&zoo::sparse_conv));
  m.impl("sparse_conv_dgrad", TORCH_BOX(&zoo::sparse_conv_dgrad));
  m.impl("sparse_conv_wgrad", TORCH_BOX(&zoo::sparse_conv_wgrad));
}
