// Block kernels of the hash encoding. Points go through in groups of kGroup: a vectorised pass finds the rows and
// weights of a group's corners and prefetches the rows, while the group before it, whose rows have arrived by now, is
// interpolated. 32 points touch about 150 cache lines; two such groups fit the first-level cache.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize( \
    "no-trapping-math")  // floating-point exceptions are never read; without this no loop is vectorised
#endif

#include "cpu/isa/hash_encoding.h"

namespace zoo::ZOO_ISA {
namespace {

constexpr int kGroup = 32;
constexpr int kBlock = 2048;                 // points that pass through all levels together
constexpr int64_t kCachedBytes = 32 * 1024;  // levels up to this size need no prefetching
constexpr int kMaxDims = 3;
constexpr int kMaxCorners = 1 << kMaxDims;

template <int kFeatures>
struct RowOf {
  typedef float type __attribute__((vector_size(sizeof(float) * kFeatures), aligned(alignof(float)), may_alias));
};
template <>
struct RowOf<1> {
  using type = float;
};
template <int kFeatures>
using Row = typename RowOf<kFeatures>::type;

struct Group {
  uint32_t row[kMaxCorners][kGroup];
  float weight[kMaxCorners][kGroup];
};

// Rows and weights of the corners of kGroup points, whose axis d is x[d * stride + i].
using Locate = void (*)(const float* x, int64_t stride, const GridLevel<float>& level, const GridSettings& settings,
                        Group& group);

template <int D, int kInterpolation, bool kHashed>
void locate(const float* x, int64_t stride, const GridLevel<float>& level, const GridSettings& settings, Group& group) {
  const float scale = level.scale, shift = static_cast<float>(settings.shift);
  const uint32_t rows = level.rows;
  const bool is_power = (rows & (rows - 1)) == 0;
  const uint32_t mask = kHashed && is_power ? rows - 1 : ~0u;
  const bool unbounded = !settings.bounded, ceil_corners = settings.ceil_corners;
  uint32_t multipliers[D];
  for (int d = 0; d < D; ++d) multipliers[d] = level.multipliers[d];
  uint32_t overflow = 0;
#pragma GCC ivdep
  for (int i = 0; i < kGroup; ++i) {
    GridAxis<float> axes[D];
    bool inside = true;
#pragma GCC unroll 3
    for (int d = 0; d < D; ++d) {
      const float coordinate = x[d * stride + i];
      axes[d] = place_on_axis(coordinate, scale, shift, multipliers[d], kInterpolation, ceil_corners);
      inside = inside & (coordinate >= 0.0f) & (coordinate <= 1.0f);
    }
    const bool counts = unbounded | inside;
#pragma GCC unroll 8
    for (int c = 0; c < 1 << D; ++c) {
      const uint32_t index = corner_index<D>(axes, c, kHashed) & mask;
      overflow |= index >= rows;
      group.row[c][i] = index;
      const float weight = corner_weight<D>(axes, c);
      group.weight[c][i] = counts ? weight : 0.0f;
    }
  }
  if (overflow != 0) {
    for (int c = 0; c < 1 << D; ++c) {
      for (int i = 0; i < kGroup; ++i) group.row[c][i] %= rows;
    }
  }
}

template <int kCorners>
void prefetch(const float* table, int features, const Group& group) {
  for (int i = 0; i < kGroup; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kCorners; ++c) __builtin_prefetch(table + int64_t{group.row[c][i]} * features);
  }
}

// output[i * stride + f] = sum over the corners of weight times row.
using Interpolate = void (*)(const float* table, const Group& group, int count, float* output, int64_t stride);

template <int kFeatures, int kCorners>
void interpolate(const float* table, const Group& group, int count, float* output, int64_t stride) {
  using Features = Row<kFeatures>;
  for (int i = 0; i < count; ++i) {
    Features sum{};
#pragma GCC unroll 8
    for (int c = 0; c < kCorners; ++c) {
      sum += group.weight[c][i] * *reinterpret_cast<const Features*>(table + int64_t{group.row[c][i]} * kFeatures);
    }
    *reinterpret_cast<Features*>(output + i * stride) = sum;
  }
}

// Adds to the rows in [begin, end) of a level what `count` points contribute to them, point by point.
using Scatter = void (*)(float* level, const Group& group, int count, const float* grad, uint32_t begin, uint32_t end);

template <int kFeatures, int kCorners, bool kWhole>
void scatter(float* level, const Group& group, int count, const float* grad, uint32_t begin, uint32_t end) {
  using Features = Row<kFeatures>;
  for (int i = 0; i < count; ++i) {
    const Features g = *reinterpret_cast<const Features*>(grad + i * kFeatures);
#pragma GCC unroll 8
    for (int c = 0; c < kCorners; ++c) {
      const uint32_t row = group.row[c][i];
      if (!kWhole && (row < begin || row >= end)) continue;
      *reinterpret_cast<Features*>(level + int64_t{row} * kFeatures) += group.weight[c][i] * g;
    }
  }
}

// weight[c] becomes the inner product of the row at corner c and the output gradient.
using Project = void (*)(const float* table, Group& group, int count, const float* grad, int64_t stride);

template <int kFeatures, int kCorners>
void project(const float* table, Group& group, int count, const float* grad, int64_t stride) {
  for (int i = 0; i < count; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kCorners; ++c) {
      const float* row = table + int64_t{group.row[c][i]} * kFeatures;
      float sum = 0;
      for (int f = 0; f < kFeatures; ++f) sum += row[f] * grad[i * stride + f];
      group.weight[c][i] = sum;
    }
  }
}

