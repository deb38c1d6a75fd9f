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

#include "cpu/isa/simd.h"

namespace {

using zoo::conv::ForwardArgs;
using zoo::conv::PackArgs;
using zoo::conv::WgradArgs;

constexpr int kMaxVectors = kRegisters == 32 ? 4 : 2;  // vectors of channels in one register block
constexpr int kChunk = 64;                             // pairs summed in registers by wgrad

// Rows of a register block that is V vectors wide; what is left of the registers holds weights and broadcasts.
constexpr int block_rows(int vectors) {
  if (kRegisters == 32) return vectors == 4 ? 6 : vectors == 3 ? 8 : vectors == 2 ? 12 : 14;
  return vectors == 2 ? 6 : 10;
}

inline int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}
inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// `count` things split into `blocks` nearly equal blocks.
struct Split {
  int blocks, base, extra;
  Split(int count, int largest) : blocks(ceil_div(count, largest)), base(0), extra(0) {
    if (blocks > 0) base = count / blocks, extra = count % blocks;
  }
  int size(int b) const { return base + (b < extra ? 1 : 0); }
  int start(int b) const { return b * base + (b < extra ? b : extra); }
};

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
        for (int c = 0; c < width; ++c) {
          const bool real = first + c < kept;
          const T* source = w + (first + c) * kept_stride;
          for (int i = 0; i < reduced; ++i)
            block[static_cast<int64_t>(i) * width + c] = real ? source[i * reduced_stride] : T(0);
        }
      }
    }
  }
}

// ---- forward ----

// R rows x V vectors of sums, over `cin` input channels.
template <typename T, int R, int V>
inline __attribute__((always_inline)) void multiply(const T* const* rows, T* const* sums, const T* weight, int cin,
                                                    const T* const* next) {
  using S = Simd<T>;
  constexpr int kLine = 64 / sizeof(T);
  typename S::V acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = S::load(sums[r] + v * S::kLanes);
  for (int first = 0; first < cin; first += kLine) {
    const int last = first + kLine < cin ? first + kLine : cin;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) __builtin_prefetch(next[r] + first);
    for (int c = first; c < last; ++c, weight += V * S::kLanes) {
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
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) S::store(sums[r] + v * S::kLanes, acc[r][v]);
}

// The pairs of one offset inside one tile, and one block of output channels.
template <typename T>
struct PairRun {
  const int32_t* in_rows;
  const int32_t* out_rows;
  int64_t count;
  int64_t ahead;  // pairs that may be read beyond count, to prefetch
  const T* in;
  int64_t in_stride;
  T* sums;  // sums of row 0 of the whole output (of which the tile exists)
  int64_t sum_stride;
  const T* weight;
  int cin;
};

template <typename T, int R, int V>
void multiply_run(const PairRun<T>& run, int64_t p) {
  const int64_t distance = R * (run.cin >= 64 ? 1 : run.cin >= 32 ? 2 : 3);
  const T* rows[R];
  const T* next[R];
  T* sums[R];
  for (; p + R <= run.count; p += R) {
    const int64_t later = smaller(p + distance, run.count + run.ahead - R);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      rows[r] = run.in + run.in_rows[p + r] * run.in_stride;
      sums[r] = run.sums + run.out_rows[p + r] * run.sum_stride;
      next[r] = run.in + run.in_rows[later + r] * run.in_stride;
    }
    multiply<T, R, V>(rows, sums, run.weight, run.cin, next);
  }
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

// First position of the ascending rows[0, n) whose value is not below `row`.
inline int64_t lower_bound(const int32_t* rows, int64_t n, int64_t row) {
  int64_t low = 0;
  while (n > 0) {
    const int64_t half = n / 2;
    if (rows[low + half] < row) {
      low += half + 1;
      n -= half + 1;
    } else {
      n = half;
    }
  }
  return low;
}

template <typename T>
int64_t forward_scratch(const ForwardArgs& a) {
  // sums of a tile, then one cursor per offset
  const int64_t sums = a.tile_rows * a.groups * padded<T>(a.cout);
  return sums + (a.num_offsets * static_cast<int64_t>(sizeof(int64_t)) + sizeof(T) - 1) / sizeof(T) + 64;
}

