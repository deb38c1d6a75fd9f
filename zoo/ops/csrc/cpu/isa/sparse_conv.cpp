// Register-blocked kernels of the sparse convolution, compiled once per instruction set (macro ZOO_ISA).
//
// Forward (and dgrad, which is a forward with transposed weights): a unit is a tile of output rows whose sums stay in
// a thread's scratch. For each kernel offset the pairs of the tile are taken R at a time; R x V vector registers hold
// R output rows x V vectors of channels while the loop over input channels broadcasts scalars straight from the
// gathered rows. The rows of later pairs are prefetched meanwhile, so that the row order matters little.
//
// wgrad: a unit is a part of the gradient of one offset. Pairs are copied in chunks into contiguous buffers and their
// outer products are summed in registers over the chunk. Chunks do not depend on the number of threads.

#include "cpu/isa/sparse_conv.h"

#include "cpu/isa/blocks.h"
#include "cpu/isa/simd.h"

namespace {

using zoo::conv::ForwardArgs;
using zoo::conv::PackArgs;
using zoo::conv::WgradArgs;

constexpr int kMaxVectors = kRegisters == 32 ? 4 : 2;  // vectors of channels in one register block
constexpr int kPackLine = 16;                          // reduced channels that are packed at once
constexpr int kChunk = 64;                             // pairs summed in registers by wgrad

// Rows of a register block that is V vectors wide; what is left of the registers holds weights and broadcasts.
constexpr int block_rows(int vectors) {
  if (kRegisters == 32) return vectors == 4 ? 6 : vectors == 3 ? 8 : vectors == 2 ? 12 : 14;
  return vectors == 2 ? 6 : 10;
}

template <typename T>
int vectors_of(int channels) {
  return ceil_div(channels, Simd<T>::kLanes);
}

template <typename T>
int padded(int channels) {
  return vectors_of<T>(channels) * Simd<T>::kLanes;
}

// ---- weights ----

template <typename T>
int64_t packed_elements(const PackArgs& a) {
  const int reduced = a.transposed ? a.rows : a.cols, kept = a.transposed ? a.cols : a.rows;
  return static_cast<int64_t>(a.num_offsets) * a.groups * reduced * padded<T>(kept);
}

template <typename T>
void pack_weight(const PackArgs& a, int64_t begin, int64_t end) {
  constexpr int kLanes = Simd<T>::kLanes;
  const int reduced = a.transposed ? a.rows : a.cols, kept = a.transposed ? a.cols : a.rows;
  const int64_t row_stride = static_cast<int64_t>(a.num_offsets) * a.cols;
  const int64_t kept_stride = a.transposed ? 1 : row_stride, reduced_stride = a.transposed ? row_stride : 1;
  const Split blocks(vectors_of<T>(kept), kMaxVectors);
  for (int64_t k = begin; k < end; ++k) {
    for (int g = 0; g < a.groups; ++g) {
      const T* w = static_cast<const T*>(a.weight) + g * a.rows * row_stride + k * a.cols;
      T* packed = static_cast<T*>(a.packed) + (k * a.groups + g) * reduced * static_cast<int64_t>(padded<T>(kept));
      for (int b = 0; b < blocks.blocks; ++b) {
        const int first = blocks.start(b) * kLanes, width = blocks.size(b) * kLanes;
        T* block = packed + static_cast<int64_t>(first) * reduced;
        // A line of every source row at a time, so that the lines written to stay in the nearest cache.
        for (int from = 0; from < reduced; from += kPackLine) {
          const int to = static_cast<int>(smaller(from + kPackLine, reduced));
          for (int c = 0; c < width; ++c) {
            const bool real = first + c < kept;
            const T* source = w + (first + c) * kept_stride;
            for (int i = from; i < to; ++i)
              block[static_cast<int64_t>(i) * width + c] = real ? source[i * reduced_stride] : T(0);
          }
        }
      }
    }
  }
}

// ---- forward ----

// The pairs of one offset inside one tile as pointers to their rows, and one block of output channels.
template <typename T>
struct PairRun {
  const T* const* in;  // `count` rows of this run, then kAhead rows of later ones
  T* const* sums;
  int64_t count;
  const T* weight;
  int64_t first, last;  // input channels
  int64_t column;       // first output channel in the rows of sums
  bool first_sums;      // the rows of sums hold nothing yet
};

constexpr int kAhead = 64;  // rows beyond the end of a run that may be prefetched

// R rows x V vectors of sums, over the input channels of a run.
template <typename T, int R, int V>
inline __attribute__((always_inline)) void multiply(const PairRun<T>& run, int64_t p, int64_t distance) {
  using S = Simd<T>;
  constexpr int64_t kLine = 64 / sizeof(T);
  const T* const* in = run.in + p;
  T* const* sums = run.sums + p;
  const T* weight = run.weight;
  const int64_t column = run.column;
  typename S::V acc[R][V];
  const T* rows[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    rows[r] = in[r];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = S::set(T(0));
  }
  for (int64_t c = run.first; c < run.last;) {
    const int64_t end = smaller(c + kLine, run.last);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) __builtin_prefetch(in[distance + r] + c);
    for (; c < end; ++c, weight += V * S::kLanes) {
      typename S::V w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = S::load(weight + v * S::kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const typename S::V x = S::set(rows[r][c]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = S::fma(x, w[v], acc[r][v]);
      }
    }
  }
  // The sums so far come in at the end: the next block need not wait for this one's.
  if (!run.first_sums) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = S::add(acc[r][v], S::load(sums[r] + column + v * S::kLanes));
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) S::store(sums[r] + column + v * S::kLanes, acc[r][v]);
}

