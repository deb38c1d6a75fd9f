// Sparse convolution over a kernel map on the GPU: features -> features, and the gradient with respect to features.
//
// Implicit GEMM without atomics: a block owns a tile of output rows and output channels. For each kernel offset the
// tile's pairs are one run, whose rows it gathers to shared memory side by side (a missing neighbour costs nothing),
// multiplies in registers and adds to the tile's sums in shared memory. The order of the additions is fixed, so results
// do not change from run to run. The gradient is the same with the sides of the pairs exchanged and the weight
// transposed.
#include "cuda/pair_tiles.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kThreadSide = 4;                    // a thread multiplies 4 rows by 4 columns
constexpr int kDepth = 16;                        // input channels in shared memory at a time
constexpr int kRowStride = kDepth + kThreadSide;  // keeps rows of neighbouring threads in different banks

// Four neighbouring values, moved together.
template <class A>
struct alignas(16) Quad {
  A value[kThreadSide];
};

template <class S>
struct ConvArgs {
  PairView pairs;
  const S* in;      // (num_other, groups * depth)
  const S* weight;  // (K, groups, depth, columns)
  S* out;           // (num_owned, groups * columns)
  int32_t groups, depth, columns, column_tiles;
};

// The steps of one block; each thread of the block calls them.
template <class S, int kRows, int kCols>
struct ConvTile {
  using A = accumulator_t<S>;
  static constexpr int kBlockThreads = kRows * kCols / (kThreadSide * kThreadSide);
  static constexpr int kAcross = kCols / kThreadSide;  // threads along a row
  struct alignas(16) Shared {
    A sums[kRows * kCols];
    A rows[kRows * kRowStride];
    A weights[kDepth * kCols];
    int32_t sources[kRows], targets[kRows];
  };

  static __device__ __forceinline__ void list_pairs(Shared& s, const PairView& pairs, int64_t begin, int count,
                                                    int64_t first_row) {
    for (int m = threadIdx.x; m < count; m += kBlockThreads) {
      const int64_t target = pairs.owned[begin + m] - first_row;
      const bool usable = target >= 0 && target < kRows;
      s.targets[m] = usable ? static_cast<int32_t>(target) : -1;
      s.sources[m] = usable ? pairs.other_row(begin + m) : -1;
    }
  }

  // Input channels [from, from + kDepth) of the listed rows and of the weight, with zeros behind the last channel.
  static __device__ __forceinline__ void load(Shared& s, const ConvArgs<S>& args, int count, int64_t k, int group,
                                              int column, int from) {
    for (int i = threadIdx.x; i < count * kDepth; i += kBlockThreads) {
      const int m = i / kDepth, d = i % kDepth, source = s.sources[m];
      const bool real = source >= 0 && from + d < args.depth;
      const int64_t row = static_cast<int64_t>(source) * args.groups + group;
      s.rows[m * kRowStride + d] = real ? static_cast<A>(args.in[row * args.depth + from + d]) : A(0);
    }
    const S* weight = args.weight + (k * args.groups + group) * args.depth * args.columns;
    for (int i = threadIdx.x; i < kDepth * kCols; i += kBlockThreads) {
      const int d = from + i / kCols, c = column + i % kCols;
      const bool real = d < args.depth && c < args.columns;
      s.weights[i] = real ? static_cast<A>(weight[static_cast<int64_t>(d) * args.columns + c]) : A(0);
    }
  }

  static __device__ __forceinline__ void multiply(const Shared& s, int row, int column, int depth,
                                                  A (&sums)[kThreadSide][kThreadSide]) {
    for (int d = 0; d < depth; d += kThreadSide) {
      Quad<A> rows[kThreadSide];
#pragma unroll
      for (int i = 0; i < kThreadSide; ++i) {
        rows[i] = *reinterpret_cast<const Quad<A>*>(s.rows + (row + i) * kRowStride + d);
      }
#pragma unroll
      for (int q = 0; q < kThreadSide; ++q) {
        const Quad<A> weight = *reinterpret_cast<const Quad<A>*>(s.weights + (d + q) * kCols + column);
#pragma unroll
        for (int i = 0; i < kThreadSide; ++i) {
#pragma unroll
          for (int j = 0; j < kThreadSide; ++j) sums[i][j] += rows[i].value[q] * weight.value[j];
        }
      }
    }
  }

  // Targets of an offset are distinct rows: no two threads meet.
  static __device__ __forceinline__ void add(Shared& s, int row, int column, int count,
                                             const A (&sums)[kThreadSide][kThreadSide]) {
#pragma unroll
    for (int i = 0; i < kThreadSide; ++i) {
      if (row + i >= count || s.targets[row + i] < 0) continue;
      Quad<A>& total = *reinterpret_cast<Quad<A>*>(s.sums + s.targets[row + i] * kCols + column);
#pragma unroll
      for (int j = 0; j < kThreadSide; ++j) total.value[j] += sums[i][j];
    }
  }

