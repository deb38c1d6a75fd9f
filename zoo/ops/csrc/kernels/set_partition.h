// Windows of sites and their split into sets: one site, or one set, by one thread.
#pragma once

#include <vector>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

// Up to three axes; an axis that is absent has window 1, shift 0 and one window.
struct WindowLayout {
  int32_t axes;
  int64_t window[3], shift[3], count[3];

  // The window's number; writes the coordinates inside of it.
  ZOO_HD int64_t locate(const int32_t* site, int64_t* inside) const {
    int64_t number = site[0];
    for (int32_t a = 0; a < axes; ++a) {
      const int64_t moved = site[1 + a] + shift[a];
      int64_t at = moved / window[a], rest = moved % window[a];
      if (rest < 0) --at, rest += window[a];
      number = number * count[a] + at;
      inside[a] = rest;
    }
    for (int32_t a = axes; a < 3; ++a) inside[a] = 0;
    return number;
  }
};

inline WindowLayout window_layout(const Tensor& coords, const std::vector<int64_t>& window,
                                  const std::vector<int64_t>& shift, const std::vector<int64_t>& count) {
  const int32_t axes = static_cast<int32_t>(coords.size(1)) - 1;
  STD_TORCH_CHECK(coords.scalar_type() == ScalarType::Int && axes >= 2 && axes <= 3,
                  "window_partition: coords must be int32 with 3 or 4 columns");
  WindowLayout layout{axes, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}};
  for (int32_t a = 0; a < axes; ++a) {
    layout.window[a] = window.at(a);
    layout.shift[a] = shift.at(a);
    layout.count[a] = count.at(a);
  }
  return layout;
}

struct LocateInWindow {
  const int32_t* coords;
  WindowLayout layout;
  int64_t *number, *inside;

  ZOO_HD void operator()(int64_t i) const {
    int64_t rest[3];
    number[i] = layout.locate(coords + i * (layout.axes + 1), rest);
    for (int32_t a = 0; a < layout.axes; ++a) inside[i * layout.axes + a] = rest[a];
  }
};

struct SetKeys {
  const int32_t* coords;
  WindowLayout layout;
  int64_t rows;
  int64_t* keys;  // (2, rows)

  ZOO_HD void operator()(int64_t i) const {
    int64_t q[3];
    const int64_t* w = layout.window;
    const int64_t base = layout.locate(coords + i * (layout.axes + 1), q) * w[0] * w[1] * w[2];
    keys[i] = base + (q[1] * w[0] + q[0]) * w[2] + q[2];
    keys[rows + i] = base + (q[0] * w[1] + q[1]) * w[2] + q[2];
  }
};

struct FillSets {
  const int64_t *order, *set_window, *window_starts, *first_set;
  int64_t rows, sets, size;
  int64_t* slots;    // (2, sets, size)
  bool* repeated;    // (2, sets, size)
  int64_t* offsets;  // (sets + 1)

  ZOO_HD void operator()(int64_t set) const {
    const int64_t w = set_window[set], start = window_starts[w], sites = window_starts[w + 1] - start;
    const int64_t number = set - first_set[w], slots_in_window = (first_set[w + 1] - first_set[w]) * size;
    int64_t last = -1;
    for (int64_t t = 0; t < size; ++t) {
      const int64_t rank = start + (number * size + t) * sites / slots_in_window, at = set * size + t;
      slots[at] = order[rank];
      slots[sets * size + at] = order[rows + rank];
      repeated[at] = repeated[sets * size + at] = rank == last;
      if (t == 0) offsets[set] = rank;
      last = rank;
    }
    if (set == sets - 1) offsets[sets] = rows;
  }
};

inline std::tuple<Tensor, Tensor> window_partition(const Tensor& coords, std::vector<int64_t> window,
                                                   std::vector<int64_t> shift, std::vector<int64_t> count) {
  const Tensor sites = packed(coords);
  const WindowLayout layout = window_layout(sites, window, shift, count);
  const int64_t rows = sites.size(0);
  Tensor number = empty_on<int64_t>(sites, {rows}), inside = empty_on<int64_t>(sites, {rows, layout.axes});
  launch(sites, rows, LocateInWindow{cptr<int32_t>(sites), layout, mptr<int64_t>(number), mptr<int64_t>(inside)}, 4096);
  return {number, inside};
}

inline Tensor set_keys(const Tensor& coords, std::vector<int64_t> window, std::vector<int64_t> shift,
                       std::vector<int64_t> count) {
  const Tensor sites = packed(coords);
  const WindowLayout layout = window_layout(sites, window, shift, count);
  const int64_t rows = sites.size(0);
  Tensor keys = empty_on<int64_t>(sites, {2, rows});
  launch(sites, rows, SetKeys{cptr<int32_t>(sites), layout, rows, mptr<int64_t>(keys)}, 4096);
  return keys;
}

inline std::tuple<Tensor, Tensor, Tensor> fill_sets(const Tensor& order, const Tensor& set_window,
                                                    const Tensor& window_starts, const Tensor& first_set,
                                                    int64_t set_size) {
  const Tensor by_rank = packed(order), windows = packed(set_window), starts = packed(window_starts),
               firsts = packed(first_set);
  const int64_t rows = by_rank.size(1), sets = windows.size(0);
  Tensor slots = empty_on<int64_t>(by_rank, {2, sets, set_size});
  Tensor repeated = empty_on<bool>(by_rank, {2, sets, set_size});
  Tensor offsets = zeros_on<int64_t>(by_rank, {sets + 1});
  launch(by_rank, sets,
         FillSets{cptr<int64_t>(by_rank), cptr<int64_t>(windows), cptr<int64_t>(starts), cptr<int64_t>(firsts), rows,
                  sets, set_size, mptr<int64_t>(slots), mptr<bool>(repeated), mptr<int64_t>(offsets)},
         64);
  return {slots, repeated, offsets};
}

}  // namespace ZOO_TARGET
}  // namespace zoo