template <typename T, int R, int V>
void multiply_run(const PairRun<T>& run, int64_t p) {
  const int64_t width = run.last - run.first, distance = R * (width >= 64 ? 1 : width >= 32 ? 2 : 3);
  for (; p + R <= run.count; p += R) multiply<T, R, V>(run, p, distance);
  if constexpr (R > 1) {
    if (p < run.count) multiply_run<T, (R + 1) / 2, V>(run, p);
  }
}

template <typename T>
void multiply_block(const PairRun<T>& run, int vectors) {
  if constexpr (kMaxVectors == 4) {
    if (vectors == 4) return multiply_run<T, block_rows(4), 4>(run, 0);
    if (vectors == 3) return multiply_run<T, block_rows(3), 3>(run, 0);
  }
  if (vectors == 2) return multiply_run<T, block_rows(2), 2>(run, 0);
  multiply_run<T, block_rows(1), 1>(run, 0);
}

// What a thread keeps: sums of a tile (where output rows are no whole vectors), pointers of a run, one cursor per
// offset.
template <typename T>
struct ForwardScratch {
  int64_t sums, in, out, cursors, bytes;  // places, in bytes
  explicit ForwardScratch(const ForwardArgs& a) {
    const bool direct = padded<T>(a.cout) == a.cout;
    sums = 0;
    in = direct ? 0 : a.tile_rows * a.groups * padded<T>(a.cout) * static_cast<int64_t>(sizeof(T));
    out = in + (a.tile_rows + kAhead) * static_cast<int64_t>(sizeof(T*));
    cursors = out + a.tile_rows * static_cast<int64_t>(sizeof(T*));
    bytes = cursors + a.num_offsets * static_cast<int64_t>(sizeof(int64_t));
  }
};

template <typename T>
int64_t forward_scratch(const ForwardArgs& a) {
  return ForwardScratch<T>(a).bytes;
}

template <typename T>
void point_at_rows(const int32_t* rows, int64_t count, T* base, int64_t stride, T** pointers) {
  for (int64_t p = 0; p < count; ++p) pointers[p] = base + static_cast<int64_t>(rows[p]) * stride;
}