template <typename T>
void forward_tile(const ForwardArgs& a, int64_t first_row, int64_t last_row, T* tile, int64_t* cursor) {
  constexpr int kLanes = Simd<T>::kLanes;
  const int width = padded<T>(a.cout);
  const int64_t sum_stride = static_cast<int64_t>(a.groups) * width;
  const Split blocks(vectors_of<T>(a.cout), kMaxVectors);
  __builtin_memset(tile, 0, sizeof(T) * (last_row - first_row) * sum_stride);
  PairRun<T> run;
  run.in_stride = static_cast<int64_t>(a.groups) * a.cin;
  run.sum_stride = sum_stride;
  run.cin = a.cin;
  for (int k = 0; k < a.num_offsets; ++k) {
    const int64_t begin = cursor[k], available = a.offsets[k + 1] - begin;
    run.in_rows = a.pairs_in + begin;
    run.out_rows = a.pairs_out + begin;
    run.count = lower_bound(run.out_rows, smaller(available, last_row - first_row), last_row);
    run.ahead = available - run.count;
    cursor[k] = begin + run.count;
    if (run.count == 0) continue;
    const int64_t slice = static_cast<int64_t>(k) * a.groups;
    for (int g = 0; g < a.groups; ++g) {
      run.in = static_cast<const T*>(a.in) + static_cast<int64_t>(g) * a.cin;
      const T* weight = static_cast<const T*>(a.weight) + (slice + g) * a.cin * static_cast<int64_t>(width);
      for (int b = 0; b < blocks.blocks; ++b) {
        const int64_t column = static_cast<int64_t>(blocks.start(b)) * kLanes;
        run.sums = tile + g * static_cast<int64_t>(width) + column - first_row * sum_stride;
        run.weight = weight + column * a.cin;
        multiply_block(run, blocks.size(b));
      }
    }
  }
}

