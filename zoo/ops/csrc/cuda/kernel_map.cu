// Kernel maps, output sites and sorted keys on the GPU.
//
// The input sites go into a hash table; every (offset, output row) looks its input site up, and the compaction of the
// answers in that order is the map: grouped by offset, output rows ascending. Which slot a site gets depends on which
// thread comes first, what a look-up finds does not.
#include <bit>
#include <tuple>

#include "cuda/sorted_keys.h"
#include "cuda/stream_compaction.h"
#include "kernels/kernel_map.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

// Open addressing: key + 1 of a site, 0 where empty, beside its row.
struct SiteTable {
  unsigned long long* slots;  // (capacity, 2)
  uint64_t mask;

  ZOO_HD uint64_t first_slot(int64_t key) const {
    uint64_t h = static_cast<uint64_t>(key);
    h = (h ^ h >> 31) * 0x9E3779B97F4A7C15ull;
    return (h ^ h >> 32) & mask;
  }
  __device__ __forceinline__ void insert(int64_t key, int64_t row) const {
    const unsigned long long mark = static_cast<unsigned long long>(key) + 1;
    for (uint64_t slot = first_slot(key);; slot = (slot + 1) & mask) {
      const unsigned long long found = atomicCAS(slots + 2 * slot, 0ull, mark);
      if (found == 0) slots[2 * slot + 1] = static_cast<unsigned long long>(row);
      if (found == 0 || found == mark) return;
    }
  }
  ZOO_HD int32_t find(int64_t key) const {
    const unsigned long long mark = static_cast<unsigned long long>(key) + 1;
    for (uint64_t slot = first_slot(key);; slot = (slot + 1) & mask) {
      const unsigned long long found = slots[2 * slot];
      if (found == mark) return static_cast<int32_t>(slots[2 * slot + 1]);
      if (found == 0) return -1;
    }
  }
};

struct InsertSites {
  ConvGeometry geometry;
  const int32_t* coords;
  SiteTable table;

  __device__ __forceinline__ void operator()(int64_t row) const {
    int64_t batch, site[kMaxAxes];
    geometry.read(coords, row, batch, site);
    table.insert(geometry.in_key(batch, site), row);
  }
};

ZOO_HD void kernel_cell(const ConvGeometry& g, int64_t k, int64_t cell[kMaxAxes]) {
  cell[2] = k % g.kernel[2];
  cell[1] = k / g.kernel[2] % g.kernel[1];
  cell[0] = k / g.kernel[2] / g.kernel[1];
}

// matches[k * num_out + row] = the input row that offset k of an output row reads, or -1.
struct MatchSites {
  ConvGeometry geometry;
  const int32_t* out_coords;
  SiteTable table;
  int64_t num_out;
  int32_t* matches;

  ZOO_HD void operator()(int64_t i) const {
    int64_t batch, site[kMaxAxes], cell[kMaxAxes];
    geometry.read(out_coords, i % num_out, batch, site);
    kernel_cell(geometry, i / num_out, cell);
    bool inside = true;
    for (int a = 0; a < kMaxAxes; ++a) {
      site[a] = site[a] * geometry.stride[a] - geometry.padding[a] + cell[a] * geometry.dilation[a];
      inside = inside && site[a] >= 0 && site[a] < geometry.in_shape[a];
    }
    matches[i] = inside ? table.find(geometry.in_key(batch, site)) : -1;
  }
};

struct IsMatch {
  const int32_t* matches;
  ZOO_HD bool operator()(int64_t i) const { return matches[i] >= 0; }
};

struct PlacePairs {
  const int32_t* matches;
  int64_t num_out, items;
  int32_t *pairs_in, *pairs_out;
  int64_t* offsets;

  ZOO_HD void operator()(int64_t i, int64_t rank, bool kept) const {
    const int64_t row = i % num_out;
    if (row == 0) offsets[i / num_out] = rank;
    if (i == items - 1) offsets[items / num_out] = rank + (kept ? 1 : 0);
    if (!kept) return;
    pairs_in[rank] = matches[i];
    pairs_out[rank] = static_cast<int32_t>(row);
  }
};

// The lists of axes are checked, the coordinates not: the grid that holds them has done so.
ConvGeometry checked_geometry(const char* op, const Tensor& coords, const std::vector<int64_t>& in_shape,
                              const std::vector<int64_t>& out_shape, const std::vector<int64_t>& kernel_size,
                              const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                              const std::vector<int64_t>& dilation) {
  ConvGeometry g;
  STD_TORCH_CHECK(make_geometry(coords.size(1), in_shape, out_shape, kernel_size, stride, padding, dilation, g), op,
                  ": coordinates, shapes and kernel do not have the same number of axes, 1 to 3");
  return g;
}

