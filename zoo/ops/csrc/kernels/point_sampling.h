// Bilinear and trilinear interpolation of a grid of rows at points. In the gradient a node adds the points of its cells
// in a fixed order, so that no result depends on the number of threads.
#pragma once

#include <algorithm>
#include <optional>
#include <type_traits>

#include "kernels/point_cells.h"
#include "runtime/prefetch.h"

namespace zoo {
inline namespace ZOO_TARGET {

// Where a point lies among the nodes: the lower corner of its cell on each axis, and its share of the upper one.
template <class T, int D>
struct NodePlace {
  int64_t base[D];
  T part[D];

  ZOO_HD NodePlace(const T* coords, int64_t resolution) {
    const T last = static_cast<T>(resolution - 1);
    const int64_t largest = resolution > 2 ? resolution - 2 : 0;
    for (int axis = 0; axis < D; ++axis) {
      T place = coords[axis] * last;
      place = place < 0 ? 0 : (place > last ? last : place);  // NaN stays
      base[axis] = place >= static_cast<T>(largest) ? largest : (place > 0 ? static_cast<int64_t>(place) : 0);
      part[axis] = place - static_cast<T>(base[axis]);
    }
  }

  ZOO_HD T weight(int corner) const {
    T product = 1;
    for (int axis = 0; axis < D; ++axis) product *= corner >> axis & 1 ? part[axis] : 1 - part[axis];
    return product;
  }

  // Of a corner, on the first axes only.
  template <int Axes = D>
  ZOO_HD int64_t row(int corner, int64_t resolution) const {
    int64_t flat = 0;
    for (int axis = Axes - 1; axis >= 0; --axis) {
      const int64_t at = base[axis] + (corner >> axis & 1);
      flat = flat * resolution + (at < resolution ? at : resolution - 1);
    }
    return flat;
  }
};

// A CPU thread takes all channels of a point, a GPU thread one.
inline int64_t channel_parts(int64_t channels) {
  return ZOO_CUDA ? channels : 1;
}

template <class T, int D>
struct SampleRows {
  const T* rows;         // (B, cells, C)
  const T* coords;       // (B N, D)
  const int64_t* order;  // which point comes when; null: as they stand
  int64_t count, resolution, cells, channels, parts;
  T* out;  // (B N, C)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t turn = i / parts, point = order ? order[turn] : turn;
    const NodePlace<T, D> place(coords + point * D, resolution);
    const T* from[1 << D];
    T weight[1 << D];
    for (int corner = 0; corner < 1 << D; ++corner) {
      from[corner] = rows + (point / count * cells + place.row(corner, resolution)) * channels;
      weight[corner] = place.weight(corner);
    }
    sum(from, weight, i % parts, parts == 1 ? channels : i % parts + 1, out + point * channels);
  }

  // All corners in one loop over the channels, which compilers turn into vector instructions.
  ZOO_HD static void sum(const T* const (&from)[1 << D], const T (&weight)[1 << D], int64_t begin, int64_t end,
                         T* ZOO_RESTRICT to) {
    for (int64_t c = begin; c < end; ++c) {
      T total = 0;
      for (int corner = 0; corner < 1 << D; ++corner) total += weight[corner] * from[corner][c];
      to[c] = total;
    }
  }
};

#if ZOO_CUDA

// The gradient of a node: of the points of the cells that it is a corner of, cell by cell.
template <class T, int D>
struct SampleRowsGradient {
  const T* grad;               // (B N, C)
  const T* coords;             // (B N, D)
  const int64_t* order;        // points by the cell between nodes
  const int64_t* packed_info;  // (B cells, 2)
  int64_t total, resolution, cells, channels;
  T* out;  // (B, cells, C)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t node = i / channels, channel = i % channels;
    T sum = 0;
    bool inner[D];
    for (int64_t axis = 0, rest = node % cells; axis < D; ++axis, rest /= resolution)
      inner[axis] = rest % resolution > 0;
    for (int corner = 0; corner < 1 << D; ++corner) {
      int64_t cell = node, stride = 1;
      bool exists = true;
      for (int axis = 0; axis < D; ++axis, stride *= resolution) {
        if (!(corner >> axis & 1)) continue;
        exists = exists && inner[axis];
        cell -= stride;
      }
      if (!exists) continue;
      const Chunk chunk = chunk_of(packed_info, cell, total);
      for (int64_t k = 0; k < chunk.count; ++k) {
        const int64_t point = order[chunk.start + k];
        const T weight = NodePlace<T, D>(coords + point * D, resolution).weight(corner);
        sum += weight * grad[point * channels + channel];
      }
    }
    out[i] = sum;
  }
};