// The first offset with a pair for every row of the tile, or -1.
inline int full_offset(const ForwardArgs& a, const int64_t* cursor, int64_t first_row, int64_t last_row) {
  const int64_t rows = last_row - first_row;
  for (int k = 0; k < a.num_offsets; ++k) {
    if (a.offsets[k + 1] - cursor[k] < rows) continue;
    if (a.pairs_out[cursor[k]] == first_row && a.pairs_out[cursor[k] + rows - 1] == last_row - 1) return k;
  }
  return -1;
}

// `sums` is the place of output row 0, of which only the tile's rows exist.
template <typename T>
void forward_tile(const ForwardArgs& a, int64_t first_row, int64_t last_row, T* sums, char* scratch) {
  constexpr int kLanes = Simd<T>::kLanes;
  const ForwardScratch<T> places(a);
  const T** in = reinterpret_cast<const T**>(scratch + places.in);
  T** out = reinterpret_cast<T**>(scratch + places.out);
  int64_t* cursor = reinterpret_cast<int64_t*>(scratch + places.cursors);
  const int width = padded<T>(a.cout);
  const int64_t in_stride = static_cast<int64_t>(a.groups) * a.cin, sum_stride = static_cast<int64_t>(a.groups) * width;
  const Split blocks(vectors_of<T>(a.cout), kMaxVectors);
  // An offset that reaches every row of the tile (the centre of a submanifold map) comes first and starts the sums.
  const int full = full_offset(a, cursor, first_row, last_row);
  if (full < 0) __builtin_memset(sums + first_row * sum_stride, 0, sizeof(T) * (last_row - first_row) * sum_stride);
  for (int turn = full < 0 ? 0 : -1; turn < a.num_offsets; ++turn) {
    if (turn == full && full >= 0) continue;
    const int k = turn < 0 ? full : turn;
    const int64_t begin = cursor[k], available = a.offsets[k + 1] - begin;
    const int64_t count = lower_bound(a.pairs_out + begin, smaller(available, last_row - first_row), last_row);
    cursor[k] = begin + count;
    if (count == 0) continue;
    const T* features = static_cast<const T*>(a.in);
    point_at_rows(a.pairs_in + begin, count, features, in_stride, in);
    point_at_rows(a.pairs_out + begin, count, sums, sum_stride, out);
    const int64_t next = k + 1 < a.num_offsets ? smaller(kAhead, a.offsets[k + 2] - cursor[k + 1]) : 0;
    if (next > 0) point_at_rows(a.pairs_in + cursor[k + 1], next, features, in_stride, in + count);
    for (int64_t p = count + next; p < count + kAhead; ++p) in[p] = in[count - 1];
    for (int g = 0; g < a.groups; ++g) {
      const T* weight = static_cast<const T*>(a.weight) +
                        (static_cast<int64_t>(k) * a.groups + g) * a.cin * static_cast<int64_t>(width);
      const int64_t first = static_cast<int64_t>(g) * a.cin;
      for (int b = 0; b < blocks.blocks; ++b) {
        const int64_t column = static_cast<int64_t>(blocks.start(b)) * kLanes;
        const int64_t group_column = static_cast<int64_t>(g) * width + column;
        multiply_block(
            PairRun<T>{in, out, count, weight + column * a.cin, first, first + a.cin, group_column, turn < 0},
            blocks.size(b));
      }
    }
  }
}

