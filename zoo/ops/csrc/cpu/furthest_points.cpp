// Furthest point sampling on the CPU. Points come in a spatial order, so blocks of them are small in space: a new
// sample concerns only blocks whose box is nearer than their farthest point is to the samples so far. The result is the
// same as with every distance computed. Samples (batch entries) run on threads of their own.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/point_tree.h"

namespace zoo {
namespace {

constexpr int64_t kBlock = 32;

template <class T>
struct Block {
  T box[6];
  T largest;         // distance of the block's farthest point; -1 where all are chosen
  int64_t farthest;  // its row
};

template <class T>
class FurthestPoints {
 public:
  FurthestPoints(const T* points, const int64_t* order, int64_t count)
      : points_(points), order_(order), count_(count), distance_(count, std::numeric_limits<T>::infinity()) {
    blocks_.resize((count + kBlock - 1) / kBlock);
    for (size_t b = 0; b < blocks_.size(); ++b) {
      Block<T>& block = blocks_[b];
      for (int a = 0; a < 3; ++a) {
        block.box[a] = std::numeric_limits<T>::infinity(), block.box[a + 3] = -block.box[a];
      }
      for (int64_t row = first(b); row < last(b); ++row) {
        for (int a = 0; a < 3; ++a) {
          block.box[a] = std::min(block.box[a], points[row * 3 + a]);
          block.box[a + 3] = std::max(block.box[a + 3], points[row * 3 + a]);
        }
      }
      block.largest = std::numeric_limits<T>::infinity();
    }
  }

  // Takes the point in this row, then returns the row of the farthest one left, or -1.
  int64_t take(int64_t chosen) {
    const T* q = points_ + chosen * 3;
    const size_t home = static_cast<size_t>(chosen / kBlock);
    distance_[chosen] = T(-1);
    int64_t best = -1;
    T largest = T(-1);
    for (size_t b = 0; b < blocks_.size(); ++b) {
      Block<T>& block = blocks_[b];
      const T reach = sum_of_squares(gap(q[0], block.box[0], block.box[3]), gap(q[1], block.box[1], block.box[4]),
                                     gap(q[2], block.box[2], block.box[5]));
      if (reach < block.largest || b == home) update(b, q);
      if (block.largest < T(0)) continue;
      if (block.largest > largest || (block.largest == largest && order_[block.farthest] < order_[best])) {
        largest = block.largest;
        best = block.farthest;
      }
    }
    return best;
  }

 private:
  int64_t first(size_t block) const { return static_cast<int64_t>(block) * kBlock; }
  int64_t last(size_t block) const { return std::min(first(block) + kBlock, count_); }

  void update(size_t b, const T* q) {
    Block<T>& block = blocks_[b];
    block.largest = T(-1);
    for (int64_t row = first(b); row < last(b); ++row) {
      const T* p = points_ + row * 3;
      const T d = std::min(distance_[row], sum_of_squares(q[0] - p[0], q[1] - p[1], q[2] - p[2]));
      distance_[row] = d;
      if (d >= T(0) && (d > block.largest || (d == block.largest && order_[row] < order_[block.farthest]))) {
        block.largest = d;
        block.farthest = row;
      }
    }
  }

  const T* points_;
  const int64_t* order_;
  int64_t count_;
  std::vector<T> distance_;
  std::vector<Block<T>> blocks_;
};

Tensor furthest_points(const Tensor& points, const Tensor& order, const Tensor& offsets, int64_t num_samples) {
  const Tensor p = packed(points), o = packed(order), f = packed(offsets);
  const int64_t clouds = f.size(0) - 1;
  Tensor chosen = empty_on<int64_t>(f, {clouds, num_samples});
  dispatch_floating(p.scalar_type(), "furthest_point_sample", [&](auto zero) {
    using T = decltype(zero);
    const int64_t* starts = cptr<int64_t>(f);
    int64_t* rows = mptr<int64_t>(chosen);
    launch(
        p, clouds,
        [&](int64_t cloud) {
          const int64_t begin = starts[cloud], count = starts[cloud + 1] - begin;
          const int64_t* caller = cptr<int64_t>(o) + begin;
          int64_t* out = rows + cloud * num_samples;
          std::fill(out, out + num_samples, int64_t{-1});
          if (count == 0 || num_samples == 0) return;
          FurthestPoints<T> state(cptr<T>(p) + begin * 3, caller, count);
          int64_t row = std::find(caller, caller + count, begin) - caller;
          for (int64_t s = 0; s < num_samples && row >= 0; ++s) {
            out[s] = caller[row];
            row = state.take(row);
          }
        },
        1);
    return 0;
  });
  return chosen;
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("furthest_points", TORCH_BOX(&zoo::furthest_points));
}