std::tuple<Tensor, Tensor, Tensor> kernel_map(const Tensor& in_tensor, const Tensor& out_tensor,
                                              const std::vector<int64_t>& in_shape,
                                              const std::vector<int64_t>& out_shape, int64_t /*batch_size*/,
                                              const std::vector<int64_t>& kernel_size,
                                              const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                              const std::vector<int64_t>& dilation) {
  const ConvGeometry g =
      checked_geometry("kernel_map", in_tensor, in_shape, out_shape, kernel_size, stride, padding, dilation);
  const Tensor in_coords = packed(in_tensor), out_coords = packed(out_tensor);
  const int64_t num_in = in_coords.size(0), num_out = out_coords.size(0), volume = g.volume();
  if (num_in == 0 || num_out == 0) {
    return {empty_on<int32_t>(in_coords, {0}), empty_on<int32_t>(in_coords, {0}),
            zeros_on<int64_t>(in_coords, {volume + 1})};
  }
  const OnDevice guard(in_coords);
  const int64_t capacity = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(2 * num_in)));
  Tensor slots = zeros_on<int64_t>(in_coords, {capacity, 2});
  const SiteTable table{reinterpret_cast<unsigned long long*>(mptr<int64_t>(slots)),
                        static_cast<uint64_t>(capacity - 1)};
  launch(in_coords, num_in, InsertSites{g, cptr<int32_t>(in_coords), table});

  const int64_t items = volume * num_out;
  Tensor matches_tensor = empty_on<int32_t>(in_coords, {items}), offsets = empty_on<int64_t>(in_coords, {volume + 1});
  int32_t* matches = mptr<int32_t>(matches_tensor);
  launch(in_coords, items, MatchSites{g, cptr<int32_t>(out_coords), table, num_out, matches});
  const Compaction<IsMatch> found(in_coords, items, IsMatch{matches});
  Tensor pairs_in = empty_on<int32_t>(in_coords, {found.kept}), pairs_out = empty_on<int32_t>(in_coords, {found.kept});
  found.run(
      PlacePairs{matches, num_out, items, mptr<int32_t>(pairs_in), mptr<int32_t>(pairs_out), mptr<int64_t>(offsets)});
  return {pairs_in, pairs_out, offsets};
}

// keys[k * num_in + row] = the key of the output site that an input row reaches through offset k, or -1.
struct ReachSites {
  ConvGeometry geometry;
  const int32_t* coords;
  int64_t num_in;
  bool transposed;
  int64_t* keys;

  ZOO_HD void operator()(int64_t i) const {
    int64_t batch, site[kMaxAxes], cell[kMaxAxes];
    geometry.read(coords, i % num_in, batch, site);
    kernel_cell(geometry, i / num_in, cell);
    int64_t key = batch;
    bool reached = true;
    for (int a = 0; a < kMaxAxes; ++a) {
      const int64_t shift = geometry.padding[a] - cell[a] * geometry.dilation[a], step = geometry.stride[a];
      int64_t out = transposed ? site[a] * step - shift : site[a] + shift;
      reached = reached && out >= 0 && (transposed || out % step == 0);
      if (!transposed) out /= step;
      reached = reached && out < geometry.out_shape[a];
      if (reached) key = key * geometry.out_shape[a] + out;
    }
    keys[i] = reached ? key : -1;
  }
};

struct IsReached {
  const int64_t* keys;
  ZOO_HD bool operator()(int64_t i) const { return keys[i] >= 0; }
};

struct PlaceKey {
  const int64_t* keys;
  int64_t* placed;
  ZOO_HD void operator()(int64_t i, int64_t rank, bool kept) const {
    if (kept) placed[rank] = keys[i];
  }
};

struct IsFirst {
  const int64_t* sorted;
  ZOO_HD bool operator()(int64_t i) const { return i == 0 || sorted[i] != sorted[i - 1]; }
};

struct PlaceSite {
  ConvGeometry geometry;
  const int64_t* sorted;
  int32_t* coords;

  ZOO_HD void operator()(int64_t i, int64_t rank, bool kept) const {
    if (!kept) return;
    int32_t* row = coords + rank * geometry.columns;
    int64_t rest = sorted[i];
    for (int a = kMaxAxes - 1; a >= 0; --a) {
      if (geometry.column_of[a] > 0) row[geometry.column_of[a]] = static_cast<int32_t>(rest % geometry.out_shape[a]);
      rest /= geometry.out_shape[a];
    }
    row[0] = static_cast<int32_t>(rest);
  }
};

Tensor conv_output_coords(const Tensor& in_tensor, const std::vector<int64_t>& in_shape,
                          const std::vector<int64_t>& out_shape, int64_t /*batch_size*/,
                          const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                          const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, bool transposed) {
  const ConvGeometry g =
      checked_geometry("conv_output_coords", in_tensor, in_shape, out_shape, kernel_size, stride, padding, dilation);
  const Tensor in_coords = packed(in_tensor);
  const int64_t num_in = in_coords.size(0), items = g.volume() * num_in;
  const OnDevice guard(in_coords);
  Tensor keys = empty_on<int64_t>(in_coords, {items});
  launch(in_coords, items, ReachSites{g, cptr<int32_t>(in_coords), num_in, transposed, mptr<int64_t>(keys)});
  const Compaction<IsReached> reached(in_coords, items, IsReached{cptr<int64_t>(keys)});
  Tensor sites = empty_on<int64_t>(in_coords, {reached.kept});
  reached.run(PlaceKey{cptr<int64_t>(keys), mptr<int64_t>(sites)});
  const Tensor sorted = std::get<0>(sort_keys(sites));
  const Compaction<IsFirst> distinct(in_coords, reached.kept, IsFirst{cptr<int64_t>(sorted)});
  Tensor out_coords = empty_on<int32_t>(in_coords, {distinct.kept, g.columns});
  distinct.run(PlaceSite{g, cptr<int64_t>(sorted), mptr<int32_t>(out_coords)});
  return out_coords;
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("kernel_map", TORCH_BOX(&zoo::kernel_map));
  m.impl("conv_output_coords", TORCH_BOX(&zoo::conv_output_coords));
  m.impl("sort_keys", TORCH_BOX(&zoo::sort_keys));
}