// Adds to sums[d * stride + i] the gradient that one level passes down, from the projections of the corners.
using Differentiate = void (*)(const float* x, int64_t stride, const GridLevel<float>& level,
                               const GridSettings& settings, const Group& group, float* sums);

template <int D, int kInterpolation>
void differentiate(const float* x, int64_t stride, const GridLevel<float>& level, const GridSettings& settings,
                   const Group& group, float* sums) {
  const float scale = level.scale, shift = static_cast<float>(settings.shift);
  const bool unbounded = !settings.bounded;
#pragma GCC ivdep
  for (int i = 0; i < kGroup; ++i) {
    GridAxis<float> axes[D];
    bool inside = true;
#pragma GCC unroll 3
    for (int d = 0; d < D; ++d) {
      const float coordinate = x[d * stride + i];
      axes[d] = place_on_axis(coordinate, scale, shift, 1u, kInterpolation, false);
      inside = inside & (coordinate >= 0.0f) & (coordinate <= 1.0f);
    }
    const bool counts = unbounded | inside;
#pragma GCC unroll 3
    for (int d = 0; d < D; ++d) {
      float sum = 0;
#pragma GCC unroll 8
      for (int c = 0; c < 1 << D; ++c) {
        if (c >> d & 1) continue;
        sum += corner_weight<D>(axes, c, d) * (group.weight[c | 1 << d][i] - group.weight[c][i]);
      }
      sums[d * stride + i] += counts ? axes[d].slope * sum : 0.0f;
    }
  }
}

// The kernels for a number of axes D and a number of features F.
template <int D>
Locate choose_locate(const GridSettings& settings, bool hashed) {
  if (settings.interpolation == kLinear) return hashed ? &locate<D, kLinear, true> : &locate<D, kLinear, false>;
  return hashed ? &locate<D, kSmoothstep, true> : &locate<D, kSmoothstep, false>;
}

#define ZOO_CHOOSE_FEATURES(function, features, ...) \
  ((features) == 1   ? &function<1, __VA_ARGS__>     \
   : (features) == 2 ? &function<2, __VA_ARGS__>     \
   : (features) == 4 ? &function<4, __VA_ARGS__>     \
                     : &function<8, __VA_ARGS__>)

struct Kernels {
  Locate locate_dense, locate_hashed;
  void (*prefetch)(const float* table, int features, const Group& group);
  Interpolate interpolate;
  Scatter scatter_whole, scatter_part;
  Project project;
  Differentiate differentiate;

  explicit Kernels(const GridJob& job) {
    if (job.num_dims == 2) {
      choose<2>(job);
    } else {
      choose<3>(job);
    }
  }

 private:
  template <int D>
  void choose(const GridJob& job) {
    constexpr int kCorners = 1 << D;
    locate_dense = choose_locate<D>(job.settings, false);
    locate_hashed = choose_locate<D>(job.settings, true);
    prefetch = &ZOO_ISA::prefetch<kCorners>;
    interpolate = ZOO_CHOOSE_FEATURES(ZOO_ISA::interpolate, job.num_features, kCorners);
    scatter_whole = ZOO_CHOOSE_FEATURES(ZOO_ISA::scatter, job.num_features, kCorners, true);
    scatter_part = ZOO_CHOOSE_FEATURES(ZOO_ISA::scatter, job.num_features, kCorners, false);
    project = ZOO_CHOOSE_FEATURES(ZOO_ISA::project, job.num_features, kCorners);
    differentiate = job.settings.interpolation == kLinear ? &ZOO_ISA::differentiate<D, kLinear>
                                                          : &ZOO_ISA::differentiate<D, kSmoothstep>;
  }
};

// Points of a block, axis by axis; the last group is filled up with copies of the origin.
void transpose_block(const float* x, int count, int dims, float* columns) {
  const int padded = (count + kGroup - 1) / kGroup * kGroup;
  for (int d = 0; d < dims; ++d) {
    for (int i = 0; i < count; ++i) columns[d * kBlock + i] = x[i * dims + d];
    for (int i = count; i < padded; ++i) columns[d * kBlock + i] = 0.0f;
  }
}

