// Gradient of the sparse convolution with respect to its weight on the GPU.
//
// A block owns a tile of one offset's and one group's matrix and walks a fixed stretch of the offset's pairs; a second
// kernel adds the stretches in order. How pairs are cut depends on the sizes alone, never on the GPU, and there are no
// atomics: results do not change from run to run.
#include <algorithm>

#include "cuda/pair_tiles.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kWgradThreads = 256;
constexpr int kWgradSide = 16;           // threads along each side of a tile
constexpr int kStepPairs = 16;           // pairs in shared memory at a time
constexpr int kLeastStretch = 512;       // pairs worth a block of their own
constexpr int64_t kWantedBlocks = 2048;  // enough for every GPU of today
constexpr int kWarpChannels = 32;

template <class S>
struct WgradArgs {
  const int32_t *pairs_in, *pairs_out;
  const int64_t* offsets;
  const S* in;                // (num_in, groups * inputs)
  const S* grad_out;          // (num_out, groups * outputs)
  accumulator_t<S>* partial;  // (splits, groups * outputs, K, inputs)
  int64_t num_pairs, num_in, num_out, num_offsets, stretch;
  int32_t groups, inputs, outputs, splits;

  // The pairs [begin, end) of stretch `split` of offset k.
  ZOO_HD void pairs_of(int64_t k, int64_t split, int64_t& begin, int64_t& end) const {
    begin = (offsets[k] < 0 ? 0 : offsets[k]) + split * stretch;
    end = offsets[k + 1] < num_pairs ? offsets[k + 1] : num_pairs;
    end = begin + stretch < end ? begin + stretch : end;
  }
  ZOO_HD bool usable(int64_t pair) const {
    return static_cast<uint32_t>(pairs_in[pair]) < static_cast<uint64_t>(num_in) &&
           static_cast<uint32_t>(pairs_out[pair]) < static_cast<uint64_t>(num_out);
  }
  ZOO_HD int64_t elements() const { return static_cast<int64_t>(groups) * outputs * num_offsets * inputs; }
};

template <class S, int kTile>
__global__ void __launch_bounds__(kWgradThreads) wgrad_kernel(WgradArgs<S> args) {
  using A = accumulator_t<S>;
  constexpr int kSide = kTile / kWgradSide;  // rows and columns of one thread
  __shared__ A grads[kStepPairs * kTile];
  __shared__ A values[kStepPairs * kTile];
  const int input_tiles = (args.inputs + kTile - 1) / kTile, output_tiles = (args.outputs + kTile - 1) / kTile;
  int64_t rest = blockIdx.x;
  const int first_in = static_cast<int>(rest % input_tiles) * kTile;
  rest /= input_tiles;
  const int first_out = static_cast<int>(rest % output_tiles) * kTile;
  rest /= output_tiles;
  const int64_t group = rest % args.groups;
  rest /= args.groups;
  const int64_t split = rest % args.splits, k = rest / args.splits;
  int64_t begin, end;
  args.pairs_of(k, split, begin, end);
  if (begin >= end) return;  // the whole block; the sum of the stretches leaves this one out
  const int row = threadIdx.x / kWgradSide * kSide, column = threadIdx.x % kWgradSide * kSide;
  A sums[kSide][kSide] = {};
  for (int64_t from = begin; from < end; from += kStepPairs) {
    __syncthreads();
    for (int i = threadIdx.x; i < kStepPairs * kTile; i += kWgradThreads) {
      const int64_t pair = from + i / kTile;
      const int o = first_out + i % kTile, c = first_in + i % kTile;
      const bool real = pair < end && args.usable(pair);
      const int64_t source = real ? args.pairs_in[pair] : 0, target = real ? args.pairs_out[pair] : 0;
      grads[i] = real && o < args.outputs
                     ? static_cast<A>(args.grad_out[(target * args.groups + group) * args.outputs + o])
                     : A(0);
      values[i] =
          real && c < args.inputs ? static_cast<A>(args.in[(source * args.groups + group) * args.inputs + c]) : A(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int p = 0; p < kStepPairs; ++p) {
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
#pragma unroll
        for (int j = 0; j < kSide; ++j) sums[i][j] += grads[p * kTile + row + i] * values[p * kTile + column + j];
      }
    }
  }
  A* partial = args.partial + split * args.elements();
  for (int i = 0; i < kSide; ++i) {
    const int o = first_out + row + i;
    for (int j = 0; j < kSide; ++j) {
      const int c = first_in + column + j;
      if (o >= args.outputs || c >= args.inputs) continue;
      partial[((group * args.outputs + o) * args.num_offsets + k) * args.inputs + c] = sums[i][j];
    }
  }
}

// One channel in, one out: a warp takes 32 channels, the warps of a block share the pairs of a stretch.
template <class S>
__global__ void __launch_bounds__(kWgradThreads) depthwise_wgrad_kernel(WgradArgs<S> args) {
  using A = accumulator_t<S>;
  constexpr int kWarps = kWgradThreads / kWarpChannels;
  __shared__ A sums[kWgradThreads];
  const int tiles = (args.groups + kWarpChannels - 1) / kWarpChannels;
  const int warp = threadIdx.x / kWarpChannels, lane = threadIdx.x % kWarpChannels;
  const int64_t channel = static_cast<int64_t>(blockIdx.x % tiles) * kWarpChannels + lane;
  const int64_t split = blockIdx.x / tiles % args.splits, k = blockIdx.x / tiles / args.splits;
  int64_t begin, end;
  args.pairs_of(k, split, begin, end);
  if (begin >= end) return;
  A sum = 0;
  for (int64_t pair = begin + warp; pair < end && channel < args.groups; pair += kWarps) {
    if (!args.usable(pair)) continue;
    sum += static_cast<A>(args.grad_out[args.pairs_out[pair] * static_cast<int64_t>(args.groups) + channel]) *
           static_cast<A>(args.in[args.pairs_in[pair] * static_cast<int64_t>(args.groups) + channel]);
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || channel >= args.groups) return;
  for (int w = 1; w < kWarps; ++w) sum += sums[w * kWarpChannels + lane];
  args.partial[split * args.elements() + channel * args.num_offsets + k] = sum;
}

