// Overlap of pairs of boxes, all with all or row by row, and its gradient.
#pragma once

#include <cstdint>
#include <tuple>

#include "kernels/box_overlap.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class T>
struct BoxPairs {
  const Footprint<T>* a;  // (N,)
  const Footprint<T>* b;  // (M,)
  int64_t others, measure;
  T* out;  // (N, M)
  ZOO_HD void operator()(int64_t i) const { out[i] = measure_pair(a[i / others], b[i % others], measure); }
};

template <class T>
struct BoxRows {
  const Footprint<T>* a;  // (N,)
  const Footprint<T>* b;  // (N,)
  int64_t measure;
  T* out;  // (N,)
  ZOO_HD void operator()(int64_t i) const { out[i] = measure_pair(a[i], b[i], measure); }
};

// Gradient of the shared area with respect to a box (x, y, dx, dy, yaw): a piece of its border that moves outwards adds
// its length inside the other box. `sign` turns the frame of the box back to the caller's.
template <class T>
ZOO_HD void area_gradient(const Footprint<T>& box, const Footprint<T>& other, T weight, T* grad) {
  const Outline<T> own(other, box);  // corners of the box seen from the other one, whose rectangle cuts its edges
  // edge k runs from corner k to k + 1: +y, -x, -y and +x side of the box
  const T side_x[4] = {T(0), T(-1), T(0), T(1)}, side_y[4] = {T(1), T(0), T(-1), T(0)};
  for (int edge = 0; edge < 4; ++edge) {
    const int next = (edge + 1) & 3;
    const T step_x = own.x[next] - own.x[edge], step_y = own.y[next] - own.y[edge];
    T begin = 0, end = 1;
    for (int axis = 0; axis < 2; ++axis) {
      const T start = axis == 0 ? own.x[edge] : own.y[edge], step = axis == 0 ? step_x : step_y;
      const T half = axis == 0 ? other.half_x : other.half_y;
      if (step == T(0)) {
        if (start < -half || start > half) end = T(-1);
        continue;
      }
      const T p = (-half - start) / step, q = (half - start) / step;
      begin = most(begin, least(p, q)), end = least(end, most(p, q));
    }
    if (!(end > begin)) continue;
    const bool along = side_x[edge] == T(0);  // the edge runs along the box's x axis
    const T whole = 2 * (along ? box.half_x : box.half_y);
    const T length = (end - begin) * whole * weight;
    const T out_x = side_x[edge] * box.cos_yaw - side_y[edge] * box.sin_yaw;
    const T out_y = side_x[edge] * box.sin_yaw + side_y[edge] * box.cos_yaw;
    grad[0] += length * out_x;
    grad[1] += length * out_y;
    grad[along ? 4 : 3] += length / 2;
    // turning moves the middle of the piece along the side's normal by its distance from the middle of the edge;
    // edges run counter-clockwise, so that what lies ahead of the middle moves outwards with negative sign
    const T ahead = ((begin + end) / 2 - T(0.5)) * whole;
    grad[6] -= length * ahead;
  }
}

// Of the shared height with respect to z and dz of a box.
template <class T>
ZOO_HD void height_gradient(const Footprint<T>& box, const Footprint<T>& other, T weight, T* grad) {
  const T top = box.high < other.high ? T(1) : box.high == other.high ? T(0.5) : T(0);
  const T bottom = box.low > other.low ? T(1) : box.low == other.low ? T(0.5) : T(0);
  grad[2] += weight * (top - bottom);
  grad[5] += weight * (top + bottom) / 2;
}

template <class T>
struct BoxRowsGradient {
  const T* grad;          // (N,)
  const Footprint<T>* a;  // (N,)
  const Footprint<T>* b;
  int64_t measure;
  T* to_a;  // (N, 7)
  T* to_b;