// Takes the points of a block through levels: visit(level, its table, group, first point, number of points).
template <class Visit>
void visit_block(const GridJob& job, const Kernels& kernels, int first_level, int last_level, const float* columns,
                 int count, Visit&& visit) {
  Group groups[2];
  const int num_groups = (count + kGroup - 1) / kGroup;
  for (int l = first_level; l < last_level; ++l) {
    const GridLevel<float>& level = job.levels[l];
    const float* table = job.table + level.first * job.num_features;
    const Locate locate = level.hashed ? kernels.locate_hashed : kernels.locate_dense;
    const bool is_large = int64_t{level.rows} * job.num_features * 4 > kCachedBytes;
    for (int g = 0; g <= num_groups; ++g) {
      if (g < num_groups) {
        locate(columns + g * kGroup, kBlock, level, job.settings, groups[g & 1]);
        if (is_large) kernels.prefetch(table, job.num_features, groups[g & 1]);
      }
      if (g > 0) {
        const int first = (g - 1) * kGroup;
        visit(l, table, groups[(g - 1) & 1], first, count - first < kGroup ? count - first : kGroup);
      }
    }
  }
}

}  // namespace

void hash_encode_level(const GridJob& job, int l, int64_t begin, int64_t end, float* output) {
  const Kernels kernels(job);
  float columns[kMaxDims * kBlock];
  for (int64_t start = begin; start < end; start += kBlock) {
    const int count = static_cast<int>(end - start < kBlock ? end - start : kBlock);
    transpose_block(job.x + start * job.num_dims, count, job.num_dims, columns);
    visit_block(job, kernels, l, l + 1, columns, count,
                [&](int, const float* table, Group& group, int first, int points) {
                  float* target = output + (start + first) * job.num_features;
                  kernels.interpolate(table, group, points, target, job.num_features);
                });
  }
}

void hash_encode_points(const GridJob& job, int num_levels, int64_t begin, int64_t end, float* output) {
  const Kernels kernels(job);
  float columns[kMaxDims * kBlock];
  const int64_t width = int64_t{job.num_levels} * job.num_features;
  for (int64_t start = begin; start < end; start += kBlock) {
    const int count = static_cast<int>(end - start < kBlock ? end - start : kBlock);
    transpose_block(job.x + start * job.num_dims, count, job.num_dims, columns);
    visit_block(job, kernels, 0, num_levels, columns, count,
                [&](int l, const float* table, Group& group, int first, int points) {
                  float* target = output + (start + first) * width + l * job.num_features;
                  kernels.interpolate(table, group, points, target, width);
                });
  }
}

void hash_encode_points_grad(const GridJob& job, int64_t begin, int64_t end, float* grad_x) {
  const Kernels kernels(job);
  float columns[kMaxDims * kBlock], sums[kMaxDims * kBlock];
  const int64_t width = int64_t{job.num_levels} * job.num_features;
  for (int64_t start = begin; start < end; start += kBlock) {
    const int count = static_cast<int>(end - start < kBlock ? end - start : kBlock);
    transpose_block(job.x + start * job.num_dims, count, job.num_dims, columns);
    for (float& sum : sums) sum = 0;
    visit_block(job, kernels, 0, job.num_levels, columns, count,
                [&](int l, const float* table, Group& group, int first, int points) {
                  kernels.project(table, group, points, job.grad + (start + first) * width + l * job.num_features,
                                  width);
                  kernels.differentiate(columns + first, kBlock, job.levels[l], job.settings, group, sums + first);
                });
    for (int i = 0; i < count; ++i) {
      for (int d = 0; d < job.num_dims; ++d) grad_x[(start + i) * job.num_dims + d] = sums[d * kBlock + i];
    }
  }
}

void hash_encode_level_grad(const GridJob& job, int l, const GridColumns& columns, uint32_t begin, uint32_t end,
                            float* grad) {
  const Kernels kernels(job);
  const GridLevel<float>& level = job.levels[l];
  const Locate locate = level.hashed ? kernels.locate_hashed : kernels.locate_dense;
  const Scatter scatter = begin == 0 && end == level.rows ? kernels.scatter_whole : kernels.scatter_part;
  Group group;
  float tail[kMaxDims * kGroup];
  for (int64_t first = 0; first < columns.count; first += kGroup) {
    const int points = static_cast<int>(columns.count - first < kGroup ? columns.count - first : kGroup);
    const float* x = columns.x + first;
    int64_t stride = columns.stride;
    if (points < kGroup) {
      for (int d = 0; d < job.num_dims; ++d) {
        for (int i = 0; i < kGroup; ++i) tail[d * kGroup + i] = i < points ? x[d * stride + i] : 0.0f;
      }
      x = tail;
      stride = kGroup;
    }
    locate(x, stride, level, job.settings, group);
    scatter(grad + level.first * job.num_features, group, points, columns.grad + first * job.num_features, begin, end);
  }
}

}  // namespace zoo::ZOO_ISA
