// Kernel maps on the CPU: a streaming merge of sorted keys, without a hash table.
//
// The input cells that the offsets of one kernel row (all axes but the last fixed) read for ascending output rows have
// ascending keys, so that one cursor per kernel row runs through the input keys once. Chunks of output rows are
// independent; each leaves its pairs in its own part of a buffer per offset, which is then copied together. A
// submanifold map finds only the offsets before the centre; the others are their mirror images.
#include "kernels/kernel_map.h"

#include <cstring>
#include <limits>
#include <tuple>

#include "cpu/work_queue.h"
#include "runtime/op.h"

namespace zoo {
namespace {

constexpr int64_t kChunkRows = 4096;

struct Keys {
  Scratch<int64_t> values;  // (rows + 1,), closed by a key above all others
  int64_t rows;
  const int64_t* get() const { return values.get(); }
};

Keys input_keys(const ConvGeometry& geometry, const int32_t* coords, int64_t rows) {
  Keys keys{Scratch<int64_t>(rows + 1), rows};
  torch::stable::parallel_for(0, rows, 1 << 14, [&](int64_t begin, int64_t end) {
    int64_t batch, site[kMaxAxes];
    for (int64_t i = begin; i < end; ++i) {
      geometry.read(coords, i, batch, site);
      keys.values.get()[i] = geometry.in_key(batch, site);
    }
  });
  keys.values.get()[rows] = std::numeric_limits<int64_t>::max();
  return keys;
}

// Pairs found so far: those of offset k and chunk c fill places from k * capacity + c * kChunkRows on.
struct Found {
  Scratch<int32_t> in, out;
  std::vector<int64_t> counts;  // (volume, chunks)
  int64_t capacity, chunks;

