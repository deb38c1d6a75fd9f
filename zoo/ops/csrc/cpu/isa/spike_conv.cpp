// Event-driven kernels of the sparse convolution, compiled once per instruction set (macro ZOO_ISA).
//
// Spike counts are mostly zero. The values of a feature row that are not are listed once, and each pair of rows then
// costs one multiply-add of a weight row for every listed value, instead of one for every channel: the sums of an
// output row stay in registers, weights come from the caches. A unit is a tile of output rows, as in sparse_conv.cpp.
#include "cpu/isa/spike_conv.h"

#include "cpu/isa/blocks.h"
#include "cpu/isa/simd.h"

namespace {

using zoo::conv::EventArgs;
using zoo::conv::EventConvArgs;
using zoo::conv::PackArgs;

constexpr int kMaxVectors = 8;  // vectors of output channels in one register block
constexpr int kPackLine = 16;   // input channels that are packed at once
constexpr int kAhead = 8;       // pairs whose events are asked for before their turn

// Events of a row that are added at once, to as many sums as are needed to keep the multiply-add units busy; lists are
// filled up to whole steps with events of the channel `cin`, whose weights are zero.
constexpr int step_of(int vectors) {
  return vectors >= 3 ? 2 : 4;
}

template <typename T>
Split column_blocks(int cout) {
  return Split(ceil_div(cout, Simd<T>::kLanes), kMaxVectors);
}

template <typename T>
int padded(int channels) {
  return ceil_div(channels, Simd<T>::kLanes) * Simd<T>::kLanes;
}

template <typename T>
int list_step(int cout) {
  const Split blocks = column_blocks<T>(cout);
  return step_of(blocks.base);  // the narrowest block has the longest step
}

// ---- events ----

template <typename T>
int64_t count_events(const EventArgs& a, int32_t cout, int64_t begin, int64_t end) {
  const int64_t step = list_step<T>(cout);
  const T* row = static_cast<const T*>(a.features) + begin * a.cin;
  int64_t total = 0;
  for (int64_t i = begin; i < end; ++i, row += a.cin) {
    int32_t count = 0;
    for (int c = 0; c < a.cin; ++c) count += row[c] != T(0) ? 1 : 0;
    total += count;
    a.starts[i + 1] = (count + step - 1) / step * step;
  }
  return total;
}

template <typename T>
int64_t list_row(const T* row, int cin, uint16_t* channels, T* counts) {
  int64_t n = 0;
  int c = 0;
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 4) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; c < cin; c += 16) {
      const __mmask16 inside = static_cast<__mmask16>(cin - c >= 16 ? 0xffff : (1 << (cin - c)) - 1);
      const __m512 x = _mm512_maskz_loadu_ps(inside, row + c);
      const __mmask16 events = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ);
      const int found = __builtin_popcount(events);
      const __mmask16 first = static_cast<__mmask16>((1 << found) - 1);
      const __m512i where = _mm512_add_epi32(lanes, _mm512_set1_epi32(c));
      _mm512_mask_storeu_ps(counts + n, first, _mm512_maskz_compress_ps(events, x));
      _mm256_mask_storeu_epi16(channels + n, first, _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(events, where)));
      n += found;
    }
    return n;
  }
#endif
  for (; c < cin; ++c) {
    if (row[c] != T(0)) {
      channels[n] = static_cast<uint16_t>(c);
      counts[n++] = row[c];
    }
  }
  return n;
}

template <typename T>
void list_events(const EventArgs& a, int64_t begin, int64_t end) {
  const T* row = static_cast<const T*>(a.features) + begin * a.cin;
  for (int64_t i = begin; i < end; ++i, row += a.cin) {
    const int64_t first = a.starts[i], last = a.starts[i + 1];
    if (first == last) continue;
    uint16_t* channels = a.channels + first;
    T* counts = static_cast<T*>(a.counts) + first;
    for (int64_t n = list_row(row, a.cin, channels, counts); n < last - first; ++n) {
      channels[n] = static_cast<uint16_t>(a.cin);
      counts[n] = T(0);
    }
  }
}

