// The hash encoding point by point: functors for every dtype, dimension and interpolation. The CPU has a faster way for
// its usual cases (cpu/isa/hash_encoding.cpp); both are the arithmetic of kernels/hash_grid.h.
#pragma once

#include "kernels/hash_grid.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class T>
struct GridLevels {
  int count;
  GridLevel<T> level[kMaxGridLevels];
};

// From scales (L,) float64 and levels (L, 3 + D) int64 = first row, rows, hashed, multipliers: both on the CPU.
template <class T>
GridLevels<T> read_levels(const Tensor& scales, const Tensor& levels) {
  const Tensor packed_scales = packed(scales), packed_levels = packed(levels);
  const int64_t columns = packed_levels.size(1);
  GridLevels<T> result{};
  result.count = static_cast<int>(packed_levels.size(0));
  STD_TORCH_CHECK(result.count <= kMaxGridLevels, "hash_encode: found ", result.count, " levels, expected at most ",
                  kMaxGridLevels);
  for (int l = 0; l < result.count; ++l) {
    const int64_t* entry = cptr<int64_t>(packed_levels) + l * columns;
    GridLevel<T>& level = result.level[l];
    level.scale = static_cast<T>(cptr<double>(packed_scales)[l]);
    level.first = entry[0];
    level.rows = static_cast<uint32_t>(entry[1]);
    level.hashed = entry[2] != 0;
    for (int d = 0; d + 3 < columns; ++d) level.multipliers[d] = static_cast<uint32_t>(entry[3 + d]);
  }
  return result;
}

inline GridSettings grid_settings(double shift, int64_t interpolation, bool bounded, bool ceil_corners) {
  return GridSettings{static_cast<int>(interpolation), bounded, ceil_corners, shift};
}

template <int D, class T>
ZOO_HD void place_point(const T* x, const GridLevel<T>& level, const GridSettings& settings, GridAxis<T> (&axes)[D]) {
  for (int d = 0; d < D; ++d) {
    axes[d] = place_on_axis(x[d], level.scale, static_cast<T>(settings.shift), level.multipliers[d],
                            settings.interpolation, settings.ceil_corners);
  }
}

// Call i handles point i % n on level i / n. kFeatures = 0: F is only known at run time.
template <class T, int D, int kFeatures>
struct HashEncode {
  GridLevels<T> levels;
  GridSettings settings;
  int64_t n;
  int features;
  const T* x;      // (N, D)
  const T* table;  // (rows, F)
  T* output;       // (N, L F)

  ZOO_HD void operator()(int64_t i) const {
    const int num_features = kFeatures > 0 ? kFeatures : features;
    const int64_t point = i % n, l = i / n;
    const GridLevel<T>& level = levels.level[l];
    T sum[8] = {};
    if (!settings.bounded || inside_unit_cube<D>(x + point * D)) {
      GridAxis<T> axes[D];
      place_point<D>(x + point * D, level, settings, axes);
      const bool nearest = settings.interpolation == kNearest;
      for (int c = 0; c < (nearest ? 1 : 1 << D); ++c) {
        const T weight = nearest ? T(1) : corner_weight<D>(axes, c);
        const T* row = table + (level.first + corner_index<D>(axes, c, level.hashed) % level.rows) * num_features;
        for (int f = 0; f < num_features; ++f) sum[f] += weight * row[f];
      }
    }
    T* out = output + (point * levels.count + l) * num_features;
    for (int f = 0; f < num_features; ++f) out[f] = sum[f];
  }
};

// Call i adds what point i % n contributes on level i / n; Add is how two calls may meet at one row.
template <class T, int D, int kFeatures, class Add>
struct HashTableGrad {
  GridLevels<T> levels;
  GridSettings settings;
  int64_t n;
  int features;
  const T* x;
  const T* grad;  // (N, L F)
  T* grad_table;  // (rows, F)

  ZOO_HD void operator()(int64_t i) const {
    const int num_features = kFeatures > 0 ? kFeatures : features;
    const int64_t point = i % n, l = i / n;
    const GridLevel<T>& level = levels.level[l];
    if (settings.bounded && !inside_unit_cube<D>(x + point * D)) return;
    GridAxis<T> axes[D];
    place_point<D>(x + point * D, level, settings, axes);
    const T* g = grad + (point * levels.count + l) * num_features;
    const bool nearest = settings.interpolation == kNearest;
    for (int c = 0; c < (nearest ? 1 : 1 << D); ++c) {
      const T weight = nearest ? T(1) : corner_weight<D>(axes, c);
      T* row = grad_table + (level.first + corner_index<D>(axes, c, level.hashed) % level.rows) * num_features;
      for (int f = 0; f < num_features; ++f) Add::add(row + f, weight * g[f]);
    }
  }
};

// Call i handles point i on all levels.
template <class T, int D, int kFeatures>
struct HashInputGrad {
  GridLevels<T> levels;
  GridSettings settings;
  int features;
  const T* x;
  const T* table;
  const T* grad;
  T* grad_x;  // (N, D)

  ZOO_HD void operator()(int64_t i) const {
    const int num_features = kFeatures > 0 ? kFeatures : features;
    T total[D] = {};
    const bool counts = settings.interpolation != kNearest && (!settings.bounded || inside_unit_cube<D>(x + i * D));
    for (int l = 0; counts && l < levels.count; ++l) {
      const GridLevel<T>& level = levels.level[l];
      GridAxis<T> axes[D];
      place_point<D>(x + i * D, level, settings, axes);
      const T* g = grad + (i * levels.count + l) * num_features;
      T projection[1 << D];
      for (int c = 0; c < 1 << D; ++c) {
        const T* row = table + (level.first + corner_index<D>(axes, c, level.hashed) % level.rows) * num_features;
        T sum = 0;
        for (int f = 0; f < num_features; ++f) sum += row[f] * g[f];
        projection[c] = sum;
      }
      for (int d = 0; d < D; ++d) {
        T sum = 0;
        for (int c = 0; c < 1 << D; ++c) {
          if (!(c >> d & 1)) sum += corner_weight<D>(axes, c, d) * (projection[c | 1 << d] - projection[c]);
        }
        total[d] += axes[d].slope * sum;
      }
    }
    for (int d = 0; d < D; ++d) grad_x[i * D + d] = total[d];
  }
};

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// Calls f with D as a compile-time constant.
template <class F>
auto dispatch_grid_dims(int64_t dims, F&& f) {
  switch (dims) {
    case 2:
      return f(Constant<2>{});
    case 3:
      return f(Constant<3>{});
    case 4:
      return f(Constant<4>{});
    default:
      STD_TORCH_CHECK(false, "hash_encode: found ", dims, " dimensions, expected 2, 3 or 4");
      return f(Constant<2>{});
  }
}

}  // namespace ZOO_TARGET
}  // namespace zoo
