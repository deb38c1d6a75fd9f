// Sparse convolution over a kernel map on the CPU: features -> features, and both gradients.
//
// dgrad is the forward pass with pairs swapped and the weight transposed: both rows of a pair ascend inside the group
// of an offset, so that no map needs reordering. Half-precision values are widened, and results are rounded once.
#include "cpu/sparse_conv.h"

#include <algorithm>
#include <numeric>

#include "cpu/half_precision.h"
#include "cpu/isa/sparse_conv.h"
#include "runtime/isa.h"

ZOO_DECLARE_ISA(const conv::KernelTable&, sparse_conv_kernels, ())

namespace zoo {
namespace {

using conv::ForwardArgs;
using conv::PackArgs;
using conv::WgradArgs;

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
  args.tile_rows = rows_of_tile(args.num_out, static_cast<int64_t>(args.groups) * args.cout);
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

}  // namespace

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

namespace {

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
