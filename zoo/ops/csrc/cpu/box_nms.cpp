// Suppression of overlapping boxes on the CPU. A candidate is compared with the boxes that were kept before it and
// stand near: they lie in grids of cells, one for each octave of sizes, by their centres. Candidates come in blocks
// whose comparisons with what was kept before the block run on threads; the rest follows in order. The result is that
// of comparing every pair.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "kernels/box_overlap.h"

namespace zoo {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kTestsOfThread = 8192;  // fewer comparisons are not worth a thread

template <class T>
class KeptBoxes {
 public:
  KeptBoxes(const Footprint<T>* boxes, T threshold) : boxes_(boxes), threshold_(threshold) {}

  void add(int64_t row) {
    const Footprint<T>& box = boxes_[row];
    if (!(box.reach >= T(0))) return;  // overlaps nothing
    int octave = 0;
    std::frexp(static_cast<double>(box.reach), &octave);  // reach < 2^octave
    Level& level = levels_[octave];
    level.widest = std::ldexp(1.0, octave);
    level.rows.push_back(row);
    level.cells[key(cell(box.x, level), cell(box.y, level))].push_back(row);
  }

  // Whether a kept box overlaps the one in this row; counts the comparisons.
  bool overlapped(int64_t row, int64_t& tests) const {
    const Footprint<T>& box = boxes_[row];
    if (!(box.reach >= T(0))) return false;
    for (const auto& [octave, level] : levels_) {
      const double far = (static_cast<double>(box.reach) + level.widest) * (1 + 1e-6);
      const int64_t x0 = cell(box.x - far, level), x1 = cell(box.x + far, level);
      const int64_t y0 = cell(box.y - far, level), y1 = cell(box.y + far, level);
      const double lookups = static_cast<double>(x1 - x0 + 1) * static_cast<double>(y1 - y0 + 1);
      if (lookups >= static_cast<double>(level.rows.size())) {
        if (any(box, level.rows, tests)) return true;
        continue;
      }
      for (int64_t x = x0; x <= x1; ++x) {
        for (int64_t y = y0; y <= y1; ++y) {
          const auto found = level.cells.find(key(x, y));
          if (found != level.cells.end() && any(box, found->second, tests)) return true;
        }
      }
    }
    return false;
  }

  bool overlap(int64_t kept, int64_t row) const {
    const Footprint<T>&a = boxes_[kept], &b = boxes_[row];
    if (!a.near(b)) return false;
    // the smaller one inside the larger is the most that they can share
    if (least(a.size, b.size) <= threshold_ * most(a.size, b.size) * T(1 - 1e-4)) return false;
    return measure_of(a, b, overlap_area(a, b), kIouBev) > threshold_;
  }

 private:
  struct Level {
    double widest = 0;
    std::vector<int64_t> rows;
    std::unordered_map<uint64_t, std::vector<int64_t>> cells;
  };

  // Number of the cell along an axis; what lies beyond all numbers shares the last one.
  static int64_t cell(double at, const Level& level) {
    return static_cast<int64_t>(std::clamp(std::floor(at / (2 * level.widest)), -2e9, 2e9));
  }
  static uint64_t key(int64_t x, int64_t y) {
    return (static_cast<uint64_t>(x + (int64_t{1} << 31)) << 32) | static_cast<uint64_t>(y + (int64_t{1} << 31));
  }
  bool any(const Footprint<T>& box, const std::vector<int64_t>& rows, int64_t& tests) const {
    const int64_t row = &box - boxes_;
    for (const int64_t kept : rows) {
      ++tests;
      if (overlap(kept, row)) return true;
    }
    return false;
  }

  const Footprint<T>* boxes_;
  T threshold_;
  std::map<int, Level> levels_;
};

template <class T>
void suppress(const Footprint<T>* boxes, int64_t count, T threshold, int64_t max_kept, bool* keep) {
  KeptBoxes<T> kept(boxes, threshold);
  std::fill(keep, keep + count, false);
  int64_t total = 0, tests = 0;
  std::vector<int64_t> fresh;
  for (int64_t begin = 0; begin < count && total < max_kept; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, count);
    const int64_t grain = std::max<int64_t>(1, kTestsOfThread * kBlock / (tests + kBlock));  // as the last block went
    std::atomic<int64_t> counted{0};
    torch::stable::parallel_for(begin, end, grain, [&](int64_t first, int64_t last) {
      int64_t mine = 0;
      for (int64_t row = first; row < last; ++row) keep[row] = !kept.overlapped(row, mine);
      counted += mine;
    });
    tests = counted;
    fresh.clear();
    for (int64_t row = begin; row < end; ++row) {
      if (!keep[row]) continue;
      if (total < max_kept) {
        keep[row] = std::none_of(fresh.begin(), fresh.end(), [&](int64_t other) { return kept.overlap(other, row); });
      } else {
        keep[row] = false;
      }
      if (!keep[row]) continue;
      fresh.push_back(row);
      ++total;
    }
    for (const int64_t row : fresh) kept.add(row);
  }
}

Tensor nms_keep(const Tensor& boxes, double threshold, int64_t max_kept) {
  const Tensor rows = packed(boxes);
  const int64_t count = rows.size(0);
  Tensor keep = empty_on<bool>(rows, {count});
  dispatch_floating(rows.scalar_type(), "nms_rotated", [&](auto zero) {
    using T = decltype(zero);
    const Tensor ready = footprints_of<T>(rows);
    suppress(footprints<T>(ready), count, static_cast<T>(threshold), max_kept, mptr<bool>(keep));
    return 0;
  });
  return keep;
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("nms_keep", TORCH_BOX(&zoo::nms_keep));
}
