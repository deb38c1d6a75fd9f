// Geometry of kernel maps: which input cell a kernel offset reads for an output cell, and linear keys of cells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/target.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kMaxAxes = 3;

// Relation in = out * stride - padding + k * dilation on each axis. Fewer than three axes are filled up with axes of
// extent 1 between the first and the last one: both ends keep their meaning (outermost slab, fastest axis).
struct ConvGeometry {
  int64_t in_shape[kMaxAxes], out_shape[kMaxAxes];
  int64_t kernel[kMaxAxes], stride[kMaxAxes], padding[kMaxAxes], dilation[kMaxAxes];
  int columns;              // of a coordinate row: 1 + number of real axes
  int column_of[kMaxAxes];  // coordinate column of an axis, 0 for a filled-up axis

  // The coordinates of row `i`: batch index and three axes.
  ZOO_HD void read(const int32_t* coords, int64_t i, int64_t& batch, int64_t site[kMaxAxes]) const {
    const int32_t* row = coords + i * columns;
    batch = row[0];
    for (int a = 0; a < kMaxAxes; ++a) site[a] = column_of[a] == 0 ? 0 : row[column_of[a]];
  }
  ZOO_HD int64_t in_key(int64_t batch, const int64_t site[kMaxAxes]) const {
    return ((batch * in_shape[0] + site[0]) * in_shape[1] + site[1]) * in_shape[2] + site[2];
  }
  ZOO_HD int64_t volume() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// False where the lists do not belong to coordinates of 1 to 3 axes.
inline bool make_geometry(int64_t columns, const std::vector<int64_t>& in_shape, const std::vector<int64_t>& out_shape,
                          const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                          const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                          ConvGeometry& geometry) {
  const size_t axes = in_shape.size();
  if (axes < 1 || axes > kMaxAxes || columns != static_cast<int64_t>(axes) + 1) return false;
  for (const auto* list : {&out_shape, &kernel, &stride, &padding, &dilation}) {
    if (list->size() != axes) return false;
  }
  geometry.columns = static_cast<int>(columns);
  for (int a = 0; a < kMaxAxes; ++a) {
    int source = a;  // 3 axes: 0 1 2; 2 axes: 0 - 1; 1 axis: - - 0
    if (axes == 2) source = a == 0 ? 0 : a == 2 ? 1 : -1;
    if (axes == 1) source = a == 2 ? 0 : -1;
    const bool real = source >= 0;
    geometry.column_of[a] = source + 1;
    geometry.in_shape[a] = real ? in_shape[source] : 1;
    geometry.out_shape[a] = real ? out_shape[source] : 1;
    geometry.kernel[a] = real ? kernel[source] : 1;
    geometry.stride[a] = real ? stride[source] : 1;
    geometry.padding[a] = real ? padding[source] : 0;
    geometry.dilation[a] = real ? dilation[source] : 1;
  }
  return true;
}

}  // namespace ZOO_TARGET
}  // namespace zoo