template <typename T>
void forward(const ForwardArgs& a, int64_t begin, int64_t end, void* memory) {
  const int width = padded<T>(a.cout);
  const int64_t row_size = static_cast<int64_t>(a.groups) * width;
  char* scratch = static_cast<char*>(memory);
  int64_t* cursor = reinterpret_cast<int64_t*>(scratch + ForwardScratch<T>(a).cursors);
  for (int k = 0; k < a.num_offsets; ++k) {
    cursor[k] =
        a.offsets[k] + lower_bound(a.pairs_out + a.offsets[k], a.offsets[k + 1] - a.offsets[k], begin * a.tile_rows);
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * a.tile_rows, last = smaller(first + a.tile_rows, a.num_out);
    T* out = static_cast<T*>(a.out);
    if (width == a.cout) {
      forward_tile<T>(a, first, last, out, scratch);
      continue;
    }
    const T* sums = reinterpret_cast<const T*>(scratch);
    forward_tile<T>(a, first, last, reinterpret_cast<T*>(scratch) - first * row_size, scratch);
    out += first * a.groups * a.cout;
    for (int64_t i = 0; i < (last - first) * a.groups; ++i, sums += width, out += a.cout) {
      for (int c = 0; c < a.cout; ++c) out[c] = sums[c];
    }
  }
}

// sums += rows[p] * factors (or other rows) channel by channel
template <typename T>
inline void multiply_channels(const T* x, const T* y, int64_t channels, T* sums) {
  using S = Simd<T>;
  int64_t c = 0;
  for (; c + S::kLanes <= channels; c += S::kLanes) {
    S::store(sums + c, S::fma(S::load(x + c), S::load(y + c), S::load(sums + c)));
  }
  for (; c < channels; ++c) sums[c] = __builtin_fma(x[c], y[c], sums[c]);
}

template <typename T>
void depthwise(const ForwardArgs& a, int64_t begin, int64_t end) {
  const int64_t first = begin * a.tile_rows, last = smaller(end * a.tile_rows, a.num_out), channels = a.groups;
  T* out = static_cast<T*>(a.out);
  __builtin_memset(out + first * channels, 0, sizeof(T) * (last - first) * channels);
  for (int k = 0; k < a.num_offsets; ++k) {
    int64_t p = a.offsets[k] + lower_bound(a.pairs_out + a.offsets[k], a.offsets[k + 1] - a.offsets[k], first);
    for (; p < a.offsets[k + 1] && a.pairs_out[p] < last; ++p) {
      multiply_channels(static_cast<const T*>(a.in) + a.pairs_in[p] * channels,
                        static_cast<const T*>(a.weight) + k * channels, channels, out + a.pairs_out[p] * channels);
    }
  }
}

// ---- wgrad ----

// sums[r, :] += sum over the chunk of rows[p][row + r] * vectors[p][column:]
template <typename T, int R, int V>
void outer(const T* const* rows, int64_t row, const T* const* vectors, int64_t column, int count, T* sums,
           int64_t sum_stride) {
  using S = Simd<T>;
  typename S::V acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = S::set(T(0));
  for (int p = 0; p < count; ++p) {
    const T* broadcast = rows[p] + row;
    const T* vector = vectors[p] + column;
    typename S::V w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) w[v] = S::load(vector + v * S::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename S::V x = S::set(broadcast[r]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = S::fma(x, w[v], acc[r][v]);
    }
  }
  sums += row * sum_stride + column;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      T* s = sums + r * sum_stride + v * S::kLanes;
      S::store(s, S::add(acc[r][v], S::load(s)));
    }
}

template <typename T>
using Outer = void (*)(const T* const*, int64_t, const T* const*, int64_t, int, T*, int64_t);

template <typename T, int V, int R>
Outer<T> find_outer(int rows) {
  if constexpr (R == 1) {
    return outer<T, 1, V>;
  } else {
    return rows == R ? outer<T, R, V> : find_outer<T, V, R - 1>(rows);
  }
}

template <typename T>
Outer<T> find_outer(int rows, int vectors) {
  if constexpr (kMaxVectors == 4) {
    if (vectors == 4) return find_outer<T, 4, block_rows(4)>(rows);
    if (vectors == 3) return find_outer<T, 3, block_rows(3)>(rows);
  }
  return vectors == 2 ? find_outer<T, 2, block_rows(2)>(rows) : find_outer<T, 1, block_rows(1)>(rows);
}

