// Dense maps seen from above: Gaussian peaks drawn by maximum, and voxel features at their cells. Every value is
// written by one thread.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int64_t kScatterChannels = 16;  // of a thread

template <class T>
struct DrawRow {
  const int64_t* cells;     // (M, 2) column, row
  const int64_t* radii;     // (M,)
  const int64_t* channels;  // (M,)
  int64_t count, height, width;
  T* out;  // (C, H, W)

  // One row of one plane.
  ZOO_HD void operator()(int64_t i) const {
    const int64_t plane = i / height, row = i % height;
    T* to = out + i * width;
    for (int64_t x = 0; x < width; ++x) to[x] = T(0);
    for (int64_t m = 0; m < count; ++m) {
      const int64_t radius = radii[m], down = row - cells[2 * m + 1];
      if (channels[m] != plane || radius < 0 || down < -radius || down > radius) continue;
      const int64_t center = cells[2 * m];
      const int64_t begin = center - radius > 0 ? center - radius : 0;
      const int64_t end = center + radius + 1 < width ? center + radius + 1 : width;
      const double sigma = static_cast<double>(2 * radius + 1) / 6;
      const T spread = static_cast<T>(2 * sigma * sigma);
      for (int64_t x = begin; x < end; ++x) {
        const T along = static_cast<T>(x - center), away = along * along + static_cast<T>(down) * static_cast<T>(down);
        const T value = exp(-away / spread);
        if (value > to[x]) to[x] = value;
      }
    }
  }
};

inline Tensor draw_heatmap(const Tensor& cells, const Tensor& radii, const Tensor& channels, const Tensor& like,
                           std::vector<int64_t> shape) {
  const Tensor c = packed(cells), r = packed(radii), k = packed(channels);
  STD_TORCH_CHECK(shape.size() == 3, "draw_heatmap: expected the shape (C, H, W)");
  return dispatch_floating(like.scalar_type(), "draw_heatmap", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(like, {shape[0], shape[1], shape[2]});
    launch(
        like, shape[0] * shape[1],
        DrawRow<T>{cptr<int64_t>(c), cptr<int64_t>(r), cptr<int64_t>(k), c.size(0), shape[1], shape[2], mptr<T>(out)},
        16);
    return out;
  });
}

// Where voxels lie on the map.
struct BevCells {
  const int32_t* coords;  // (N, 4) sample, z, y, x
  int64_t nz, ny, nx;
  ZOO_HD int64_t cell(int64_t row) const {
    const int32_t* at = coords + 4 * row;
    return ((at[0] * nz + at[1]) * ny + at[2]) * nx + at[3];
  }
};

struct EnterRow {
  BevCells cells;
  int32_t* row_of;  // (B nz ny nx,)
  ZOO_HD void operator()(int64_t i) const { row_of[cells.cell(i)] = static_cast<int32_t>(i) + 1; }
};

// Some channels of a stretch of cells: neighbouring threads of a GPU write neighbouring cells, a thread of the CPU
// writes long runs.
#if ZOO_CUDA
constexpr int64_t kScatterCells = 1;
#else
constexpr int64_t kScatterCells = 1024;
#endif

template <class T>
struct FillCells {
  const T* features;            // (N, C)
  const int32_t* row_of;        // 0: none, else row + 1
  int64_t channels, nz, plane;  // plane = ny nx
  T* out;                       // (B, C, nz, ny nx)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t blocks = (channels + kScatterChannels - 1) / kScatterChannels;
    const int64_t stretches = (plane + kScatterCells - 1) / kScatterCells;
    const int64_t begin = i % stretches * kScatterCells, rest = i / stretches, z = rest % nz;
    const int64_t end = begin + kScatterCells < plane ? begin + kScatterCells : plane;
    const int64_t first = rest / nz % blocks * kScatterChannels, batch = rest / nz / blocks;
    const int64_t last = first + kScatterChannels < channels ? first + kScatterChannels : channels;
    const int32_t* rows = row_of + (batch * nz + z) * plane;
    for (int64_t c = first; c < last; ++c) {
      T* to = out + ((batch * channels + c) * nz + z) * plane;
      for (int64_t at = begin; at < end; ++at) {
        to[at] = rows[at] == 0 ? T(0) : features[(static_cast<int64_t>(rows[at]) - 1) * channels + c];
      }
    }
  }
};

template <class T>
struct TakeCell {
  const T* grad;  // (B, C, nz, ny nx)
  BevCells cells;
  int64_t rows, channels;
  T* out;  // (N, C)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t row = i % rows, first = i / rows * kScatterChannels;
    const int64_t last = first + kScatterChannels < channels ? first + kScatterChannels : channels;
    const int64_t plane = cells.ny * cells.nx, volume = cells.nz * plane;
    const int64_t cell = cells.cell(row), batch = cell / volume, within = cell % volume;
    for (int64_t c = first; c < last; ++c) out[row * channels + c] = grad[(batch * channels + c) * volume + within];
  }
};

inline Tensor scatter_to_bev(const Tensor& features, const Tensor& coords, int64_t batch_size,
                             std::vector<int64_t> shape) {
  const Tensor x = packed(features), sites = packed(coords);
  STD_TORCH_CHECK(shape.size() == 3, "scatter_to_bev: expected the shape (nz, ny, nx)");
  const int64_t rows = x.size(0), channels = x.size(1), plane = shape[1] * shape[2];
  const int64_t blocks = (channels + kScatterChannels - 1) / kScatterChannels;
  Tensor row_of = zeros_on<int32_t>(x, {batch_size * shape[0] * plane});
  const BevCells cells{cptr<int32_t>(sites), shape[0], shape[1], shape[2]};
  launch(x, rows, EnterRow{cells, mptr<int32_t>(row_of)}, rows + 1);  // in order: of equal sites the last one stays
  return dispatch_floating(x.scalar_type(), "scatter_to_bev", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(x, {batch_size, channels * shape[0], shape[1], shape[2]});
    const int64_t stretches = (plane + kScatterCells - 1) / kScatterCells;
    launch(x, batch_size * blocks * shape[0] * stretches,
           FillCells<T>{cptr<T>(x), cptr<int32_t>(row_of), channels, shape[0], plane, mptr<T>(out)},
           4096 / kScatterCells);
    return out;
  });
}

inline Tensor scatter_to_bev_backward(const Tensor& grad, const Tensor& coords, std::vector<int64_t> shape) {
  const Tensor g = packed(grad), sites = packed(coords);
  STD_TORCH_CHECK(shape.size() == 3, "scatter_to_bev: expected the shape (nz, ny, nx)");
  const int64_t rows = sites.size(0), channels = g.size(1) / shape[0];
  const int64_t blocks = (channels + kScatterChannels - 1) / kScatterChannels;
  return dispatch_floating(g.scalar_type(), "scatter_to_bev_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(g, {rows, channels});
    const BevCells cells{cptr<int32_t>(sites), shape[0], shape[1], shape[2]};
    launch(g, rows * blocks, TakeCell<T>{cptr<T>(g), cells, rows, channels, mptr<T>(out)}, 1024);
    return out;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
