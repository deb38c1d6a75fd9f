// Rays against axis-aligned boxes: the slab test.
#pragma once

#include <cmath>
#include <limits>
#include <tuple>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class T>
ZOO_HD T lesser(T a, T b) {
  return b < a ? b : a;
}
template <class T>
ZOO_HD T greater(T a, T b) {
  return b > a ? b : a;
}

template <class T>
struct Crossing {
  T enter, leave;
  bool hit;  // the three slabs overlap (touching counts) in front of the origin (leave > 0)
};

// box = min_x, min_y, min_z, max_x, max_y, max_z. NaN anywhere is a miss.
template <class T>
ZOO_HD Crossing<T> cross_box(const T* origin, const T* direction, const T* box) {
  const T infinity = std::numeric_limits<T>::infinity();
  T enter = -infinity, leave = infinity;
  bool hit = true;
  for (int a = 0; a < 3; ++a) {
    if (direction[a] == 0) {  // parallel to the slab: inside it everywhere or nowhere
      hit = hit && box[a] <= origin[a] && origin[a] <= box[a + 3];
      continue;
    }
    const T first = (box[a] - origin[a]) / direction[a], second = (box[a + 3] - origin[a]) / direction[a];
    const T low = lesser(first, second), high = greater(first, second);
    hit = hit && low == low && high == high;
    enter = greater(enter, low);
    leave = lesser(leave, high);
  }
  return {enter, leave, hit && enter <= leave && leave > 0};
}

template <class T>
struct IntersectRayBox {
  const T* origins;     // (N, 3)
  const T* directions;  // (N, 3)
  const T* boxes;       // (M, 6)
  int64_t num_boxes;
  T near_plane, far_plane, miss_value;
  T* t_mins;   // (N, M)
  T* t_maxs;   // (N, M)
  bool* hits;  // (N, M)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t ray = i / num_boxes, box = i % num_boxes;
    const Crossing<T> c = cross_box(origins + 3 * ray, directions + 3 * ray, boxes + 6 * box);
    t_mins[i] = c.hit ? greater(c.enter, near_plane) : miss_value;
    t_maxs[i] = c.hit ? lesser(c.leave, far_plane) : miss_value;
    hits[i] = c.hit;
  }
};

inline std::tuple<Tensor, Tensor, Tensor> ray_aabb_intersect(const Tensor& rays_o, const Tensor& rays_d,
                                                             const Tensor& aabbs, double near_plane, double far_plane,
                                                             double miss_value) {
  const Tensor o = packed(rays_o), d = packed(rays_d), boxes = packed(aabbs);
  const int64_t n = o.size(0), m = boxes.size(0);
  return dispatch_floating(o.scalar_type(), "ray_aabb_intersect", [&](auto zero) {
    using T = decltype(zero);
    Tensor t_mins = empty_on<T>(o, {n, m}), t_maxs = empty_on<T>(o, {n, m}), hits = empty_on<bool>(o, {n, m});
    launch(o, n * m,
           IntersectRayBox<T>{cptr<T>(o), cptr<T>(d), cptr<T>(boxes), m, static_cast<T>(near_plane),
                              static_cast<T>(far_plane), static_cast<T>(miss_value), mptr<T>(t_mins), mptr<T>(t_maxs),
                              mptr<bool>(hits)});
    return std::make_tuple(t_mins, t_maxs, hits);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
