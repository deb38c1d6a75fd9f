// Lists of the Gaussians of each tile on the GPU: every (Gaussian, tile) pair gets a key of tile and rank by depth, and
// the sorted keys are the lists. No two keys are equal, so that the lists are those of the CPU.
#include "cuda/sorted_keys.h"
#include "cuda/stream_compaction.h"
#include "kernels/gaussian_tiles.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class T>
struct MeasureBoxes {
  const T *means, *depths;
  const int32_t* radii;
  T size;
  int32_t columns, rows;
  int32_t* per_gaussian;
  int64_t *counts, *depth_keys;

  ZOO_HD void operator()(int64_t i) const {
    const int64_t count = tile_box(means + 2 * i, radii + 2 * i, size, columns, rows).count();
    per_gaussian[i] = static_cast<int32_t>(count);
    counts[i] = count;
    depth_keys[i] = static_cast<int64_t>(rising_bits(depths[i]) ^ uint64_t{1} << 63);  // keys are compared with a sign
  }
};

struct InvertOrder {
  const int64_t* order;
  int64_t* ranks;
  ZOO_HD void operator()(int64_t rank) const { ranks[order[rank]] = rank; }
};

template <class T>
struct EmitKeys {
  const T* means;
  const int32_t* radii;
  T size;
  int32_t columns, rows;
  int64_t count, owners;
  const int64_t *ranks, *slot_begin;
  int64_t* keys;

  ZOO_HD void operator()(int64_t i) const {
    const TileBox box = tile_box(means + 2 * i, radii + 2 * i, size, columns, rows);
    const int64_t first = i / count * rows * columns;
    int64_t out = slot_begin[i];
    for (int32_t y = box.y0; y < box.y1; ++y) {
      for (int32_t x = box.x0; x < box.x1; ++x) {
        keys[out++] = (first + static_cast<int64_t>(y) * columns + x) * owners + ranks[i];
      }
    }
  }
};

struct PlaceMembers {
  const int64_t *keys, *sources, *order;
  int64_t owners;
  int32_t *ids, *slots;
  ZOO_HD void operator()(int64_t place) const {
    ids[place] = static_cast<int32_t>(order[keys[place] % owners]);
    slots[sources[place]] = static_cast<int32_t>(place);
  }
};

// First place whose key is not below tile * owners.
struct FindTiles {
  const int64_t* keys;
  int64_t total, owners;
  int64_t* offsets;
  ZOO_HD void operator()(int64_t tile) const {
    int64_t low = 0, high = total;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (keys[middle] < tile * owners) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    offsets[tile] = low;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> intersect_gaussian_tiles(const Tensor& means2d_in,
                                                                            const Tensor& radii_in,
                                                                            const Tensor& depths_in, int64_t width,
                                                                            int64_t height, int64_t tile_size) {
  const Tensor means2d = packed(means2d_in), radii = packed(radii_in), depths = packed(depths_in);
  const TileShape shape = tile_shape(means2d, radii, depths, width, height, tile_size);
  const int64_t owners = shape.owners(), tiles = shape.cameras * shape.tiles();
  const OnDevice guard(depths);
  return dispatch_floating(depths.scalar_type(), "intersect_gaussian_tiles", [&](auto zero) {
    using T = decltype(zero);
    const T size = static_cast<T>(tile_size);
    Tensor per_gaussian = empty_on<int32_t>(depths, {shape.cameras, shape.count});
    Tensor tile_offsets = zeros_on<int64_t>(depths, {tiles + 1});
    Tensor counts = empty_on<int64_t>(depths, {owners}), depth_keys = empty_on<int64_t>(depths, {owners});
    launch(depths, owners,
           MeasureBoxes<T>{cptr<T>(means2d), cptr<T>(depths), cptr<int32_t>(radii), size, shape.columns, shape.rows,
                           mptr<int32_t>(per_gaussian), mptr<int64_t>(counts), mptr<int64_t>(depth_keys)});
    const Tensor slot_offsets = running_sums(counts);
    const int64_t total = host_value(slot_offsets, owners);
    check_list_length(total, owners);
    Tensor ids = empty_on<int32_t>(depths, {total}), slots = empty_on<int32_t>(depths, {total});
    if (total == 0) return std::make_tuple(per_gaussian, tile_offsets, ids, slot_offsets, slots);
    const Tensor order = std::get<1>(sort_keys(depth_keys));
    Tensor ranks = empty_on<int64_t>(depths, {owners}), keys = empty_on<int64_t>(depths, {total});
    launch(depths, owners, InvertOrder{cptr<int64_t>(order), mptr<int64_t>(ranks)});
    launch(depths, owners,
           EmitKeys<T>{cptr<T>(means2d), cptr<int32_t>(radii), size, shape.columns, shape.rows, shape.count, owners,
                       cptr<int64_t>(ranks), cptr<int64_t>(slot_offsets), mptr<int64_t>(keys)});
    const auto [sorted, sources] = sort_keys(keys);
    launch(depths, total,
           PlaceMembers{cptr<int64_t>(sorted), cptr<int64_t>(sources), cptr<int64_t>(order), owners, mptr<int32_t>(ids),
                        mptr<int32_t>(slots)});
    launch(depths, tiles + 1, FindTiles{cptr<int64_t>(sorted), total, owners, mptr<int64_t>(tile_offsets)});
    return std::make_tuple(per_gaussian, tile_offsets, ids, slot_offsets, slots);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("intersect_gaussian_tiles", TORCH_BOX(&zoo::intersect_gaussian_tiles));
}