// Which operand is broadcast (rows) and which fills vectors: the one that wastes fewer lanes.
template <typename T>
bool vectors_are_outputs(const WgradArgs& a) {
  const int64_t by_out = static_cast<int64_t>(padded<T>(a.cout)) * a.cin;
  const int64_t by_in = static_cast<int64_t>(padded<T>(a.cin)) * a.cout;
  return by_out < by_in || (by_out == by_in && a.cout > a.cin);
}

// What a thread keeps: sums of a gradient, pointers to the rows of a chunk, and rows filled up to whole vectors.
template <typename T>
struct WgradScratch {
  int64_t sums, rows, vectors, padded_rows, bytes;  // places, in bytes
  explicit WgradScratch(const WgradArgs& a) {
    const bool flip = vectors_are_outputs<T>(a);
    const int64_t broadcast = flip ? a.cin : a.cout, columns = flip ? a.cout : a.cin, width = padded<T>(columns);
    sums = 0;
    rows = broadcast * width * static_cast<int64_t>(sizeof(T));
    vectors = rows + kChunk * static_cast<int64_t>(sizeof(T*));
    padded_rows = vectors + kChunk * static_cast<int64_t>(sizeof(T*));
    bytes = padded_rows + (width == columns ? 0 : kChunk * width * static_cast<int64_t>(sizeof(T)));
  }
};

template <typename T>
int64_t wgrad_scratch(const WgradArgs& a) {
  return WgradScratch<T>(a).bytes;
}

// One operand of the pairs: rows of a tensor, from a channel of the group on.
template <typename T>
struct Operand {
  const T* data;
  int64_t stride;
  const int32_t* rows;
  int channels;

  // Asks for the rows of pairs [begin, end) to be brought into the second-level cache.
  void prefetch(int64_t begin, int64_t end) const {
    constexpr int kLine = 64 / sizeof(T);
    for (int64_t p = begin; p < end; ++p)
      for (int c = 0; c < channels; c += kLine) __builtin_prefetch(data + rows[p] * stride + c, 0, 2);
  }
};

// Copies the rows behind the pointers to `target`, filled up to `width`, and points there.
template <typename T>
void fill_up(const T** pointers, int count, int channels, int width, T* target) {
  for (int p = 0; p < count; ++p, target += width) {
    for (int c = 0; c < channels; ++c) target[c] = pointers[p][c];
    for (int c = channels; c < width; ++c) target[c] = T(0);
    pointers[p] = target;
  }
}

// Rows [first_row, first_row + num_rows) of the gradient of one offset, as sums (num_rows, width).
template <typename T>
void sum_outer_products(const Operand<T>& broadcast, const Operand<T>& columns, int num_rows, int64_t begin,
                        int64_t end, char* scratch, const WgradScratch<T>& places) {
  constexpr int kLanes = Simd<T>::kLanes;
  const int width = padded<T>(columns.channels);
  const Split vector_blocks(vectors_of<T>(columns.channels), kMaxVectors);
  const Split row_blocks(num_rows, block_rows(vector_blocks.base + (vector_blocks.extra > 0 ? 1 : 0)));
  const int steps = vector_blocks.blocks * row_blocks.blocks;
  T* sums = reinterpret_cast<T*>(scratch + places.sums);
  const T** rows = reinterpret_cast<const T**>(scratch + places.rows);
  const T** vectors = reinterpret_cast<const T**>(scratch + places.vectors);
  __builtin_memset(sums, 0, sizeof(T) * num_rows * static_cast<int64_t>(width));
  for (int64_t p = begin; p < end; p += kChunk) {
    const int count = static_cast<int>(smaller(kChunk, end - p));
    const int64_t later = smaller(kChunk, end - p - count);  // pairs of the next chunk
    point_at_rows(broadcast.rows + p, count, broadcast.data, broadcast.stride, rows);
    point_at_rows(columns.rows + p, count, columns.data, columns.stride, vectors);
    if (width != columns.channels) {
      fill_up(vectors, count, columns.channels, width, reinterpret_cast<T*>(scratch + places.padded_rows));
    }
    for (int step = 0; step < steps; ++step) {
      const int rb = step % row_blocks.blocks, vb = step / row_blocks.blocks;
      const int64_t next = p + count + later * step / steps, next_end = p + count + later * (step + 1) / steps;
      broadcast.prefetch(next, next_end);
      columns.prefetch(next, next_end);
      find_outer<T>(row_blocks.size(rb), vector_blocks.size(vb))(rows, row_blocks.start(rb), vectors,
                                                                 vector_blocks.start(vb) * kLanes, count, sums, width);
    }
  }
}