  static __device__ __forceinline__ void store(const Shared& s, const ConvArgs<S>& args, int64_t first_row, int group,
                                               int column) {
    for (int i = threadIdx.x; i < kRows * kCols; i += kBlockThreads) {
      const int64_t row = first_row + i / kCols;
      const int c = column + i % kCols;
      if (row >= args.pairs.num_owned || c >= args.columns) continue;
      args.out[(row * args.groups + group) * args.columns + c] = static_cast<S>(s.sums[i]);
    }
  }
};

template <class S, int kRows, int kCols>
__global__ void __launch_bounds__(kRows* kCols / (kThreadSide * kThreadSide)) conv_kernel(ConvArgs<S> args) {
  using Tile = ConvTile<S, kRows, kCols>;
  using A = typename Tile::A;
  __shared__ typename Tile::Shared s;
  // Blocks that gather the same rows are neighbours in the grid.
  const int64_t slices = static_cast<int64_t>(args.groups) * args.column_tiles;
  const int64_t tile = blockIdx.x / slices, first_row = tile * kRows;
  const int slice = static_cast<int>(blockIdx.x % slices);
  const int group = slice / args.column_tiles, column = slice % args.column_tiles * kCols;
  const int row = threadIdx.x / Tile::kAcross * kThreadSide, lane = threadIdx.x % Tile::kAcross * kThreadSide;
  for (int i = threadIdx.x; i < kRows * kCols; i += Tile::kBlockThreads) s.sums[i] = A(0);
  for (int64_t k = 0; k < args.pairs.num_offsets; ++k) {
    const int64_t begin = args.pairs.begin(k, tile), length = args.pairs.begin(k, tile + 1) - begin;
    if (length <= 0) continue;  // the same for the whole block
    const int count = static_cast<int>(length < kRows ? length : kRows);
    __syncthreads();  // the lists of the offset before are done with
    Tile::list_pairs(s, args.pairs, begin, count, first_row);
    A sums[kThreadSide][kThreadSide] = {};
    for (int from = 0; from < args.depth; from += kDepth) {
      __syncthreads();
      Tile::load(s, args, count, k, group, column, from);
      __syncthreads();
      const int depth = args.depth - from < kDepth ? args.depth - from : kDepth;
      if (row < count) Tile::multiply(s, row, lane, depth, sums);
    }
    Tile::add(s, row, lane, count, sums);
  }
  __syncthreads();
  Tile::store(s, args, first_row, group, column);
}

// (C_out, K, C_in / groups) -> (K, groups, depth, columns): depth is what is summed over.
template <class S>
struct TurnWeight {
  const S* weight;
  S* turned;
  int64_t num_offsets, groups, depth, columns;
  bool transposed;  // depth is the output channel

  ZOO_HD void operator()(int64_t i) const {
    const int64_t c = i % columns, d = i / columns % depth, g = i / columns / depth % groups;
    const int64_t k = i / columns / depth / groups;
    const int64_t inputs = transposed ? columns : depth, outputs = transposed ? depth : columns;
    const int64_t in = transposed ? c : d, out = transposed ? d : c;
    turned[i] = weight[((g * outputs + out) * num_offsets + k) * inputs + in];
  }
};

// One channel in, one out: eight rows of one channel by one thread.
template <class S>
struct DepthwiseConv {
  PairView pairs;
  const S* in;      // (num_other, C)
  const S* weight;  // (K, C)
  S* out;           // (num_owned, C)
  int64_t channels;

  ZOO_HD void operator()(int64_t i) const {
    using A = accumulator_t<S>;
    const int64_t tile = i / channels, channel = i % channels;
    A sums[kColumnRows] = {};
    visit_column(pairs, tile, [&](int64_t k, int row, int64_t other) {
      const A value = static_cast<A>(weight[k * channels + channel]) * static_cast<A>(in[other * channels + channel]);
#pragma unroll
      for (int r = 0; r < kColumnRows; ++r) sums[r] += r == row ? value : A(0);
    });
#pragma unroll
    for (int r = 0; r < kColumnRows; ++r) {
      const int64_t row = tile * kColumnRows + r;
      if (row < pairs.num_owned) out[row * channels + channel] = static_cast<S>(sums[r]);
    }
  }
};

// The sides of a convolution: rows that are computed, rows that are read.
struct ConvSides {
  const char* op;
  Tensor owned, other, offsets;
  int64_t num_owned;
};

