// What compositing of Gaussians shares between CPU and GPU: sizes, and the sums of a Gaussian's gradients.
#pragma once

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kMaxSplatChannels = 32;
constexpr int kSplatGradients = 6;  // x, y, xx, xy, yy, opacity; behind them the channels, then [|x|, |y|]

struct TileGrid {
  int64_t cameras, gaussians, channels;
  int32_t width, height, size, rows, columns;

  int64_t tiles() const { return cameras * rows * columns; }
};

inline TileGrid tile_grid(const Tensor& colors, const Tensor& tile_offsets, const Tensor& ids,
                          const Tensor& slot_offsets, const Tensor& slots, int64_t width, int64_t height, int64_t size,
                          const char* op) {
  STD_TORCH_CHECK(colors.dim() == 3 && size >= 1 && size <= 64 && width >= 1 && height >= 1, op, ": wrong sizes");
  const auto up = [](int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); };
  const TileGrid grid{colors.size(0),
                      colors.size(1),
                      colors.size(2),
                      static_cast<int32_t>(width),
                      static_cast<int32_t>(height),
                      static_cast<int32_t>(size),
                      up(height, size),
                      up(width, size)};
  STD_TORCH_CHECK(grid.channels >= 1 && grid.channels <= kMaxSplatChannels, op, ": ", grid.channels,
                  " channels, expected 1 to 32");
  STD_TORCH_CHECK(tile_offsets.numel() == grid.tiles() + 1, op, ": tile_offsets does not fit the picture's tiles");
  STD_TORCH_CHECK(slot_offsets.numel() == grid.cameras * grid.gaussians + 1 && slots.numel() == ids.numel(), op,
                  ": slots do not fit ids");
  STD_TORCH_CHECK(tile_offsets.scalar_type() == ScalarType::Long && slot_offsets.scalar_type() == ScalarType::Long &&
                      ids.scalar_type() == ScalarType::Int && slots.scalar_type() == ScalarType::Int,
                  op, ": lists have a wrong dtype");
  return grid;
}

// Sums a Gaussian's rows of gradients, tile by tile.
template <class T>
struct GatherGradients {
  const T* rows;
  const int64_t* offsets;
  const int32_t* slots;
  int64_t stride, channels;
  bool absolute;
  T *means, *conics, *colors, *opacities, *magnitude;

  ZOO_HD void operator()(int64_t i) const {
    T total[kSplatGradients + kMaxSplatChannels + 2] = {};
    for (int64_t k = offsets[i]; k < offsets[i + 1]; ++k) {
      const T* row = rows + slots[k] * stride;
      for (int64_t d = 0; d < stride; ++d) total[d] += row[d];
    }
    for (int d = 0; d < 2; ++d) means[2 * i + d] = total[d];
    for (int d = 0; d < 3; ++d) conics[3 * i + d] = total[2 + d];
    opacities[i] = total[5];
    for (int64_t d = 0; d < channels; ++d) colors[i * channels + d] = total[kSplatGradients + d];
    for (int d = 0; d < 2; ++d) magnitude[2 * i + d] = absolute ? total[kSplatGradients + channels + d] : T(0);
  }
};

}  // namespace ZOO_TARGET
}  // namespace zoo
