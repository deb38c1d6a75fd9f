#include "kernels/points_in_boxes.h"

namespace zoo {
inline namespace ZOO_TARGET {

inline Tensor points_in_boxes(const Tensor& points, const Tensor& boxes) {
  const Tensor p = packed(points), b = packed(boxes);
  Tensor first = empty_on<int64_t>(p, {p.size(0)});
  dispatch_floating(p.scalar_type(), "points_in_boxes", [&](auto zero) {
    using T = decltype(zero);
    const Tensor ready = solid_boxes_of<T>(b);
    launch(p, p.size(0), FirstBox<T>{cptr<T>(p), solid_boxes<T>(ready), b.size(0), mptr<int64_t>(first)});
    return 0;
  });
  return first;
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("points_in_boxes", TORCH_BOX(&zoo::points_in_boxes));
  m.impl("points_in_boxes_mask", TORCH_BOX(&zoo::points_in_boxes_mask));
}
