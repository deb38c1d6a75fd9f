// Rays through nested occupancy grids: which intervals of a ray lie in occupied cells.
//
// Level l is a box of resolution cells; each box contains the one before. The innermost box that contains a point
// decides. A walker visits the cells of a ray in order; a stepper turns each cell into samples:
//   lattice  cone angle 0: intervals [near + k step, near + (k + 1) step], taken where the midpoint is in an occupied
//   cell cone     steps max(t cone_angle, step), frozen while an empty cell is crossed cell     step <= 0: one interval
//   for each occupied cell
// Every sample is visited twice, once to count and once to fill, by the same code.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/ray_boxes.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kMaxGridLevels = 8;

template <class T>
struct GridStack {
  const bool* binaries;  // (levels, rx, ry, rz)
  const T* aabbs;        // (levels, 6)
  int levels;
  int resolution[3];
};

// Number of the first lattice interval, not before k, whose midpoint reaches t.
template <class T>
ZOO_HD int64_t lattice_ceil(int64_t k, T t, T near, T inverse_step) {
  const T exact = std::ceil((t - near) * inverse_step - T(0.5));
  return exact > static_cast<T>(k) ? static_cast<int64_t>(lesser(exact, T(4e18))) : k;
}

template <class T>
struct LatticeStepper {
  static constexpr bool kMergesCells = true;  // a run of like cells gives what its cells give one by one
  T near, step, inverse_step;
  int64_t k = 0;

  ZOO_HD T last() const { return near + static_cast<T>(k) * step; }
  ZOO_HD void skip(T exit) { k = lattice_ceil(k, exit, near, inverse_step); }
  template <class Sink>
  ZOO_HD void sample(T exit, Sink& sink) {
    const int64_t end = lattice_ceil(k, exit, near, inverse_step);
    const int64_t taken = lesser(end - k, sink.room());
    sink.run(near, step, k, taken);
    k += taken;
  }
  ZOO_HD bool stuck() const { return false; }
};

template <class T>
struct ConeStepper {
  static constexpr bool kMergesCells = false;
  T t, step, cone;
  bool lost = false;

  ZOO_HD T last() const { return t; }
  ZOO_HD bool stuck() const { return lost; }  // the step is below the precision of t
  ZOO_HD T width() const { return lesser(greater(t * cone, step), T(1e10)); }
  ZOO_HD void skip(T exit) {
    const T dt = width();
    const T steps = std::ceil((exit - t) / dt - T(0.5));
    if (steps > 0) t += steps * dt;
  }
  template <class Sink>
  ZOO_HD void sample(T exit, Sink& sink) {
    while (sink.room() > 0) {
      const T dt = width();
      if (t + dt * T(0.5) >= exit) return;
      const T next = t + dt;
      if (next == t) {
        lost = true;
        return;
      }
      sink.one(t, next);
      t = next;
    }
  }
};

template <class T>
struct CellStepper {
  static constexpr bool kMergesCells = false;
  T t;

  ZOO_HD T last() const { return t; }
  ZOO_HD bool stuck() const { return false; }
  ZOO_HD void skip(T exit) { t = exit; }
  template <class Sink>
  ZOO_HD void sample(T exit, Sink& sink) {
    if (exit > t) sink.one(t, exit);
    t = exit;
  }
};

// One axis of the walk through a level's cells.
template <class T>
struct WalkAxis {
  T exit;       // t at which the ray leaves its present slab of cells
  T next_exit;  // the same for the slab after it, kept ready
  T plane, direction, voxel, low, origin, inverse;
  int slabs_left;
  int64_t stride;

  ZOO_HD T exit_at(T index) const { return (low + index * voxel - origin) * inverse; }

  // Starts in the cell around `at`; returns the cell's index.
  ZOO_HD int start(T at, T box_low, T box_high, int resolution, T o, T d, int64_t cell_stride) {
    low = box_low;
    origin = o;
    voxel = (box_high - box_low) / static_cast<T>(resolution);
    inverse = 1 / d;
    const T cell_at = (at - box_low) / voxel;
    const int cell = cell_at > 0 ? static_cast<int>(lesser(cell_at, static_cast<T>(resolution - 1))) : 0;
    direction = d > 0 ? T(1) : T(-1);
    slabs_left = d > 0 ? resolution - 1 - cell : cell;
    stride = d > 0 ? cell_stride : -cell_stride;
    plane = static_cast<T>(d > 0 ? cell + 1 : cell);
    if (d == 0) {
      exit = next_exit = std::numeric_limits<T>::infinity();
    } else {
      exit = exit_at(plane);
      plane += direction;
      next_exit = exit_at(plane);
    }
    return cell;
  }

  ZOO_HD void advance() {
    exit = next_exit;
    plane += direction;
    next_exit = exit_at(plane);
    --slabs_left;
  }
};

