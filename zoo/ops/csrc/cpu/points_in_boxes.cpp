// The first box of each point on the CPU. Boxes are entered into the cells of a grid over the ground that their
// footprints reach; a point asks those of its cell, in their order.
#include "kernels/points_in_boxes.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace zoo {
namespace {

constexpr int64_t kMostCells = 128;  // along an axis

// One axis of the grid.
struct Axis {
  double low = std::numeric_limits<double>::infinity(), high = -low, per_cell = 0;
  int64_t cells = 1;

  void include(double from, double to) {
    low = std::min(low, from);
    high = std::max(high, to);
  }
  void divide(int64_t wanted) {
    cells = high > low ? wanted : 1;
    per_cell = cells > 1 ? static_cast<double>(cells) / (high - low) : 0;
  }
  int64_t cell(double at) const {
    return static_cast<int64_t>(std::clamp((at - low) * per_cell, 0.0, static_cast<double>(cells - 1)));
  }
};

template <class T>
class BoxGrid {
 public:
  BoxGrid(const SolidBox<T>* boxes, int64_t count) : boxes_(boxes) {
    struct Entry {
      int64_t box;
      double reach_x, reach_y;
    };
    std::vector<Entry> entries;
    for (int64_t i = 0; i < count; ++i) {
      const SolidBox<T>& box = boxes[i];
      const double cos_yaw = std::abs(double{box.cos_yaw}), sin_yaw = std::abs(double{box.sin_yaw});
      // rounding of a point on a face must not carry it out of the box's cells
      const double slack = 1e-5 * (std::abs(double{box.x}) + std::abs(double{box.y}) + double{box.half_x} + box.half_y);
      const double x = box.half_x * cos_yaw + box.half_y * sin_yaw + slack;
      const double y = box.half_x * sin_yaw + box.half_y * cos_yaw + slack;
      const bool usable = std::isfinite(x + y + box.x + box.y + box.z) && box.half_x >= 0 && box.half_y >= 0;
      if (!usable) continue;
      entries.push_back({i, x, y});
      x_.include(box.x - x, box.x + x);
      y_.include(box.y - y, box.y + y);
    }
    const int64_t wanted = std::min<int64_t>(kMostCells, 4 + 4 * static_cast<int64_t>(std::sqrt(entries.size())));
    x_.divide(wanted);
    y_.divide(wanted);
    starts_.assign(x_.cells * y_.cells + 1, 0);
    const auto for_each_cell = [&](const Entry& entry, const auto& visit) {
      const SolidBox<T>& box = boxes[entry.box];
      const int64_t x1 = x_.cell(box.x + entry.reach_x), y1 = y_.cell(box.y + entry.reach_y);
      for (int64_t x = x_.cell(box.x - entry.reach_x); x <= x1; ++x) {
        for (int64_t y = y_.cell(box.y - entry.reach_y); y <= y1; ++y) visit(x * y_.cells + y);
      }
    };
    for (const Entry& entry : entries) for_each_cell(entry, [&](int64_t cell) { ++starts_[cell + 1]; });
    for (size_t cell = 1; cell < starts_.size(); ++cell) starts_[cell] += starts_[cell - 1];
    rows_.resize(starts_.back());
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (const Entry& entry : entries) for_each_cell(entry, [&](int64_t cell) { rows_[next[cell]++] = entry.box; });
  }

  int64_t first(const T* point) const {
    const double x = point[0], y = point[1];
    if (!(x >= x_.low && x <= x_.high && y >= y_.low && y <= y_.high)) return -1;
    const int64_t cell = x_.cell(x) * y_.cells + y_.cell(y);
    for (int64_t at = starts_[cell]; at < starts_[cell + 1]; ++at) {
      if (boxes_[rows_[at]].holds(point)) return rows_[at];
    }
    return -1;
  }

 private:
  const SolidBox<T>* boxes_;
  Axis x_, y_;
  std::vector<int64_t> starts_, rows_;
};

Tensor points_in_boxes(const Tensor& points, const Tensor& boxes) {
  const Tensor p = packed(points), b = packed(boxes);
  Tensor first = empty_on<int64_t>(p, {p.size(0)});
  dispatch_floating(p.scalar_type(), "points_in_boxes", [&](auto zero) {
    using T = decltype(zero);
    const Tensor ready = solid_boxes_of<T>(b);
    const BoxGrid<T> grid(solid_boxes<T>(ready), b.size(0));
    const T* from = cptr<T>(p);
    int64_t* to = mptr<int64_t>(first);
    launch(p, p.size(0), [&](int64_t i) { to[i] = grid.first(from + 3 * i); }, 4096);
    return 0;
  });
  return first;
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("points_in_boxes", TORCH_BOX(&zoo::points_in_boxes));
  m.impl("points_in_boxes_mask", TORCH_BOX(&zoo::points_in_boxes_mask));
}