template <typename T>
void forward(const ForwardArgs& a, int64_t begin, int64_t end, T* scratch) {
  const int width = padded<T>(a.cout);
  T* tile = scratch;
  int64_t* cursor = reinterpret_cast<int64_t*>(scratch + a.tile_rows * a.groups * static_cast<int64_t>(width));
  for (int k = 0; k < a.num_offsets; ++k) {
    cursor[k] =
        a.offsets[k] + lower_bound(a.pairs_out + a.offsets[k], a.offsets[k + 1] - a.offsets[k], begin * a.tile_rows);
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * a.tile_rows, last = smaller(first + a.tile_rows, a.num_out);
    forward_tile<T>(a, first, last, tile, cursor);
    T* out = static_cast<T*>(a.out) + first * a.groups * a.cout;
    const T* sums = tile;
    for (int64_t i = 0; i < (last - first) * a.groups; ++i, sums += width, out += a.cout) {
      __builtin_memcpy(out, sums, sizeof(T) * a.cout);
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

// sums[r, :] += sum over the chunk of rows[p, r] * vectors[p, :]
template <typename T, int R, int V>
void outer(const T* rows, int64_t row_stride, const T* vectors, int count, T* sums, int64_t sum_stride) {
  using S = Simd<T>;
  typename S::V acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = S::set(T(0));
  for (int p = 0; p < count; ++p, rows += row_stride, vectors += V * S::kLanes) {
    typename S::V w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) w[v] = S::load(vectors + v * S::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename S::V x = S::set(rows[r]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = S::fma(x, w[v], acc[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      T* s = sums + r * sum_stride + v * S::kLanes;
      S::store(s, S::add(acc[r][v], S::load(s)));
    }
}

template <typename T>
using Outer = void (*)(const T*, int64_t, const T*, int, T*, int64_t);

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

// Rows of the broadcast operand are one cache line apart from a power of two, to spread over the sets of the cache.
template <typename T>
int row_buffer_stride(int rows) {
  return padded<T>(rows) + 64 / static_cast<int>(sizeof(T));
}

template <typename T>
int64_t wgrad_scratch(const WgradArgs& a) {
  const bool flip = vectors_are_outputs<T>(a);
  const int rows = flip ? a.cin : a.cout, width = padded<T>(flip ? a.cout : a.cin);
  return static_cast<int64_t>(rows) * width + static_cast<int64_t>(kChunk) * (row_buffer_stride<T>(rows) + width);
}

// Rows of one operand of a chunk.
template <typename T>
struct Gather {
  const T* source;
  int64_t stride;
  const int32_t* rows;
  int channels;

  const T* row(int64_t p) const { return source + rows[p] * stride; }
  // Asks for rows [begin, end) to be brought into the second-level cache.
  void prefetch(int64_t begin, int64_t end) const {
    constexpr int kLine = 64 / sizeof(T);
    for (int64_t p = begin; p < end; ++p)
      for (int c = 0; c < channels; c += kLine) __builtin_prefetch(row(p) + c, 0, 2);
  }
};

template <typename T>
inline void copy_padded(const T* source, int count, int padded_count, T* target) {
  constexpr int kLanes = Simd<T>::kLanes;
  int c = 0;
  for (; c + kLanes <= count; c += kLanes) Simd<T>::store(target + c, Simd<T>::load(source + c));
  for (; c < count; ++c) target[c] = source[c];
  for (; c < padded_count; ++c) target[c] = T(0);
}

template <typename T>
void gather_rows(const Gather<T>& from, int count, int64_t target_stride, T* target) {
  for (int p = 0; p < count; ++p, target += target_stride) {
    copy_padded(from.row(p), from.channels, from.channels, target);
  }
}

// Block b of vectors holds (count, size(b)) contiguously.
template <typename T>
void gather_vectors(const Gather<T>& from, int count, const Split& blocks, T* target) {
  constexpr int kLanes = Simd<T>::kLanes;
  for (int p = 0; p < count; ++p) {
    const T* row = from.row(p);
    for (int b = 0; b < blocks.blocks; ++b) {
      const int start = blocks.start(b) * kLanes, size = blocks.size(b) * kLanes;
      const int real = start + size <= from.channels ? size : from.channels - start;
      copy_padded(row + start, real, size, target + static_cast<int64_t>(kChunk) * start + p * size);
    }
  }
}

template <typename T>
void wgrad(const WgradArgs& a, int64_t unit, T* scratch) {
  constexpr int kLanes = Simd<T>::kLanes;
  const int part = unit % a.splits, g = unit / a.splits % a.groups, k = unit / a.splits / a.groups;
  const bool flip = vectors_are_outputs<T>(a);
  const int all_rows = flip ? a.cin : a.cout, columns = flip ? a.cout : a.cin, width = padded<T>(columns);
  const int first_row = static_cast<int64_t>(all_rows) * part / a.splits;
  const int num_rows = static_cast<int64_t>(all_rows) * (part + 1) / a.splits - first_row;
  const int64_t in_stride = static_cast<int64_t>(a.groups) * a.cin,
                out_stride = static_cast<int64_t>(a.groups) * a.cout;
  const T* in = static_cast<const T*>(a.in) + static_cast<int64_t>(g) * a.cin;
  const T* grad_out = static_cast<const T*>(a.grad_out) + static_cast<int64_t>(g) * a.cout;
  const Split vector_blocks(vectors_of<T>(columns), kMaxVectors);
  const Split row_blocks(num_rows, block_rows(vector_blocks.base + (vector_blocks.extra > 0 ? 1 : 0)));
  T* sums = scratch;
  T* row_buffer = sums + static_cast<int64_t>(all_rows) * width;
  T* vector_buffer = row_buffer + static_cast<int64_t>(kChunk) * row_buffer_stride<T>(all_rows);
  __builtin_memset(sums, 0, sizeof(T) * num_rows * static_cast<int64_t>(width));
  const int64_t row_stride = row_buffer_stride<T>(all_rows);
  for (int64_t p = a.offsets[k]; p < a.offsets[k + 1]; p += kChunk) {
    const int64_t left = a.offsets[k + 1] - p;
    const int count = static_cast<int>(smaller(kChunk, left));
    const int later = static_cast<int>(smaller(kChunk, left - count));  // pairs of the next chunk
    const Gather<T> inputs{in, in_stride, a.pairs_in + p, a.cin};
    const Gather<T> outputs{grad_out, out_stride, a.pairs_out + p, a.cout};
    Gather<T> row_side = flip ? inputs : outputs;
    row_side.source += first_row;
    row_side.channels = num_rows;
    gather_rows(row_side, count, row_stride, row_buffer);
    gather_vectors(flip ? outputs : inputs, count, vector_blocks, vector_buffer);
    const int steps = vector_blocks.blocks * row_blocks.blocks;
    for (int step = 0; step < steps; ++step) {
      const int row = row_blocks.start(step % row_blocks.blocks), vb = step / row_blocks.blocks;
      const int column = vector_blocks.start(vb) * kLanes;
      inputs.prefetch(count + later * step / steps, count + later * (step + 1) / steps);
      outputs.prefetch(count + later * step / steps, count + later * (step + 1) / steps);
      find_outer<T>(row_blocks.size(step % row_blocks.blocks), vector_blocks.size(vb))(
          row_buffer + row, row_stride, vector_buffer + static_cast<int64_t>(kChunk) * column, count,
          sums + static_cast<int64_t>(row) * width + column, width);
    }
  }
  T* grad = static_cast<T*>(a.grad) + (static_cast<int64_t>(g) * a.cout * a.num_offsets + k) * a.cin;
  const int64_t channel_stride = static_cast<int64_t>(a.num_offsets) * a.cin;
  for (int r = 0; r < num_rows; ++r)
    for (int c = 0; c < columns; ++c) {
      const int o = flip ? c : first_row + r, i = flip ? first_row + r : c;
      grad[o * channel_stride + i] = sums[static_cast<int64_t>(r) * width + c];
    }
}

template <typename T>
void depthwise_wgrad(const WgradArgs& a, int64_t k, T* scratch) {
  const int64_t channels = a.groups;
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