// Visits the cells of one level between t_begin and t_end.
template <class T, class Stepper, class Sink>
ZOO_HD void march_segment(const T* origin, const T* direction, T t_begin, T t_end, const GridStack<T>& grid, int level,
                          Stepper& stepper, Sink& sink) {
  const T* box = grid.aabbs + 6 * level;
  // The starting cell is looked up a little inside, so that a start on a face falls into the cell ahead.
  const T inside = t_begin + 16 * std::numeric_limits<T>::epsilon() * (1 + std::fabs(t_begin));
  const int64_t stride_y = grid.resolution[2], stride_x = grid.resolution[1] * stride_y;
  WalkAxis<T> x, y, z;
  int64_t index = level * grid.resolution[0] * stride_x;
  index += stride_x * x.start(origin[0] + direction[0] * inside, box[0], box[3], grid.resolution[0], origin[0],
                              direction[0], stride_x);
  index += stride_y * y.start(origin[1] + direction[1] * inside, box[1], box[4], grid.resolution[1], origin[1],
                              direction[1], stride_y);
  index += z.start(origin[2] + direction[2] * inside, box[2], box[5], grid.resolution[2], origin[2], direction[2], 1);
  bool taking = false;  // whether the cells since the last turn are occupied
  T exit = t_begin;
  while (true) {
    const bool occupied = grid.binaries[index];
    if (!Stepper::kMergesCells || occupied != taking) {
      if (taking) {
        stepper.sample(exit, sink);
        if (sink.room() <= 0 || stepper.stuck()) return;
      } else {
        stepper.skip(exit);
      }
      taking = occupied;
    }
    bool left;
    if (x.exit < y.exit && x.exit < z.exit) {
      exit = x.exit;
      x.advance();
      index += x.stride;
      left = x.slabs_left < 0;
    } else if (y.exit < z.exit) {
      exit = y.exit;
      y.advance();
      index += y.stride;
      left = y.slabs_left < 0;
    } else {
      exit = z.exit;
      z.advance();
      index += z.stride;
      left = z.slabs_left < 0;
    }
    if (!(exit < t_end) || left) break;
  }
  exit = lesser(exit, t_end);
  if (taking) {
    stepper.sample(exit, sink);
  } else {
    stepper.skip(exit);
  }
}

// Visits all segments of one ray: into the boxes from the outermost, through the innermost one hit, and out again.
template <class T, class Stepper, class Sink>
ZOO_HD void march_ray(const T* origin, const T* direction, T near, T far, const GridStack<T>& grid, Stepper& stepper,
                      Sink& sink) {
  Crossing<T> crossings[kMaxGridLevels];
  for (int l = 0; l < grid.levels; ++l) crossings[l] = cross_box(origin, direction, grid.aabbs + 6 * l);
  for (int s = 1 - grid.levels; s < grid.levels; ++s) {
    const int level = s < 0 ? -s : s;
    if (!crossings[level].hit) continue;
    const bool inner_hit = level > 0 && crossings[level - 1].hit;
    if (s > 0 && !inner_hit) continue;  // passed as a whole on the way in
    T begin = crossings[level].enter, end = crossings[level].leave;
    if (s < 0 && inner_hit) end = crossings[level - 1].enter;
    if (s > 0) begin = crossings[level - 1].leave;
    begin = greater(begin, near);
    end = lesser(end, far);
    if (!(begin < end)) continue;
    stepper.skip(begin);
    march_segment(origin, direction, begin, end, grid, level, stepper, sink);
    if (sink.room() <= 0 || stepper.stuck()) return;
  }
}

template <class T>
struct CountSink {
  int64_t limit;
  int64_t count = 0;

  ZOO_HD int64_t room() const { return limit - count; }
  ZOO_HD void run(T, T, int64_t, int64_t taken) { count += taken; }
  ZOO_HD void one(T, T) { ++count; }
};

template <class T>
struct FillSink {
  T* t_starts;
  T* t_ends;
  int64_t limit;
  int64_t capacity;  // what the counting pass found: nothing is written beyond it
  int64_t count = 0;

  ZOO_HD int64_t room() const { return limit - count; }
  ZOO_HD void run(T near, T step, int64_t k, int64_t taken) {
    const int64_t end = lesser(count + taken, capacity);
    for (int64_t i = count; i < end; ++i) {
      t_starts[i] = near + static_cast<T>(k + i - count) * step;
      t_ends[i] = near + static_cast<T>(k + i - count + 1) * step;
    }
    count += taken;
  }
  ZOO_HD void one(T t0, T t1) {
    if (count < capacity) {
      t_starts[count] = t0;
      t_ends[count] = t1;
    }
    ++count;
  }
};

template <class T>
struct March {
  const T* origins;      // (N, 3)
  const T* directions;   // (N, 3)
  const T* near_planes;  // (N,)
  const T* far_planes;   // (N,)
  GridStack<T> grid;
  T step, cone;
  int64_t limit;