  ZOO_HD void operator()(int64_t i) const {
    T* out[2] = {to_a + i * kBoxNumbers, to_b + i * kBoxNumbers};
    for (int64_t k = 0; k < kBoxNumbers; ++k) out[0][k] = out[1][k] = T(0);
    const Footprint<T>* pair[2] = {a + i, b + i};
    if (!pair[0]->near(*pair[1])) return;
    const T area = overlap_area(*pair[0], *pair[1]);
    const bool solid = measure == kIou3d;
    const T height = solid ? most(least(pair[0]->high, pair[1]->high) - most(pair[0]->low, pair[1]->low), T(0)) : T(1);
    const T shared = area * height;
    if (!(shared > T(0))) return;
    T size[2], tall[2];
    for (int k = 0; k < 2; ++k) {
      tall[k] = solid ? pair[k]->high - pair[k]->low : T(1);
      size[k] = pair[k]->size * tall[k];
    }
    const T together = size[0] + size[1] - shared;
    if (!(together > T(0)) || together - together != T(0)) return;
    // iou = shared / (sizes - shared)
    const bool plain = measure == kOverlapBev;
    const T to_shared = plain ? grad[i] : grad[i] * (size[0] + size[1]) / (together * together);
    const T to_size = plain ? T(0) : -grad[i] * shared / (together * together);
    for (int k = 0; k < 2; ++k) {
      const Footprint<T>&own = *pair[k], &other = *pair[1 - k];
      area_gradient(own, other, to_shared * height, out[k]);
      if (solid) height_gradient(own, other, to_shared * area, out[k]);
      out[k][3] += to_size * 2 * own.half_y * tall[k];
      out[k][4] += to_size * 2 * own.half_x * tall[k];
      if (solid) out[k][5] += to_size * own.size;
    }
  }
};

inline Tensor boxes_iou_pairs(const Tensor& a, const Tensor& b, int64_t measure) {
  const Tensor boxes_a = packed(a), boxes_b = packed(b);
  const int64_t rows = boxes_a.size(0), others = boxes_b.size(0);
  return dispatch_floating(boxes_a.scalar_type(), "boxes_iou_pairs", [&](auto zero) {
    using T = decltype(zero);
    const Tensor ready_a = footprints_of<T>(boxes_a), ready_b = footprints_of<T>(boxes_b);
    Tensor out = empty_on<T>(boxes_a, {rows, others});
    launch(boxes_a, rows * others,
           BoxPairs<T>{footprints<T>(ready_a), footprints<T>(ready_b), others, measure, mptr<T>(out)}, 512);
    return out;
  });
}

inline Tensor boxes_iou_aligned(const Tensor& a, const Tensor& b, int64_t measure) {
  const Tensor boxes_a = packed(a), boxes_b = packed(b);
  const int64_t rows = boxes_a.size(0);
  return dispatch_floating(boxes_a.scalar_type(), "boxes_iou_aligned", [&](auto zero) {
    using T = decltype(zero);
    const Tensor ready_a = footprints_of<T>(boxes_a), ready_b = footprints_of<T>(boxes_b);
    Tensor out = empty_on<T>(boxes_a, {rows});
    launch(boxes_a, rows, BoxRows<T>{footprints<T>(ready_a), footprints<T>(ready_b), measure, mptr<T>(out)}, 128);
    return out;
  });
}

inline std::tuple<Tensor, Tensor> boxes_iou_aligned_backward(const Tensor& grad, const Tensor& a, const Tensor& b,
                                                             int64_t measure) {
  const Tensor g = packed(grad), boxes_a = packed(a), boxes_b = packed(b);
  const int64_t rows = boxes_a.size(0);
  return dispatch_floating(boxes_a.scalar_type(), "boxes_iou_aligned_backward", [&](auto zero) {
    using T = decltype(zero);
    const Tensor ready_a = footprints_of<T>(boxes_a), ready_b = footprints_of<T>(boxes_b);
    Tensor to_a = empty_on<T>(boxes_a, {rows, kBoxNumbers}), to_b = empty_on<T>(boxes_b, {rows, kBoxNumbers});
    launch(boxes_a, rows,
           BoxRowsGradient<T>{cptr<T>(g), footprints<T>(ready_a), footprints<T>(ready_b), measure, mptr<T>(to_a),
                              mptr<T>(to_b)},
           128);
    return std::make_tuple(to_a, to_b);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
