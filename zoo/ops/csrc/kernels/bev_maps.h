// Dense maps seen from above: Gaussian peaks drawn by maximum, and voxel features at their cells. Every value is
// written by one thread.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

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

// A GPU thread moves one number, so that neighbours write neighbours; a CPU thread moves the whole row of a cell.
struct RowPart {
  int64_t row, first, last;
  ZOO_HD RowPart(int64_t i, int64_t columns)
      : row(ZOO_CUDA ? i / columns : i), first(ZOO_CUDA ? i % columns : 0), last(ZOO_CUDA ? first + 1 : columns) {}
};
inline int64_t row_parts(int64_t rows, int64_t columns) {
  return ZOO_CUDA ? rows * columns : rows;
}

template <class T>
struct FillCells {
  const T* features;            // (N, C)
  const int32_t* row_of;        // (B, nz, ny nx), 0: none, else row + 1
  int64_t channels, nz, plane;  // plane = ny nx
  T* out;                       // (B, ny nx, C nz)

  ZOO_HD void operator()(int64_t i) const {
    const RowPart part(i, channels * nz);
    const int32_t* rows = row_of + part.row / plane * nz * plane + part.row % plane;
    T* to = out + part.row * channels * nz;
    if (nz == 1) {
      const int64_t row = rows[0];
      if (row == 0) {
        for (int64_t c = part.first; c < part.last; ++c) to[c] = T(0);
      } else {
        const T* from = features + (row - 1) * channels;
        for (int64_t c = part.first; c < part.last; ++c) to[c] = from[c];
      }
      return;
    }
    for (int64_t c = part.first; c < part.last; ++c) {
      const int64_t row = rows[c % nz * plane];
      to[c] = row == 0 ? T(0) : features[(row - 1) * channels + c / nz];
    }
  }
};

template <class T>
struct TakeCell {
  const T* grad;  // (B, ny nx, C nz)
  BevCells cells;
  int64_t channels;
  T* out;  // (N, C)

  ZOO_HD void operator()(int64_t i) const {
    const RowPart part(i, channels);
    const int32_t* at = cells.coords + 4 * part.row;
    const int64_t cell = (static_cast<int64_t>(at[0]) * cells.ny + at[2]) * cells.nx + at[3];
    const T* from = grad + cell * channels * cells.nz + at[1];
    for (int64_t c = part.first; c < part.last; ++c) out[part.row * channels + c] = from[c * cells.nz];
  }
};

// Calls f(T{}) with an unsigned type as wide as the dtype: values are moved, not computed with.
template <class F>
Tensor dispatch_width(ScalarType dtype, const char* op, F&& f) {
  switch (dtype) {
    case ScalarType::BFloat16:
    case ScalarType::Half:
      return f(uint16_t{});
    case ScalarType::Float:
      return f(uint32_t{});
    case ScalarType::Double:
      return f(uint64_t{});
    default:
      STD_TORCH_CHECK(false, op, ": found a dtype that is none of bfloat16, float16, float32 and float64");
      return f(uint32_t{});
  }
}

inline Tensor scatter_to_bev(const Tensor& features, const Tensor& coords, int64_t batch_size,
                             std::vector<int64_t> shape) {
  const Tensor x = packed(features), sites = packed(coords);
  STD_TORCH_CHECK(shape.size() == 3, "scatter_to_bev: expected the shape (nz, ny, nx)");
  const int64_t rows = x.size(0), channels = x.size(1), plane = shape[1] * shape[2];
  Tensor row_of = zeros_on<int32_t>(x, {batch_size * shape[0] * plane});
  const BevCells cells{cptr<int32_t>(sites), shape[0], shape[1], shape[2]};
  launch(x, rows, EnterRow{cells, mptr<int32_t>(row_of)}, rows + 1);  // in order: of equal sites the last one stays
  return dispatch_width(x.scalar_type(), "scatter_to_bev", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = torch::stable::new_empty(
        x, std::vector<int64_t>{batch_size, shape[1], shape[2], channels * shape[0]}, x.scalar_type());
#if !ZOO_CUDA
    prefer_huge_pages(out.mutable_data_ptr(), static_cast<size_t>(out.numel()) * sizeof(T));
#endif
    launch(x, row_parts(batch_size * plane, channels * shape[0]),
           FillCells<T>{cptr<T>(x), cptr<int32_t>(row_of), channels, shape[0], plane, mptr<T>(out)}, 64);
    return out;
  });
}

inline Tensor scatter_to_bev_backward(const Tensor& grad, const Tensor& coords, std::vector<int64_t> shape) {
  const Tensor g = packed(grad), sites = packed(coords);
  STD_TORCH_CHECK(shape.size() == 3, "scatter_to_bev: expected the shape (nz, ny, nx)");
  const int64_t rows = sites.size(0), channels = g.size(3) / shape[0];
  return dispatch_width(g.scalar_type(), "scatter_to_bev_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = torch::stable::new_empty(g, std::vector<int64_t>{rows, channels}, g.scalar_type());
    const BevCells cells{cptr<int32_t>(sites), shape[0], shape[1], shape[2]};
    launch(g, row_parts(rows, channels), TakeCell<T>{cptr<T>(g), cells, channels, mptr<T>(out)}, 256);
    return out;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
