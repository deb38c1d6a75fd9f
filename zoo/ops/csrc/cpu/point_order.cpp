// Order of points for a tree of bounding boxes: every node is cut in two halves of leaves at the median of its box's
// longest axis. Points of different samples are parted first, in their order.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/work_queue.h"
#include "kernels/point_tree.h"

namespace zoo {
namespace {

template <class T>
struct Placed {
  T at[3];
  int64_t sample, row;
};

// Arranges rows [begin, end) under a node of `leaves` leaves, all full but the last ones.
template <class T>
void arrange(Placed<T>* points, int64_t begin, int64_t end, int64_t leaves) {
  const int64_t middle = begin + leaves / 2 * kLeafPoints;
  if (leaves == 1) return;
  if (middle >= end) return arrange(points, begin, end, leaves / 2);
  if (points[begin].sample == points[end - 1].sample) {  // else they lie in order of their samples already
    T low[3], high[3];
    for (int a = 0; a < 3; ++a) low[a] = std::numeric_limits<T>::infinity(), high[a] = -low[a];
    for (int64_t i = begin; i < end; ++i) {
      for (int a = 0; a < 3; ++a) {
        low[a] = std::min(low[a], points[i].at[a]);
        high[a] = std::max(high[a], points[i].at[a]);
      }
    }
    int axis = 0;
    for (int a = 1; a < 3; ++a) {
      if (high[a] - low[a] > high[axis] - low[axis]) axis = a;
    }
    std::nth_element(points + begin, points + middle, points + end, [axis](const Placed<T>& p, const Placed<T>& q) {
      return p.at[axis] < q.at[axis] || (p.at[axis] == q.at[axis] && p.row < q.row);
    });
  }
  arrange(points, begin, middle, leaves / 2);
  arrange(points, middle, end, leaves / 2);
}

Tensor point_order(const Tensor& points, const Tensor& samples) {
  const Tensor p = packed(points), s = packed(samples);
  const int64_t count = p.size(0);
  Tensor order = empty_on<int64_t>(s, {count});
  if (count == 0) return order;
  dispatch_floating(p.scalar_type(), "point_order", [&](auto zero) {
    using T = decltype(zero);
    Scratch<Placed<T>> placed(count);
    for (int64_t i = 0; i < count; ++i) {
      const T* at = cptr<T>(p) + 3 * i;
      placed.get()[i] = {{at[0], at[1], at[2]}, cptr<int64_t>(s)[i], i};
    }
    int64_t leaves = 1;
    while (leaves * kLeafPoints < count) leaves *= 2;
    arrange(placed.get(), 0, count, leaves);
    for (int64_t i = 0; i < count; ++i) mptr<int64_t>(order)[i] = placed.get()[i].row;
    return 0;
  });
  return order;
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("point_order", TORCH_BOX(&zoo::point_order));
}
