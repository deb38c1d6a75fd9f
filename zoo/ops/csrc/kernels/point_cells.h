// Which cell of a regular grid of D = 2 or 3 axes a point lies in, and the points of every cell.
#pragma once

#include <tuple>
#include <vector>

#include "kernels/packed_chunks.h"
#include "runtime/op.h"
#if ZOO_CUDA
#include "cuda/sorted_keys.h"
#endif

namespace zoo {
inline namespace ZOO_TARGET {

// floor(coords scale), held within [0, largest]; 0 for NaN. Flat with the first coordinate innermost.
template <class T>
struct CellIndex {
  const T* coords;  // (B N, D)
  int64_t count, axes, scale, largest, resolution, cells;
  int64_t* out;  // (B N,)

  ZOO_HD void operator()(int64_t i) const {
    int64_t flat = 0;
    for (int64_t axis = axes - 1; axis >= 0; --axis) {
      const T place = coords[i * axes + axis] * static_cast<T>(scale);
      const int64_t cell = place >= static_cast<T>(largest) ? largest : (place > 0 ? static_cast<int64_t>(place) : 0);
      flat = flat * resolution + cell;
    }
    out[i] = flat + i / count * cells;
  }
};

inline Tensor cell_index(const Tensor& coords, int64_t scale, int64_t largest, int64_t resolution) {
  const Tensor at = packed(coords);
  const int64_t batch = at.size(0), count = at.size(1), axes = at.size(2);
  int64_t cells = 1;
  for (int64_t axis = 0; axis < axes; ++axis) cells *= resolution;
  return dispatch_floating(at.scalar_type(), "cell_index", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<int64_t>(at, {batch * count});
    launch(at, batch * count,
           CellIndex<T>{cptr<T>(at), count, axes, scale, largest, resolution, cells, mptr<int64_t>(out)}, 4096);
    return out;
  });
}

#if ZOO_CUDA

struct CellRun {
  const int64_t* sorted;  // (M,)
  int64_t count;
  int64_t* packed_info;  // (cells, 2)

  ZOO_HD int64_t first_not_below(int64_t cell) const {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (sorted[middle] < cell)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
  ZOO_HD void operator()(int64_t cell) const {
    const int64_t start = first_not_below(cell);
    packed_info[2 * cell] = start;
    packed_info[2 * cell + 1] = first_not_below(cell + 1) - start;
  }
};

inline std::tuple<Tensor, Tensor> cell_order(const Tensor& index, int64_t num_cells) {
  const auto [sorted, order] = sort_keys(index);
  Tensor info = empty_on<int64_t>(index, {num_cells, 2});
  launch(index, num_cells, CellRun{cptr<int64_t>(sorted), index.size(0), mptr<int64_t>(info)});
  return {order, info};
}

#else

// Counting sort.
inline std::tuple<Tensor, Tensor> cell_order(const Tensor& index, int64_t num_cells) {
  const Tensor cells = packed(index);
  const int64_t count = cells.size(0);
  const int64_t* cell = cptr<int64_t>(cells);
  Tensor order = empty_on<int64_t>(cells, {count}), packed_info = empty_on<int64_t>(cells, {num_cells, 2});
  int64_t *to = mptr<int64_t>(order), *info = mptr<int64_t>(packed_info);
  std::vector<int64_t> next(num_cells);  // points of a cell, then the place of its next one
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(cell[i] >= 0 && cell[i] < num_cells, "cell_order: index[", i, "] is ", cell[i], ", expected 0 to ",
                    num_cells - 1);
    ++next[cell[i]];
  }
  int64_t total = 0;
  for (int64_t c = 0; c < num_cells; ++c) {
    info[2 * c] = total;
    info[2 * c + 1] = next[c];
    total += next[c];
    next[c] = info[2 * c];
  }
  for (int64_t i = 0; i < count; ++i) to[next[cell[i]]++] = i;
  return {order, packed_info};
}

#endif

// On the CPU a run, a cell or a point that does not exist is an error; a GPU would have to wait for the answer.
inline void check_order(const Tensor& order, int64_t total, const char* op) {
  STD_TORCH_CHECK(order.size(0) == total, op, ": order holds ", order.size(0), " points, expected ", total);
#if !ZOO_CUDA
  const int64_t* point = cptr<int64_t>(order);
  for (int64_t i = 0; i < total; ++i) {
    STD_TORCH_CHECK(point[i] >= 0 && point[i] < total, op, ": order[", i, "] is ", point[i], ", expected 0 to ",
                    total - 1);
  }
#endif
}

inline void check_points(const Tensor& order, const Tensor& packed_info, int64_t total, const char* op) {
  check_order(order, total, op);
  check_tiling(packed_info, total, op);
}

inline void check_cells(const Tensor& index, const Tensor& order, const Tensor& packed_info, int64_t total,
                        const char* op) {
  STD_TORCH_CHECK(index.size(0) == total, op, ": index holds ", index.size(0), " points, expected ", total);
  check_points(order, packed_info, total, op);
#if !ZOO_CUDA
  const int64_t *cell = cptr<int64_t>(index), cells = packed_info.size(0);
  for (int64_t i = 0; i < total; ++i) {
    STD_TORCH_CHECK(cell[i] >= 0 && cell[i] < cells, op, ": index[", i, "] is ", cell[i], ", expected 0 to ",
                    cells - 1);
  }
#endif
}

}  // namespace ZOO_TARGET
}  // namespace zoo