#else

// The gradient of a layer of nodes, all of the same last coordinate: of the points of the cells before it, then of
// those behind it, cell by cell. Their rows are read one after another while the layer stays in the cache.
template <class T, int D>
struct SampleLayerGradient {
  static constexpr int kCorners = 1 << (D - 1);  // of a cell in one layer
  const T* grad;                                 // (B N, C)
  const T* coords;                               // (B N, D)
  const int64_t* order;                          // points by the cell between nodes
  const int64_t* packed_info;                    // (B cells, 2)
  int64_t total, resolution, nodes, channels;    // nodes of a layer
  T* out;                                        // (B, cells, C)

  void operator()(int64_t layer) const {
    T* to = out + layer * nodes * channels;
    std::fill(to, to + nodes * channels, T{0});
    for (int upper = layer % resolution > 0 ? 1 : 0; upper >= 0; --upper) {
      for (int64_t cell = (layer - upper) * nodes, end = cell + nodes; cell < end; ++cell) {
        const Chunk chunk = chunk_of(packed_info, cell, total);
        for (int64_t at = chunk.start; at < chunk.start + chunk.count; ++at) {
          if (at + kAhead < total) prefetch_row(grad + order[at + kAhead] * channels, channels);
          add(order[at], upper, to);
        }
      }
    }
  }

  void add(int64_t point, int upper, T* to) const {
    const NodePlace<T, D> place(coords + point * D, resolution);
    const T* ZOO_RESTRICT from = grad + point * channels;
    for (int corner = 0; corner < kCorners; ++corner) {
      const T weight = place.weight(corner | upper << (D - 1));
      T* ZOO_RESTRICT row = to + place.template row<D - 1>(corner, resolution) * channels;
      for (int64_t c = 0; c < channels; ++c) row[c] += weight * from[c];
    }
  }
};

#endif

// The gradient of a point's coordinates; 0 where the point was moved to the border.
template <class T, int D>
struct SampleCoordsGradient {
  const T* grad;    // (B N, C)
  const T* rows;    // (B, cells, C)
  const T* coords;  // (B N, D)
  int64_t count, resolution, cells, channels;
  T* out;  // (B N, D)

  ZOO_HD void operator()(int64_t point) const {
    const NodePlace<T, D> place(coords + point * D, resolution);
    const T* g = grad + point * channels;
    T slope[D] = {};
    for (int corner = 0; corner < 1 << D; ++corner) {
      const T* row = rows + (point / count * cells + place.row(corner, resolution)) * channels;
      T dot = 0;
      for (int64_t c = 0; c < channels; ++c) dot += g[c] * row[c];
      for (int axis = 0; axis < D; ++axis) {
        T share = corner >> axis & 1 ? 1 : -1;
        for (int other = 0; other < D; ++other) {
          if (other != axis) share *= corner >> other & 1 ? place.part[other] : 1 - place.part[other];
        }
        slope[axis] += share * dot;
      }
    }
    const T last = static_cast<T>(resolution - 1);
    for (int axis = 0; axis < D; ++axis) {
      const T at = coords[point * D + axis] * last;
      out[point * D + axis] = at >= 0 && at <= last ? slope[axis] * last : 0;
    }
  }
};

// Calls f(T{}, axes) with the dtype and the number of axes known to the compiler.
template <class F>
auto dispatch_axes(ScalarType dtype, int64_t axes, const char* op, const F& f) {
  STD_TORCH_CHECK(axes == 2 || axes == 3, op, ": found ", axes, " axes, expected 2 or 3");
  return dispatch_floating(dtype, op, [&](auto zero) {
    return axes == 2 ? f(zero, std::integral_constant<int, 2>{}) : f(zero, std::integral_constant<int, 3>{});
  });
}

