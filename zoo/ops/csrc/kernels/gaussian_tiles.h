// The tiles that a Gaussian's box touches, and keys that sort by depth.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

struct TileBox {
  int32_t x0, y0, x1, y1;
  ZOO_HD int64_t count() const { return static_cast<int64_t>(x1 - x0) * (y1 - y0); }
};

template <class T>
ZOO_HD int32_t clamped_tile(T value, int32_t limit) {
  return value > 0 ? (value < limit ? static_cast<int32_t>(value) : limit) : 0;  // NaN: 0
}

template <class T>
ZOO_HD TileBox tile_box(const T* mean, const int32_t* radius, T size, int32_t columns, int32_t rows) {
  if (!(radius[0] > 0 && radius[1] > 0)) return {0, 0, 0, 0};
  TileBox box{clamped_tile(std::floor((mean[0] - radius[0]) / size), columns),
              clamped_tile(std::floor((mean[1] - radius[1]) / size), rows),
              clamped_tile(std::ceil((mean[0] + radius[0]) / size), columns),
              clamped_tile(std::ceil((mean[1] + radius[1]) / size), rows)};
  box.x1 = box.x0 > box.x1 ? box.x0 : box.x1;
  box.y1 = box.y0 > box.y1 ? box.y0 : box.y1;
  return box;
}

// Bits that rise with the number, -0 as +0, NaN last.
ZOO_HD uint64_t rising_bits(float x) {
  if (x != x) return 0xFFFFFFFFu;
  uint32_t bits;
  x += 0.0f;
  std::memcpy(&bits, &x, sizeof bits);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
ZOO_HD uint64_t rising_bits(double x) {
  if (x != x) return ~uint64_t{0};
  uint64_t bits;
  x += 0.0;
  std::memcpy(&bits, &x, sizeof bits);
  return bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}

// Sizes of pictures cut into tiles.
struct TileShape {
  int64_t cameras, count;
  int32_t columns, rows;

  int64_t tiles() const { return static_cast<int64_t>(rows) * columns; }
  int64_t owners() const { return cameras * count; }
};

inline TileShape tile_shape(const Tensor& means2d, const Tensor& radii, const Tensor& depths, int64_t width,
                            int64_t height, int64_t tile_size) {
  STD_TORCH_CHECK(tile_size >= 1 && width >= 1 && height >= 1 && depths.dim() == 2 &&
                      radii.scalar_type() == ScalarType::Int && radii.numel() == 2 * depths.numel() &&
                      means2d.numel() == 2 * depths.numel(),
                  "intersect_gaussian_tiles: wrong sizes");
  return {depths.size(0), depths.size(1), static_cast<int32_t>((width + tile_size - 1) / tile_size),
          static_cast<int32_t>((height + tile_size - 1) / tile_size)};
}

inline void check_list_length(int64_t total, int64_t owners) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  STD_TORCH_CHECK(total <= kMost && owners <= kMost, "intersect_gaussian_tiles: ", total,
                  " places in tiles' lists, expected fewer than 2^31");
}

}  // namespace ZOO_TARGET
}  // namespace zoo