// ---- weights: [offset][block of output channels][input channel, and one of zeros][output channel] ----

template <typename T>
int64_t packed_elements(const PackArgs& a) {
  return static_cast<int64_t>(a.num_offsets) * (a.cols + 1) * padded<T>(a.rows);
}

template <typename T>
void pack_weight(const PackArgs& a, int64_t begin, int64_t end) {
  constexpr int kLanes = Simd<T>::kLanes;
  const int64_t row_stride = static_cast<int64_t>(a.num_offsets) * a.cols;
  const Split blocks = column_blocks<T>(a.rows);
  for (int64_t k = begin; k < end; ++k) {
    const T* w = static_cast<const T*>(a.weight) + k * a.cols;
    T* packed = static_cast<T*>(a.packed) + k * (a.cols + 1) * padded<T>(a.rows);
    for (int b = 0; b < blocks.blocks; ++b) {
      const int first = blocks.start(b) * kLanes, width = blocks.size(b) * kLanes;
      T* block = packed + static_cast<int64_t>(first) * (a.cols + 1);
      __builtin_memset(block + static_cast<int64_t>(a.cols) * width, 0, sizeof(T) * width);
      // A line of every source row at a time, so that the lines written to stay in the nearest cache.
      for (int from = 0; from < a.cols; from += kPackLine) {
        const int to = static_cast<int>(smaller(from + kPackLine, a.cols));
        for (int c = 0; c < width; ++c) {
          const bool real = first + c < a.rows;
          const T* source = w + (first + c) * row_stride;
          for (int i = from; i < to; ++i) block[static_cast<int64_t>(i) * width + c] = real ? source[i] : T(0);
        }
      }
    }
  }
}

// ---- sums ----

// The pairs of one offset inside one tile, and one block of output channels.
template <typename T>
struct EventRun {
  const int32_t* in;
  const int32_t* out;
  int64_t count, total;  // pairs of the run; pairs that may be looked at for prefetching
  const int64_t* starts;
  const uint16_t* channels;
  const T* counts;
  const T* weight;
  T* sums;  // of output row 0 and the first channel of the block
  int64_t stride;
};