  // Returns where the march of one ray ended.
  template <class Sink>
  ZOO_HD T walk(int64_t ray, Sink& sink) const {
    const T* o = origins + 3 * ray;
    const T* d = directions + 3 * ray;
    const T near = near_planes[ray], far = far_planes[ray];
    if (!(std::fabs(near) < std::numeric_limits<T>::max())) return near;
    if (step <= 0) {
      CellStepper<T> stepper{near};
      march_ray(o, d, near, far, grid, stepper, sink);
      return stepper.last();
    }
    if (cone > 0) {
      ConeStepper<T> stepper{near, step, cone};
      march_ray(o, d, near, far, grid, stepper, sink);
      return stepper.last();
    }
    LatticeStepper<T> stepper{near, step, 1 / step};
    march_ray(o, d, near, far, grid, stepper, sink);
    return stepper.last();
  }
};

template <class T>
struct MarchCount {
  March<T> march;
  int64_t* counts;  // (N,)

  ZOO_HD void operator()(int64_t ray) const {
    CountSink<T> sink{march.limit};
    march.walk(ray, sink);
    counts[ray] = sink.count;
  }
};

template <class T>
struct MarchFill {
  March<T> march;
  const int64_t* packed_info;  // (N, 2)
  int64_t total;
  T* t_starts;           // (total,)
  T* t_ends;             // (total,)
  int64_t* ray_indices;  // (total,)
  T* terminations;       // (N,)

  ZOO_HD void operator()(int64_t ray) const {
    const int64_t start = packed_info[2 * ray], count = packed_info[2 * ray + 1];
    if (start < 0 || count < 0 || start + count > total) return;
    FillSink<T> sink{t_starts + start, t_ends + start, march.limit, count};
    const T end = march.walk(ray, sink);
    terminations[ray] = end;
    while (sink.count < count) sink.one(end, end);  // only where two compilations of the walk round differently
    for (int64_t i = 0; i < count; ++i) ray_indices[start + i] = ray;
  }
};

template <class T>
March<T> march_over(const Tensor& o, const Tensor& d, const Tensor& binaries, const Tensor& aabbs, const Tensor& near,
                    const Tensor& far, double step_size, double cone_angle, int64_t max_samples) {
  STD_TORCH_CHECK(binaries.size(0) <= kMaxGridLevels, "march_rays: found ", binaries.size(0),
                  " grid levels, expected at most 8");
  GridStack<T> grid{cptr<bool>(binaries), cptr<T>(aabbs), static_cast<int>(binaries.size(0)), {}};
  for (int a = 0; a < 3; ++a) grid.resolution[a] = static_cast<int>(binaries.size(a + 1));
  const int64_t limit = max_samples > 0 ? max_samples : std::numeric_limits<int64_t>::max();
  return {
      cptr<T>(o), cptr<T>(d), cptr<T>(near), cptr<T>(far), grid, static_cast<T>(step_size), static_cast<T>(cone_angle),
      limit};
}

inline Tensor march_count(const Tensor& rays_o, const Tensor& rays_d, const Tensor& binaries, const Tensor& aabbs,
                          const Tensor& near_planes, const Tensor& far_planes, double step_size, double cone_angle,
                          int64_t max_samples) {
  const Tensor o = packed(rays_o), d = packed(rays_d), grid = packed(binaries), boxes = packed(aabbs),
               near = packed(near_planes), far = packed(far_planes);
  const int64_t n = o.size(0);
  return dispatch_floating(o.scalar_type(), "march_count", [&](auto zero) {
    using T = decltype(zero);
    Tensor counts = empty_on<int64_t>(o, {n});
    launch(o, n,
           MarchCount<T>{march_over<T>(o, d, grid, boxes, near, far, step_size, cone_angle, max_samples),
                         mptr<int64_t>(counts)},
           64);
    return counts;
  });
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor> march_fill(const Tensor& rays_o, const Tensor& rays_d,
                                                             const Tensor& binaries, const Tensor& aabbs,
                                                             const Tensor& near_planes, const Tensor& far_planes,
                                                             double step_size, double cone_angle, int64_t max_samples,
                                                             const Tensor& packed_info, int64_t total) {
  const Tensor o = packed(rays_o), d = packed(rays_d), grid = packed(binaries), boxes = packed(aabbs),
               near = packed(near_planes), far = packed(far_planes), info = packed(packed_info);
  const int64_t n = o.size(0);
  return dispatch_floating(o.scalar_type(), "march_fill", [&](auto zero) {
    using T = decltype(zero);
    Tensor t_starts = empty_on<T>(o, {total}), t_ends = empty_on<T>(o, {total});
    Tensor ray_indices = empty_on<int64_t>(o, {total}), terminations = empty_on<T>(o, {n});
    launch(o, n,
           MarchFill<T>{march_over<T>(o, d, grid, boxes, near, far, step_size, cone_angle, max_samples),
                        cptr<int64_t>(info), total, mptr<T>(t_starts), mptr<T>(t_ends), mptr<int64_t>(ray_indices),
                        mptr<T>(terminations)},
           64);
    return std::make_tuple(t_starts, t_ends, ray_indices, terminations);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
