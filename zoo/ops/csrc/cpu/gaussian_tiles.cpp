// Lists of the Gaussians of each tile: Gaussians are sorted by depth once, then dealt to their tiles in that order.
#include "kernels/gaussian_tiles.h"

#include "cpu/work_queue.h"

namespace zoo {
inline namespace ZOO_TARGET {

struct DepthKey {
  uint64_t bits;
  int32_t number;
};

// Stable, by bytes; bytes that all keys share are passed over.
inline void sort_by_depth(Scratch<DepthKey>& keys, Scratch<DepthKey>& other, int64_t n) {
  for (int shift = 0; shift < 64; shift += 8) {
    int64_t starts[257] = {};
    for (int64_t i = 0; i < n; ++i) ++starts[(keys.get()[i].bits >> shift & 255) + 1];
    bool same = false;
    for (int b = 1; b <= 256; ++b) same |= starts[b] == n;
    if (same) continue;
    for (int b = 0; b < 256; ++b) starts[b + 1] += starts[b];
    for (int64_t i = 0; i < n; ++i) other.get()[starts[keys.get()[i].bits >> shift & 255]++] = keys.get()[i];
    std::swap(keys, other);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> intersect_gaussian_tiles(const Tensor& means2d_in,
                                                                            const Tensor& radii_in,
                                                                            const Tensor& depths_in, int64_t width,
                                                                            int64_t height, int64_t tile_size) {
  const Tensor means2d = packed(means2d_in), radii = packed(radii_in), depths = packed(depths_in);
  const TileShape shape = tile_shape(means2d, radii, depths, width, height, tile_size);
  const int64_t cameras = shape.cameras, count = shape.count, owners = shape.owners(), tiles = shape.tiles();
  const int32_t columns = shape.columns, rows = shape.rows;
  return dispatch_floating(depths.scalar_type(), "intersect_gaussian_tiles", [&](auto zero) {
    using T = decltype(zero);
    const T *mean = cptr<T>(means2d), *depth = cptr<T>(depths), size = static_cast<T>(tile_size);
    const int32_t* radius = cptr<int32_t>(radii);
    Tensor per_gaussian = empty_on<int32_t>(depths, {cameras, count});
    Tensor tile_offsets = empty_on<int64_t>(depths, {cameras * tiles + 1});
    Tensor slot_offsets = empty_on<int64_t>(depths, {owners + 1});
    int32_t* number = mptr<int32_t>(per_gaussian);
    int64_t *slot_begin = mptr<int64_t>(slot_offsets), *tile_begin = mptr<int64_t>(tile_offsets);
    const Scratch<TileBox> boxes(owners);
    launch(depths, owners, [&](int64_t i) {
      const TileBox box = tile_box(mean + 2 * i, radius + 2 * i, size, columns, rows);
      boxes.get()[i] = box;
      number[i] = static_cast<int32_t>(box.count());
    });
    slot_begin[0] = 0;
    for (int64_t i = 0; i < owners; ++i) slot_begin[i + 1] = slot_begin[i] + number[i];
    const int64_t total = slot_begin[owners];
    check_list_length(total, owners);
    Tensor ids = empty_on<int32_t>(depths, {total}), slots = empty_on<int32_t>(depths, {total});
    int32_t *member = mptr<int32_t>(ids), *slot = mptr<int32_t>(slots);
    tile_begin[0] = 0;
    for (int64_t camera = 0; camera < cameras; ++camera) {
      Scratch<DepthKey> keys(count), other(count);
      int64_t shown = 0;
      const Scratch<int64_t> lengths(tiles);
      for (int64_t t = 0; t < tiles; ++t) lengths.get()[t] = 0;
      for (int64_t i = camera * count; i < (camera + 1) * count; ++i) {
        if (number[i] == 0) continue;
        keys.get()[shown++] = {rising_bits(depth[i]), static_cast<int32_t>(i)};
        const TileBox& box = boxes.get()[i];
        for (int32_t y = box.y0; y < box.y1; ++y) {
          for (int32_t x = box.x0; x < box.x1; ++x) ++lengths.get()[static_cast<int64_t>(y) * columns + x];
        }
      }
      int64_t* begin = tile_begin + camera * tiles;
      const Scratch<int64_t> next(tiles);
      for (int64_t t = 0; t < tiles; ++t) {
        next.get()[t] = begin[t];
        begin[t + 1] = begin[t] + lengths.get()[t];
      }
      sort_by_depth(keys, other, shown);
      for (int64_t k = 0; k < shown; ++k) {
        const int32_t i = keys.get()[k].number;
        const TileBox& box = boxes.get()[i];
        int64_t out = slot_begin[i];
        for (int32_t y = box.y0; y < box.y1; ++y) {
          for (int32_t x = box.x0; x < box.x1; ++x) {
            const int64_t place = next.get()[static_cast<int64_t>(y) * columns + x]++;
            member[place] = i;
            slot[out++] = static_cast<int32_t>(place);
          }
        }
      }
    }
    return std::make_tuple(per_gaussian, tile_offsets, ids, slot_offsets, slots);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("intersect_gaussian_tiles", TORCH_BOX(&zoo::intersect_gaussian_tiles));
}