  Found(int64_t rows, int64_t volume)
      : in(rows * volume),
        out(rows * volume),
        counts(volume * ((rows + kChunkRows - 1) / kChunkRows), 0),
        capacity(rows),
        chunks((rows + kChunkRows - 1) / kChunkRows) {}
  int64_t& count(int64_t k, int64_t chunk) { return counts[k * chunks + chunk]; }
  int64_t place(int64_t k, int64_t chunk) const { return k * capacity + chunk * kChunkRows; }
};

// The first `used` offsets of one kernel row (k0, k1, :) over one chunk of output rows; kUsed = used, or 0 for any.
template <int kUsed>
void match_row(const ConvGeometry& g, const int32_t* out_coords, int64_t out_rows, const Keys& keys, int64_t k0,
               int64_t k1, int64_t any_used, int64_t chunk, Found& found) {
  constexpr int kMost = kUsed > 0 ? kUsed : 1;
  const int64_t used = kUsed > 0 ? kUsed : any_used, step = g.dilation[2];
  const int64_t first = (k0 * g.kernel[1] + k1) * g.kernel[2], begin = chunk * kChunkRows;
  const int64_t* key = keys.get();
  int64_t local[kMost] = {};  // counts, in registers where their number is fixed
  int64_t* counts = kUsed > 0 ? local : nullptr;
  std::vector<int64_t> many(kUsed > 0 ? 0 : used, 0);
  if (kUsed == 0) counts = many.data();
  int32_t* in = found.in.get() + found.place(first, chunk);
  int32_t* out = found.out.get() + found.place(first, chunk);
  int64_t cursor = -1;
  for (int64_t row = begin; row < std::min(begin + kChunkRows, out_rows); ++row) {
    int64_t batch, site[kMaxAxes];
    g.read(out_coords, row, batch, site);
    site[0] = site[0] * g.stride[0] - g.padding[0] + k0 * g.dilation[0];
    site[1] = site[1] * g.stride[1] - g.padding[1] + k1 * g.dilation[1];
    site[2] = site[2] * g.stride[2] - g.padding[2];
    if (static_cast<uint64_t>(site[0]) >= static_cast<uint64_t>(g.in_shape[0])) continue;
    if (static_cast<uint64_t>(site[1]) >= static_cast<uint64_t>(g.in_shape[1])) continue;
    if (site[2] >= g.in_shape[2]) continue;  // keys beyond the end of an input row would break their ascent
    const int64_t base = g.in_key(batch, site);
    if (cursor < 0) cursor = std::lower_bound(key, key + keys.rows, base) - key;
    cursor += key[cursor] < base;  // mostly 0 to 2 steps: without a branch, which would be hard to foresee
    cursor += key[cursor] < base;
    while (key[cursor] < base) ++cursor;
    int64_t here = cursor;
    for (int64_t k2 = 0; k2 < used; ++k2) {
      const int64_t target = base + k2 * step;
      if (kUsed == 0) {
        while (key[here] < target) ++here;
      }
      const bool equal = key[here] == target;
      in[k2 * found.capacity + counts[k2]] = static_cast<int32_t>(here);  // stays where it is a match
      out[k2 * found.capacity + counts[k2]] = static_cast<int32_t>(row);
      counts[k2] += equal & (static_cast<uint64_t>(site[2] + k2 * step) < static_cast<uint64_t>(g.in_shape[2]));
      here += equal;
    }
  }
  for (int64_t k2 = 0; k2 < used; ++k2) found.count(first + k2, chunk) = counts[k2];
}

using MatchRow = void (*)(const ConvGeometry&, const int32_t*, int64_t, const Keys&, int64_t, int64_t, int64_t, int64_t,
                          Found&);

MatchRow match_row_for(int64_t used, int64_t step) {
  if (step == 1) {
    if (used == 1) return match_row<1>;
    if (used == 2) return match_row<2>;
    if (used == 3) return match_row<3>;
  }
  return match_row<0>;
}

// Pairs of the first `volume` offsets.
void find_pairs(const ConvGeometry& g, const int32_t* out_coords, int64_t out_rows, const Keys& keys, int64_t volume,
                Found& found) {
  const int64_t width = g.kernel[2], kernel_rows = (volume + width - 1) / width;
  for_each_unit(found.chunks, [&] {
    return [&](int64_t chunk) {
      for (int64_t r = 0; r < kernel_rows; ++r) {
        const int64_t used = std::min(width, volume - r * width);
        match_row_for(used, g.dilation[2])(g, out_coords, out_rows, keys, r / g.kernel[1], r % g.kernel[1], used, chunk,
                                           found);
      }
    };
  });
}

bool is_submanifold(const ConvGeometry& g, const Tensor& in_coords, const Tensor& out_coords) {
  if (in_coords.const_data_ptr() != out_coords.const_data_ptr() || in_coords.size(0) != out_coords.size(0))
    return false;
  for (int a = 0; a < kMaxAxes; ++a) {
    if (g.kernel[a] % 2 == 0 || g.stride[a] != 1 || g.padding[a] != g.kernel[a] / 2 * g.dilation[a]) return false;
    if (g.in_shape[a] != g.out_shape[a]) return false;
  }
  return true;
}

std::tuple<Tensor, Tensor, Tensor> kernel_map(const Tensor& in_tensor, const Tensor& out_tensor,
                                              const std::vector<int64_t>& in_shape,
                                              const std::vector<int64_t>& out_shape, int64_t /*batch_size*/,
                                              const std::vector<int64_t>& kernel_size,
                                              const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                              const std::vector<int64_t>& dilation) {
  ConvGeometry g;
  STD_TORCH_CHECK(make_geometry(in_tensor.size(1), in_shape, out_shape, kernel_size, stride, padding, dilation, g),
                  "kernel_map: coordinates, shapes and kernel do not have the same number of axes, 1 to 3");
  const Tensor in_coords = packed(in_tensor), out_coords = packed(out_tensor);
  const int64_t rows = out_coords.size(0), volume = g.volume();
  const bool mirrored = is_submanifold(g, in_coords, out_coords);
  const int64_t searched = mirrored ? volume / 2 : volume;
  Found found(rows, searched);
  find_pairs(g, cptr<int32_t>(out_coords), rows, input_keys(g, cptr<int32_t>(in_coords), in_coords.size(0)), searched,
             found);

  Tensor offsets_tensor = empty_on<int64_t>(in_coords, {volume + 1});
  int64_t* offsets = mptr<int64_t>(offsets_tensor);
  std::vector<int64_t> starts(found.counts.size());  // of each (offset, chunk) inside its offset
  std::vector<int64_t> totals(volume, 0);
  for (int64_t k = 0; k < searched; ++k) {
    for (int64_t c = 0; c < found.chunks; ++c) {
      starts[k * found.chunks + c] = totals[k];
      totals[k] += found.count(k, c);
    }
    if (mirrored) totals[volume - 1 - k] = totals[k];
  }
  if (mirrored) totals[searched] = rows;
  offsets[0] = 0;
  for (int64_t k = 0; k < volume; ++k) offsets[k + 1] = offsets[k] + totals[k];

  Tensor pairs_in = empty_on<int32_t>(in_coords, {offsets[volume]});
  Tensor pairs_out = empty_on<int32_t>(in_coords, {offsets[volume]});
  int32_t *in = mptr<int32_t>(pairs_in), *out = mptr<int32_t>(pairs_out);
  torch::stable::parallel_for(0, found.chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t k = 0; k < searched; ++k) {
        const int32_t* found_in = found.in.get() + found.place(k, c);
        const int32_t* found_out = found.out.get() + found.place(k, c);
        const int64_t start = starts[k * found.chunks + c], bytes = found.count(k, c) * sizeof(int32_t);
        std::memcpy(in + offsets[k] + start, found_in, bytes);
        std::memcpy(out + offsets[k] + start, found_out, bytes);
        if (mirrored) {  // both rows of the pairs of an offset ascend, so that the mirrored pairs need no sorting
          std::memcpy(in + offsets[volume - 1 - k] + start, found_out, bytes);
          std::memcpy(out + offsets[volume - 1 - k] + start, found_in, bytes);
        }
      }
      if (mirrored) {
        for (int64_t i = c * kChunkRows; i < std::min((c + 1) * kChunkRows, rows); ++i) {
          in[offsets[searched] + i] = out[offsets[searched] + i] = static_cast<int32_t>(i);
        }
      }
    }
  });
  return {pairs_in, pairs_out, offsets_tensor};
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("kernel_map", TORCH_BOX(&zoo::kernel_map));
}
