// Points inside rotated boxes; faces belong to a box.
#pragma once

#include <cmath>
#include <cstdint>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class T>
struct SolidBox {
  T x, y, z, half_x, half_y, half_z, cos_yaw, sin_yaw;

  ZOO_HD static SolidBox of(const T* box) {
    return {box[0], box[1], box[2], box[3] / 2, box[4] / 2, box[5] / 2, T(cos(box[6])), T(sin(box[6]))};
  }
  ZOO_HD bool holds(const T* point) const {
    const T dx = point[0] - x, dy = point[1] - y, dz = point[2] - z;
    const T along = dx * cos_yaw + dy * sin_yaw, across = dy * cos_yaw - dx * sin_yaw;
    return fabs(along) <= half_x && fabs(across) <= half_y && fabs(dz) <= half_z;
  }
};

template <class T>
struct MakeSolidBoxes {
  const T* boxes;  // (B, 7)
  SolidBox<T>* made;
  ZOO_HD void operator()(int64_t i) const { made[i] = SolidBox<T>::of(boxes + 7 * i); }
};

// The boxes made ready; the tensor owns the memory.
template <class T>
Tensor solid_boxes_of(const Tensor& boxes) {
  Tensor made = empty_on<T>(boxes, {boxes.size(0), static_cast<int64_t>(sizeof(SolidBox<T>) / sizeof(T))});
  launch(boxes, boxes.size(0), MakeSolidBoxes<T>{cptr<T>(boxes), reinterpret_cast<SolidBox<T>*>(mptr<T>(made))}, 512);
  return made;
}
template <class T>
const SolidBox<T>* solid_boxes(const Tensor& made) {
  return reinterpret_cast<const SolidBox<T>*>(cptr<T>(made));
}

template <class T>
struct FirstBox {
  const T* points;           // (P, 3)
  const SolidBox<T>* boxes;  // (B,)
  int64_t count;
  int64_t* first;  // (P,)
  ZOO_HD void operator()(int64_t i) const {
    int64_t found = -1;
    for (int64_t box = 0; box < count; ++box) {
      if (boxes[box].holds(points + 3 * i)) {
        found = box;
        break;
      }
    }
    first[i] = found;
  }
};

template <class T>
struct InsideTable {
  const T* points;           // (P, 3)
  const SolidBox<T>* boxes;  // (B,)
  int64_t num_points;
  bool* inside;  // (B, P)
  ZOO_HD void operator()(int64_t i) const { inside[i] = boxes[i / num_points].holds(points + 3 * (i % num_points)); }
};

inline Tensor points_in_boxes_mask(const Tensor& points, const Tensor& boxes) {
  const Tensor p = packed(points), b = packed(boxes);
  const int64_t num_points = p.size(0), count = b.size(0);
  Tensor inside = empty_on<bool>(p, {count, num_points});
  dispatch_floating(p.scalar_type(), "points_in_boxes_mask", [&](auto zero) {
    using T = decltype(zero);
    const Tensor ready = solid_boxes_of<T>(b);
    launch(p, count * num_points, InsideTable<T>{cptr<T>(p), solid_boxes<T>(ready), num_points, mptr<bool>(inside)},
           4096);
    return 0;
  });
  return inside;
}

}  // namespace ZOO_TARGET
}  // namespace zoo