// Points by the cell between nodes, of a grid with that many nodes.
inline Tensor order_between_nodes(const Tensor& coords, int64_t resolution, int64_t nodes) {
  const int64_t largest = resolution > 2 ? resolution - 2 : 0;
  return std::get<0>(cell_order(cell_index(coords, resolution - 1, largest, resolution), coords.size(0) * nodes));
}

// Points by cell find their corners in the caches, which a volume exceeds; that is worth sorting many of them.
inline bool is_worth_sorting(int64_t axes, int64_t count, int64_t nodes) {
  return !ZOO_CUDA && axes == 3 && count * 8 > nodes;
}

inline Tensor sample_rows(const Tensor& rows, const Tensor& coords, int64_t resolution, std::optional<Tensor> order,
                          std::optional<Tensor> /*packed_info*/) {
  const Tensor r = packed(rows), at = packed(coords);
  const int64_t batch = at.size(0), count = at.size(1), channels = r.size(2), parts = channel_parts(channels);
  Tensor turns = at;
  const int64_t* turn = nullptr;
  if (is_worth_sorting(at.size(2), count, r.size(1))) {
    turns = order.has_value() ? packed(*order) : order_between_nodes(at, resolution, r.size(1));
    check_order(turns, batch * count, "sample_rows");
    turn = cptr<int64_t>(turns);
  }
  return dispatch_axes(r.scalar_type(), at.size(2), "sample_rows", [&](auto zero, auto axes) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(r, {batch, count, channels});
    launch(
        r, batch * count * parts,
        SampleRows<T, axes>{cptr<T>(r), cptr<T>(at), turn, count, resolution, r.size(1), channels, parts, mptr<T>(out)},
        64);
    return out;
  });
}

inline Tensor sample_rows_backward(const Tensor& grad, const Tensor& coords, int64_t resolution, const Tensor& order,
                                   const Tensor& packed_info) {
  const Tensor g = packed(grad), at = packed(coords), o = packed(order), info = packed(packed_info);
  const int64_t batch = at.size(0), total = batch * at.size(1), channels = g.size(2);
  check_points(o, info, total, "sample_rows_backward");
  int64_t cells = 1;
  for (int64_t axis = 0; axis < at.size(2); ++axis) cells *= resolution;
  STD_TORCH_CHECK(info.size(0) == batch * cells, "sample_rows_backward: packed_info describes ", info.size(0),
                  " cells, expected ", batch * cells);
  return dispatch_axes(g.scalar_type(), at.size(2), "sample_rows_backward", [&](auto zero, auto axes) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(g, {batch, cells, channels});
#if ZOO_CUDA
    launch(g, batch * cells * channels,
           SampleRowsGradient<T, axes>{cptr<T>(g), cptr<T>(at), cptr<int64_t>(o), cptr<int64_t>(info), total,
                                       resolution, cells, channels, mptr<T>(out)});
#else
    launch(g, batch * resolution,
           SampleLayerGradient<T, axes>{cptr<T>(g), cptr<T>(at), cptr<int64_t>(o), cptr<int64_t>(info), total,
                                        resolution, cells / resolution, channels, mptr<T>(out)},
           1);
#endif
    return out;
  });
}

inline Tensor sample_coords_backward(const Tensor& grad, const Tensor& rows, const Tensor& coords, int64_t resolution) {
  const Tensor g = packed(grad), r = packed(rows), at = packed(coords);
  const int64_t batch = at.size(0), count = at.size(1), axes = at.size(2);
  return dispatch_axes(r.scalar_type(), axes, "sample_coords_backward", [&](auto zero, auto known_axes) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(r, {batch, count, axes});
    launch(r, batch * count,
           SampleCoordsGradient<T, known_axes>{cptr<T>(g), cptr<T>(r), cptr<T>(at), count, resolution, r.size(1),
                                               r.size(2), mptr<T>(out)},
           64);
    return out;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