// Adds the stretches of an element's offset that have pairs.
template <class S>
struct SumStretches {
  WgradArgs<S> args;
  S* grad;  // (groups * outputs, K, inputs)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t k = i / args.inputs % args.num_offsets;
    accumulator_t<S> sum = 0;
    for (int64_t split = 0; split < args.splits; ++split) {
      int64_t begin, end;
      args.pairs_of(k, split, begin, end);
      if (begin < end) sum += args.partial[split * args.elements() + i];
    }
    grad[i] = static_cast<S>(sum);
  }
};

template <class S, int kTile>
int64_t wgrad_tiles(const WgradArgs<S>& args) {
  return static_cast<int64_t>((args.inputs + kTile - 1) / kTile) * ((args.outputs + kTile - 1) / kTile) * args.groups;
}

template <class S>
Tensor wgrad(WgradArgs<S> args, const Tensor& like) {
  const char* op = "sparse_conv_wgrad";
  const bool depthwise = args.inputs == 1 && args.outputs == 1, narrow = std::min(args.inputs, args.outputs) <= 32;
  const int64_t tiles = depthwise ? (args.groups + kWarpChannels - 1) / kWarpChannels
                        : narrow  ? wgrad_tiles<S, 32>(args)
                                  : wgrad_tiles<S, 64>(args);
  const int64_t longest = std::max<int64_t>(1, std::min(args.num_in, args.num_out));  // pairs of an offset
  args.splits = static_cast<int32_t>(std::clamp<int64_t>(kWantedBlocks / (tiles * args.num_offsets), 1,
                                                         (longest + kLeastStretch - 1) / kLeastStretch));
  args.stretch = (longest + args.splits - 1) / args.splits;
  Tensor partial = empty_on<accumulator_t<S>>(like, {args.splits, args.elements()});
  args.partial = mptr<accumulator_t<S>>(partial);
  const dim3 grid = flat_grid(op, tiles * args.splits * args.num_offsets), block(kWgradThreads);
  if (depthwise) {
    ZOO_LAUNCH((depthwise_wgrad_kernel<S>), grid, block, 0, current_stream(like), args);
  } else if (narrow) {
    ZOO_LAUNCH((wgrad_kernel<S, 32>), grid, block, 0, current_stream(like), args);
  } else {
    ZOO_LAUNCH((wgrad_kernel<S, 64>), grid, block, 0, current_stream(like), args);
  }
  Tensor grad = torch::stable::new_empty(
      like, std::vector<int64_t>{int64_t{args.groups} * args.outputs, args.num_offsets, args.inputs});
  launch(like, grad.numel(), SumStretches<S>{args, mptr<S>(grad)});
  return grad;
}

Tensor sparse_conv_wgrad(const Tensor& features, const Tensor& grad_out, const Tensor& pairs_in,
                         const Tensor& pairs_out, const Tensor& offsets, int64_t groups) {
  const Tensor x = packed(features), g = packed(grad_out);
  const Tensor in = packed(pairs_in), out = packed(pairs_out), starts = packed(offsets);
  STD_TORCH_CHECK(x.scalar_type() == g.scalar_type(), "sparse_conv_wgrad: features and grad_out differ in dtype");
  STD_TORCH_CHECK(groups >= 1 && x.size(1) % groups == 0 && g.size(1) % groups == 0 && in.numel() == out.numel() &&
                      starts.numel() >= 1,
                  "sparse_conv_wgrad: channels do not divide into groups, or pairs_in, pairs_out and offsets do not ",
                  "belong together");
  const int64_t num_offsets = starts.numel() - 1, inputs = x.size(1) / groups, outputs = g.size(1) / groups;
  if (num_offsets * inputs * outputs == 0) {
    return torch::stable::new_zeros(x, std::vector<int64_t>{groups * outputs, num_offsets, inputs});
  }
  const OnDevice guard(x);
  return dispatch_stored(x.scalar_type(), "sparse_conv_wgrad", [&](auto zero) {
    using S = decltype(zero);
    WgradArgs<S> args{};
    args.pairs_in = cptr<int32_t>(in);
    args.pairs_out = cptr<int32_t>(out);
    args.offsets = cptr<int64_t>(starts);
    args.in = cptr<S>(x);
    args.grad_out = cptr<S>(g);
    args.num_pairs = in.numel();
    args.num_in = x.size(0);
    args.num_out = g.size(0);
    args.num_offsets = num_offsets;
    args.groups = static_cast<int32_t>(groups);
    args.inputs = static_cast<int32_t>(inputs);
    args.outputs = static_cast<int32_t>(outputs);
    return wgrad(args, x);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("sparse_conv_wgrad", TORCH_BOX(&zoo::sparse_conv_wgrad));
}