template <typename T, int V>
void add_run(const EventRun<T>& run) {
  using S = Simd<T>;
  constexpr int kStep = step_of(V), kSets = V >= 8 ? 1 : kStep;
  for (int64_t p = 0; p < run.count; ++p) {
    const int64_t later = run.starts[run.in[smaller(p + kAhead, run.total - 1)]];
    __builtin_prefetch(run.channels + later);
    __builtin_prefetch(run.counts + later);
    const int64_t begin = run.starts[run.in[p]], end = run.starts[run.in[p] + 1];
    if (begin == end) continue;
    T* sums = run.sums + run.out[p] * run.stride;
    typename S::V acc[kSets][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      acc[0][v] = S::load(sums + v * S::kLanes);
#pragma GCC unroll 4
      for (int s = 1; s < kSets; ++s) acc[s][v] = S::set(T(0));
    }
    for (int64_t e = begin; e < end; e += kStep) {
#pragma GCC unroll 4
      for (int u = 0; u < kStep; ++u) {
        const T* weight = run.weight + static_cast<int64_t>(run.channels[e + u]) * (V * S::kLanes);
        const typename S::V count = S::set(run.counts[e + u]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          acc[u % kSets][v] = S::fma(count, S::load(weight + v * S::kLanes), acc[u % kSets][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
#pragma GCC unroll 4
      for (int s = 1; s < kSets; ++s) acc[0][v] = S::add(acc[0][v], acc[s][v]);
      S::store(sums + v * S::kLanes, acc[0][v]);
    }
  }
}

template <typename T, int V = kMaxVectors>
void add_block(const EventRun<T>& run, int vectors) {
  if constexpr (V == 1) {
    add_run<T, 1>(run);
  } else {
    if (vectors == V) return add_run<T, V>(run);
    add_block<T, V - 1>(run, vectors);
  }
}

// What a thread keeps: a cursor for each offset, and the sums of a tile where output rows are no whole vectors.
template <typename T>
int64_t cursor_bytes(const EventConvArgs& a) {
  return (a.conv.num_offsets * static_cast<int64_t>(sizeof(int64_t)) + 63) / 64 * 64;
}

template <typename T>
int64_t scratch(const EventConvArgs& a) {
  const int width = padded<T>(a.conv.cout);
  const int64_t sums = width == a.conv.cout ? 0 : a.conv.tile_rows * width * static_cast<int64_t>(sizeof(T));
  return cursor_bytes<T>(a) + sums;
}

// `sums` is the place of output row 0, of which only the tile's rows exist.
template <typename T>
void accumulate_tile(const EventConvArgs& args, int64_t first_row, int64_t last_row, T* sums, int64_t* cursor) {
  const zoo::conv::ForwardArgs& a = args.conv;
  const int width = padded<T>(a.cout);
  const Split blocks = column_blocks<T>(a.cout);
  const int64_t total = a.offsets[a.num_offsets];
  __builtin_memset(sums + first_row * width, 0, sizeof(T) * (last_row - first_row) * width);
  for (int k = 0; k < a.num_offsets; ++k) {
    const int64_t begin = cursor[k], available = a.offsets[k + 1] - begin;
    const int64_t count = lower_bound(a.pairs_out + begin, smaller(available, last_row - first_row), last_row);
    cursor[k] = begin + count;
    if (count == 0) continue;
    const T* weight = static_cast<const T*>(a.weight) + k * static_cast<int64_t>(a.cin + 1) * width;
    for (int b = 0; b < blocks.blocks; ++b) {
      const int64_t column = static_cast<int64_t>(blocks.start(b)) * Simd<T>::kLanes;
      add_block(EventRun<T>{a.pairs_in + begin, a.pairs_out + begin, count, total - begin, args.events.starts,
                            args.events.channels, static_cast<const T*>(args.events.counts),
                            weight + column * (a.cin + 1), sums + column, width},
                blocks.size(b));
    }
  }
}

template <typename T>
void accumulate(const EventConvArgs& args, int64_t begin, int64_t end, void* memory) {
  const zoo::conv::ForwardArgs& a = args.conv;
  const int width = padded<T>(a.cout);
  int64_t* cursor = static_cast<int64_t*>(memory);
  T* tile_sums = reinterpret_cast<T*>(static_cast<char*>(memory) + cursor_bytes<T>(args));
  for (int k = 0; k < a.num_offsets; ++k) {
    cursor[k] =
        a.offsets[k] + lower_bound(a.pairs_out + a.offsets[k], a.offsets[k + 1] - a.offsets[k], begin * a.tile_rows);
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * a.tile_rows, last = smaller(first + a.tile_rows, a.num_out);
    T* out = static_cast<T*>(a.out);
    if (width == a.cout) {
      accumulate_tile<T>(args, first, last, out, cursor);
      continue;
    }
    accumulate_tile<T>(args, first, last, tile_sums - first * width, cursor);
    out += first * a.cout;
    const T* sums = tile_sums;
    for (int64_t i = first; i < last; ++i, sums += width, out += a.cout) {
      for (int c = 0; c < a.cout; ++c) out[c] = sums[c];
    }
  }
}

template <typename T>
constexpr zoo::conv::EventKernels<T> kernels_of() {
  return {count_events<T>, list_events<T>, packed_elements<T>, pack_weight<T>, scratch<T>, accumulate<T>};
}

constexpr zoo::conv::EventKernelTable kTable = {kernels_of<float>(), kernels_of<double>()};

}  // namespace

namespace zoo::ZOO_ISA {
const conv::EventKernelTable& spike_conv_kernels() {
  return kTable;
}
}  // namespace zoo::ZOO_ISA