template <class S, int kRows, int kCols>
void launch_conv(const ConvSides& sides, ConvArgs<S> args, const Tensor& in) {
  const PairTiles tiles(sides.op, sides.owned, sides.other, sides.offsets, sides.num_owned, in.size(0), kRows);
  args.pairs = tiles.view;
  args.column_tiles = (args.columns + kCols - 1) / kCols;
  const int64_t blocks = tiles.view.num_tiles * args.groups * args.column_tiles;
  ZOO_LAUNCH((conv_kernel<S, kRows, kCols>), flat_grid(sides.op, blocks),
             dim3(ConvTile<S, kRows, kCols>::kBlockThreads), 0, current_stream(in), args);
}

// Narrow layers take narrow tiles of more rows. Sums of float64 take twice the shared memory.
template <class S>
void launch_fitting_conv(const ConvSides& sides, const ConvArgs<S>& args, const Tensor& in) {
  if (args.columns <= 16) return launch_conv<S, 128, 16>(sides, args, in);
  if constexpr (sizeof(S) == 8) return launch_conv<S, 64, 32>(sides, args, in);
  if constexpr (sizeof(S) < 8) {
    if (args.columns <= 32) return launch_conv<S, 128, 32>(sides, args, in);
    launch_conv<S, 64, 64>(sides, args, in);
  }
}

template <class S>
void launch_depthwise(const ConvSides& sides, const ConvArgs<S>& args, const Tensor& in) {
  const PairTiles tiles(sides.op, sides.owned, sides.other, sides.offsets, sides.num_owned, in.size(0), kColumnRows);
  launch(in, tiles.view.num_tiles * args.groups,
         DepthwiseConv<S>{tiles.view, args.in, args.weight, args.out, args.groups});
}

Tensor gather_multiply(const ConvSides& sides, const Tensor& values, const Tensor& weight, int64_t groups,
                       bool transposed) {
  const Tensor in = packed(values), w = packed(weight);
  const int64_t num_offsets = sides.offsets.numel() - 1;
  STD_TORCH_CHECK(groups >= 1 && w.dim() == 3 && w.size(1) == num_offsets && w.size(0) % groups == 0 &&
                      in.size(1) == (transposed ? w.size(0) : w.size(2) * groups),
                  sides.op, ": weight does not fit the channels, offsets and groups");
  STD_TORCH_CHECK(w.scalar_type() == in.scalar_type(), sides.op, ": weight has another dtype than the values");
  const int64_t outputs = w.size(0) / groups, inputs = w.size(2);
  const int64_t depth = transposed ? outputs : inputs, columns = transposed ? inputs : outputs;
  Tensor out = torch::stable::new_empty(in, std::vector<int64_t>{sides.num_owned, groups * columns});
  if (out.numel() == 0) return out;
  const OnDevice guard(in);
  return dispatch_stored(in.scalar_type(), sides.op, [&](auto zero) {
    using S = decltype(zero);
    Tensor turned = torch::stable::new_empty(in, std::vector<int64_t>{num_offsets, groups, depth, columns});
    launch(in, turned.numel(),
           TurnWeight<S>{cptr<S>(w), mptr<S>(turned), num_offsets, groups, depth, columns, transposed});
    ConvArgs<S> args{};
    args.in = cptr<S>(in);
    args.weight = cptr<S>(turned);
    args.out = mptr<S>(out);
    args.groups = static_cast<int32_t>(groups);
    args.depth = static_cast<int32_t>(depth);
    args.columns = static_cast<int32_t>(columns);
    if (depth == 1 && columns == 1) {
      launch_depthwise(sides, args, in);
    } else {
      launch_fitting_conv(sides, args, in);
    }
    return out;
  });
}

Tensor sparse_conv(const Tensor& features, const Tensor& weight, const Tensor& pairs_in, const Tensor& pairs_out,
                   const Tensor& offsets, int64_t num_out, int64_t groups) {
  return gather_multiply({"sparse_conv", pairs_out, pairs_in, offsets, num_out}, features, weight, groups, false);
}

Tensor sparse_conv_dgrad(const Tensor& grad_out, const Tensor& weight, const Tensor& pairs_in, const Tensor& pairs_out,
                         const Tensor& offsets, int64_t num_in, int64_t groups) {
  return gather_multiply({"sparse_conv_dgrad", pairs_in, pairs_out, offsets, num_in}, grad_out, weight, groups, true);
}

// On a GPU zeros are not skipped: this is the dense convolution.
Tensor spike_conv(const Tensor& features, const Tensor& weight, const Tensor& pairs_in, const Tensor& pairs_out,
                  const Tensor& offsets, int64_t num_out, double /*break_even*/, double /*row_cost*/) {
  return gather_multiply({"spike_conv", pairs_out, pairs_in, offsets, num_out}, features, weight, 1, false);
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("spike_conv", TORCH_BOX(&zoo::spike_conv));
  m.impl("sparse_conv", TORCH_BOX(&zoo::sparse_conv));
  m.impl("sparse_conv_dgrad", TORCH_BOX(&zoo::sparse_conv_dgrad));
}
