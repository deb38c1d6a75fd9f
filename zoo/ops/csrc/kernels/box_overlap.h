// Overlap of rotated boxes (x, y, z, dx, dy, dz, yaw).
//
// The outline of the second footprint, seen from the first box, is clamped point by point onto the first rectangle; the
// area inside the clamped outline is the shared area. An edge bends where it crosses a border line, so it becomes five
// straight pieces. There are no cases: rounding moves the result by rounding only.
#pragma once

#include <cmath>
#include <cstdint>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int64_t kBoxNumbers = 7;
constexpr int64_t kOverlapBev = 0, kIouBev = 1, kIou3d = 2;

template <class T>
ZOO_HD T least(T a, T b) {
  return b < a ? b : a;
}
template <class T>
ZOO_HD T most(T a, T b) {
  return a < b ? b : a;
}
template <class T>
ZOO_HD T clamped(T value, T low, T high) {
  return most(least(value, high), low);
}

// A box made ready for comparisons. A box without area, or with numbers that are not finite, has the reach -1, which
// keeps it apart from all others.
template <class T>
struct Footprint {
  T x, y, half_x, half_y, cos_yaw, sin_yaw, reach, low, high, size;

  ZOO_HD static Footprint of(const T* box) {
    const T nothing = (box[0] - box[0]) + (box[1] - box[1]) + (box[2] - box[2]) + (box[3] - box[3]) +
                      (box[4] - box[4]) + (box[5] - box[5]) + (box[6] - box[6]);  // NaN unless all are finite
    Footprint made;
    made.x = box[0], made.y = box[1];
    made.half_x = box[3] / 2, made.half_y = box[4] / 2;
    made.cos_yaw = cos(box[6]), made.sin_yaw = sin(box[6]);
    const bool usable = nothing == T(0) && box[3] > T(0) && box[4] > T(0);
    made.reach = usable ? hypot(made.half_x, made.half_y) : T(-1);
    made.low = box[2] - box[5] / 2, made.high = box[2] + box[5] / 2;
    made.size = box[3] * box[4];
    return made;
  }
  ZOO_HD bool near(const Footprint& other) const {
    const T dx = other.x - x, dy = other.y - y, far = reach + other.reach;
    return reach >= T(0) && other.reach >= T(0) && hypot(dx, dy) <= far;
  }
};

// The outline of b in the frame of a: corners counter-clockwise.
template <class T>
struct Outline {
  T x[4], y[4];

  ZOO_HD Outline(const Footprint<T>& a, const Footprint<T>& b) {
    const T dx = b.x - a.x, dy = b.y - a.y;
    const T center_x = dx * a.cos_yaw + dy * a.sin_yaw, center_y = dy * a.cos_yaw - dx * a.sin_yaw;
    const T turn_cos = a.cos_yaw * b.cos_yaw + a.sin_yaw * b.sin_yaw;
    const T turn_sin = b.sin_yaw * a.cos_yaw - b.cos_yaw * a.sin_yaw;
    const T along_x = turn_cos * b.half_x, along_y = turn_sin * b.half_x;
    const T across_x = -turn_sin * b.half_y, across_y = turn_cos * b.half_y;
    x[0] = center_x + along_x + across_x, y[0] = center_y + along_y + across_y;
    x[1] = center_x - along_x + across_x, y[1] = center_y - along_y + across_y;
    x[2] = center_x - along_x - across_x, y[2] = center_y - along_y - across_y;
    x[3] = center_x + along_x - across_x, y[3] = center_y + along_y - across_y;
  }
};

// Shares of the edge at which it crosses the lines -half and half, in order and cut to the edge.
template <class T>
ZOO_HD void crossings(T start, T step, T half, T& first, T& second) {
  if (step == T(0)) {
    first = second = T(0);
    return;
  }
  const T a = clamped((-half - start) / step, T(0), T(1)), b = clamped((half - start) / step, T(0), T(1));
  first = least(a, b), second = most(a, b);
}

template <class T>
ZOO_HD T overlap_area(const Footprint<T>& a, const Footprint<T>& b) {
  const Outline<T> outline(a, b);
  T doubled = 0;
  for (int corner = 0; corner < 4; ++corner) {
    const int next = (corner + 1) & 3;
    const T start_x = outline.x[corner], start_y = outline.y[corner];
    const T step_x = outline.x[next] - start_x, step_y = outline.y[next] - start_y;
    T x0, x1, y0, y1;
    crossings(start_x, step_x, a.half_x, x0, x1);
    crossings(start_y, step_y, a.half_y, y0, y1);
    const T inner_low = most(x0, y0), inner_high = least(x1, y1);
    const T at[4] = {least(x0, y0), least(inner_low, inner_high), most(inner_low, inner_high), most(x1, y1)};
    T from_x = clamped(start_x, -a.half_x, a.half_x), from_y = clamped(start_y, -a.half_y, a.half_y);
    for (int bend = 0; bend < 5; ++bend) {
      const T to_x = clamped(bend < 4 ? start_x + at[bend & 3] * step_x : outline.x[next], -a.half_x, a.half_x);
      const T to_y = clamped(bend < 4 ? start_y + at[bend & 3] * step_y : outline.y[next], -a.half_y, a.half_y);
      doubled += (to_x + from_x) * (to_y - from_y);
      from_x = to_x, from_y = to_y;
    }
  }
  return doubled > T(0) ? doubled / 2 : T(0);
}

// The measure of two boxes from their shared area.
template <class T>
ZOO_HD T measure_of(const Footprint<T>& a, const Footprint<T>& b, T shared, int64_t measure) {
  if (measure == kOverlapBev) return shared;
  T size_a = a.size, size_b = b.size;
  if (measure == kIou3d) {
    shared *= most(least(a.high, b.high) - most(a.low, b.low), T(0));
    size_a *= most(a.high - a.low, T(0)), size_b *= most(b.high - b.low, T(0));
  }
  const T together = size_a + size_b - shared;
  if (!(together > T(0)) || together - together != T(0)) return T(0);
  return clamped(shared / together, T(0), T(1));
}

template <class T>
ZOO_HD T measure_pair(const Footprint<T>& a, const Footprint<T>& b, int64_t measure) {
  return a.near(b) ? measure_of(a, b, overlap_area(a, b), measure) : T(0);
}

template <class T>
struct MakeFootprints {
  const T* boxes;
  Footprint<T>* made;
  ZOO_HD void operator()(int64_t i) const { made[i] = Footprint<T>::of(boxes + i * kBoxNumbers); }
};

// The boxes made ready, in memory of the boxes' device; the tensor owns it.
template <class T>
Tensor footprints_of(const Tensor& boxes) {
  static_assert(sizeof(Footprint<T>) % sizeof(T) == 0, "rows of numbers");
  const int64_t count = boxes.size(0);
  Tensor made = empty_on<T>(boxes, {count, static_cast<int64_t>(sizeof(Footprint<T>) / sizeof(T))});
  launch(boxes, count, MakeFootprints<T>{cptr<T>(boxes), reinterpret_cast<Footprint<T>*>(mptr<T>(made))}, 512);
  return made;
}
template <class T>
const Footprint<T>* footprints(const Tensor& made) {
  return reinterpret_cast<const Footprint<T>*>(cptr<T>(made));
}

}  // namespace ZOO_TARGET
}  // namespace zoo