template <typename T>
void wgrad(const WgradArgs& a, int64_t unit, void* memory) {
  const int64_t part = unit % a.splits, g = unit / a.splits % a.groups, k = unit / a.splits / a.groups;
  const bool flip = vectors_are_outputs<T>(a);
  const int64_t in_stride = static_cast<int64_t>(a.groups) * a.cin,
                out_stride = static_cast<int64_t>(a.groups) * a.cout;
  const Operand<T> in{static_cast<const T*>(a.in) + g * a.cin, in_stride, a.pairs_in, a.cin};
  const Operand<T> out{static_cast<const T*>(a.grad_out) + g * a.cout, out_stride, a.pairs_out, a.cout};
  Operand<T> broadcast = flip ? in : out;
  const Operand<T>& columns = flip ? out : in;
  const int64_t first_row = broadcast.channels * part / a.splits;
  const int num_rows = static_cast<int>(broadcast.channels * (part + 1) / a.splits - first_row);
  broadcast.data += first_row;
  broadcast.channels = num_rows;
  sum_outer_products<T>(broadcast, columns, num_rows, a.offsets[k], a.offsets[k + 1], static_cast<char*>(memory),
                        WgradScratch<T>(a));
  const T* sums = static_cast<const T*>(memory);
  const int64_t width = padded<T>(columns.channels), channel_stride = static_cast<int64_t>(a.num_offsets) * a.cin;
  T* grad = static_cast<T*>(a.grad) + (g * a.cout * a.num_offsets + k) * a.cin;
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t c = 0; c < columns.channels; ++c) {
      grad[flip ? c * channel_stride + first_row + r : (first_row + r) * channel_stride + c] = sums[r * width + c];
    }
  }
}

template <typename T>
void depthwise_wgrad(const WgradArgs& a, int64_t k, void* memory) {
  const int64_t channels = a.groups;
  T* scratch = static_cast<T*>(memory);
  T* grad = static_cast<T*>(a.grad) + k * channels;
  __builtin_memset(grad, 0, sizeof(T) * channels);
  for (int64_t begin = a.offsets[k]; begin < a.offsets[k + 1]; begin += kChunk) {
    __builtin_memset(scratch, 0, sizeof(T) * channels);
    for (int64_t p = begin; p < smaller(begin + kChunk, a.offsets[k + 1]); ++p) {
      multiply_channels(static_cast<const T*>(a.in) + a.pairs_in[p] * channels,
                        static_cast<const T*>(a.grad_out) + a.pairs_out[p] * channels, channels, scratch);
    }
    for (int64_t c = 0; c < channels; ++c) grad[c] += scratch[c];
  }
}

template <typename T>
constexpr zoo::conv::Kernels<T> kernels_of() {
  return {packed_elements<T>, pack_weight<T>,   forward_scratch<T>, forward<T>,
          depthwise<T>,       wgrad_scratch<T>, wgrad<T>,           depthwise_wgrad<T>};
}

constexpr zoo::conv::KernelTable kTable = {kernels_of<float>(), kernels_of<double>()};

}  // namespace

namespace zoo::ZOO_ISA {
const conv::KernelTable& sparse_conv_kernels() {
  return kTable;
}
}  // namespace zoo::ZOO_ISA
