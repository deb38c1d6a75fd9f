// Attention of cells over their points. A cell writes to a place of its own and adds its points in the order of their
// run, so that no result depends on the number of threads.
#pragma once

#include <algorithm>
#include <tuple>
#include <type_traits>

#include "kernels/exponential.h"
#include "kernels/point_cells.h"
#include "runtime/prefetch.h"

namespace zoo {
inline namespace ZOO_TARGET {

// A CPU thread takes up to 16 scores of a cell, a GPU thread one.
constexpr int kScores = ZOO_CUDA ? 1 : 16;

inline int64_t score_tiles(int64_t scores) {
  return (scores + kScores - 1) / kScores;
}

// Calls f(width), with the common widths known to the compiler.
template <class F>
ZOO_HD void with_width(int width, const F& f) {
  if (width == kScores) return f(std::integral_constant<int, kScores>{});
#if !ZOO_CUDA
  if (width == 8) return f(std::integral_constant<int, 8>{});
  if (width == 4) return f(std::integral_constant<int, 4>{});
#endif
  f(width);
}

struct CellTile {
  int64_t cell, first;
  int width;

  ZOO_HD CellTile(int64_t i, int64_t scores) {
    const int64_t tiles = (scores + kScores - 1) / kScores;
    cell = tiles == 1 ? i : i / tiles;  // a division costs more than an empty cell
    first = tiles == 1 ? 0 : i % tiles * kScores;
    width = static_cast<int>(scores - first < kScores ? scores - first : kScores);
  }
};

// Softmax of the scores among the points of a cell.
template <class T>
struct CellWeights {
  const T* scores;  // (M, S)
  const int64_t* order;
  const int64_t* packed_info;
  int64_t total, num_scores;
  T* weights;  // (M, S)

  ZOO_HD void operator()(int64_t i) const {
    const CellTile tile(i, num_scores);
    if (chunk_of(packed_info, tile.cell, total).count == 0) return;
    with_width(tile.width, [&](auto width) { weigh(tile, width); });
  }

  template <class Width>
  ZOO_HD void weigh(const CellTile& tile, Width width) const {
    const Chunk chunk = chunk_of(packed_info, tile.cell, total);
    T largest[kScores], sum[kScores] = {};
    for (int64_t k = 0; k < chunk.count; ++k) {
      const int64_t turn = chunk.start + k;
      if (turn + kAhead < total) prefetch_row(scores + order[turn + kAhead] * num_scores + tile.first, width);
      const T* score = scores + order[turn] * num_scores + tile.first;
      for (int c = 0; c < width; ++c) largest[c] = k == 0 || score[c] > largest[c] ? score[c] : largest[c];
    }
    for (int64_t k = 0; k < chunk.count; ++k) {
      const int64_t at = order[chunk.start + k] * num_scores + tile.first;
      T* ZOO_RESTRICT weight = weights + at;
      for (int c = 0; c < width; ++c) {
        weight[c] = vector_exp(scores[at + c] - largest[c]);
        sum[c] += weight[c];
      }
    }
    for (int64_t k = 0; k < chunk.count; ++k) {
      T* ZOO_RESTRICT weight = weights + order[chunk.start + k] * num_scores + tile.first;
      for (int c = 0; c < width; ++c) weight[c] /= sum[c];
    }
  }
};

// The sum of a cell's weighed values; score j weighs the channels j, S + j, 2 S + j, ...
template <class T>
struct CellSums {
  const T* weights;  // (M, S)
  const T* values;   // (M, C)
  const int64_t* order;
  const int64_t* packed_info;
  int64_t total, num_scores, channels;
  T* out;  // (cells, C)

  ZOO_HD void operator()(int64_t i) const {
    const CellTile tile(i, num_scores);
    with_width(tile.width, [&](auto width) { sum(tile, width); });
  }

  template <class Width>
  ZOO_HD void sum(const CellTile& tile, Width width) const {
    const Chunk chunk = chunk_of(packed_info, tile.cell, total);
    T* ZOO_RESTRICT to = out + tile.cell * channels + tile.first;
    for (int64_t g = 0; g < channels; g += num_scores) {
      for (int c = 0; c < width; ++c) to[g + c] = 0;
    }
    for (int64_t k = 0; k < chunk.count; ++k) {
      const int64_t turn = chunk.start + k, point = order[turn];
      if (turn + kAhead < total) prefetch_row(values + order[turn + kAhead] * channels, channels);
      const T* ZOO_RESTRICT weight = weights + point * num_scores + tile.first;
      const T* ZOO_RESTRICT value = values + point * channels + tile.first;
      for (int64_t g = 0; g < channels; g += num_scores) {
        for (int c = 0; c < width; ++c) to[g + c] += weight[c] * value[g + c];
      }
    }
  }
};

// Both for a cell while its weights are at hand.
template <class T>
struct CellAttention {
  CellWeights<T> weights;
  CellSums<T> sums;

  ZOO_HD void operator()(int64_t i) const {
    weights(i);
    sums(i);
  }
};

#if !ZOO_CUDA

// The same sums in the same order for cells that are few: points are read in a stream, and threads share the channels.
template <class T>
void stream_cell_sums(const CellSums<T>& job, const int64_t* index, int64_t cells) {
  const int64_t groups = job.channels / job.num_scores;
  const int64_t parts = std::min<int64_t>(groups, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = groups * begin / parts * job.num_scores, last = groups * end / parts * job.num_scores;
    for (int64_t cell = 0; cell < cells; ++cell) {
      std::fill(job.out + cell * job.channels + first, job.out + cell * job.channels + last, T{0});
    }
    const auto add = [&](auto width) {
      for (int64_t point = 0; point < job.total; ++point) {
        const T* ZOO_RESTRICT weight = job.weights + point * width;
        const T* ZOO_RESTRICT value = job.values + point * job.channels;
        T* ZOO_RESTRICT to = job.out + index[point] * job.channels;
        for (int64_t g = first; g < last; g += width) {
          for (int64_t c = 0; c < width; ++c) to[g + c] += weight[c] * value[g + c];
        }
      }
    };
    if (job.num_scores == 8) return add(std::integral_constant<int64_t, 8>{});
    if (job.num_scores == 4) return add(std::integral_constant<int64_t, 4>{});
    add(job.num_scores);
  });
}

#endif

// Of every point: to the values w g, and d = sum of g v over the channels of a score. Points are taken in their own
// order, so that the wide rows are read and written in a stream.
template <class T>
struct CellAttentionProducts {
  const T* grad;         // (cells, C)
  const T* weights;      // (M, S)
  const T* values;       // (M, C)
  const int64_t* index;  // (M,)
  int64_t total, cells, num_scores, channels;
  T* products;   // (M, S)
  T* to_values;  // (M, C)

  ZOO_HD int64_t cell_of(int64_t point) const { return index[point] >= 0 && index[point] < cells ? index[point] : 0; }

  ZOO_HD void operator()(int64_t i) const {
    const CellTile tile(i, num_scores);  // its cell is a point here
    with_width(tile.width, [&](auto width) { multiply(tile.cell, tile.first, width); });
  }

  template <class Width>
  ZOO_HD void multiply(int64_t point, int64_t first, Width width) const {
    if (point + kAhead < total) prefetch_row(grad + cell_of(point + kAhead) * channels, channels);
    const T* ZOO_RESTRICT weight = weights + point * num_scores + first;
    const T* ZOO_RESTRICT value = values + point * channels + first;
    T* ZOO_RESTRICT to = to_values + point * channels + first;
    T product[kScores] = {};
    const T* ZOO_RESTRICT from = grad + cell_of(point) * channels + first;
    for (int64_t g = 0; g < channels; g += num_scores) {
      for (int c = 0; c < width; ++c) {
        product[c] += from[g + c] * value[g + c];
        to[g + c] = weight[c] * from[g + c];
      }
    }
    for (int c = 0; c < width; ++c) products[point * num_scores + first + c] = product[c];
  }
};

// Of every cell: to the scores w (d - sum w d).
template <class T>
struct CellScoreGradient {
  const T* weights;  // (M, S)
  const int64_t* order;
  const int64_t* packed_info;
  int64_t total, num_scores;
  T* scores;  // (M, S): d, then the gradient

  ZOO_HD void operator()(int64_t i) const {
    const CellTile tile(i, num_scores);
    if (chunk_of(packed_info, tile.cell, total).count == 0) return;
    with_width(tile.width, [&](auto width) { differentiate(tile, width); });
  }

  template <class Width>
  ZOO_HD void differentiate(const CellTile& tile, Width width) const {
    const Chunk chunk = chunk_of(packed_info, tile.cell, total);
    T mean[kScores] = {};
    for (int64_t k = 0; k < chunk.count; ++k) {
      const int64_t at = order[chunk.start + k] * num_scores + tile.first;
      for (int c = 0; c < width; ++c) mean[c] += weights[at + c] * scores[at + c];
    }
    for (int64_t k = 0; k < chunk.count; ++k) {
      const int64_t at = order[chunk.start + k] * num_scores + tile.first;
      T* ZOO_RESTRICT score = scores + at;
      for (int c = 0; c < width; ++c) score[c] = weights[at + c] * (score[c] - mean[c]);
    }
  }
};

inline std::tuple<Tensor, Tensor> cell_attention(const Tensor& scores, const Tensor& values, const Tensor& index,
                                                 const Tensor& order, const Tensor& packed_info) {
  const Tensor s = packed(scores), v = packed(values), at = packed(index), o = packed(order),
               info = packed(packed_info);
  const int64_t total = v.size(0), num_scores = s.size(1), channels = v.size(1), cells = info.size(0);
  check_cells(at, o, info, total, "cell_attention");
  return dispatch_floating(v.scalar_type(), "cell_attention", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(v, {cells, channels}), weights = empty_on<T>(v, {total, num_scores});
    const CellWeights<T> weigh{cptr<T>(s), cptr<int64_t>(o), cptr<int64_t>(info), total, num_scores, mptr<T>(weights)};
    const CellSums<T> sum{cptr<T>(weights), cptr<T>(v), cptr<int64_t>(o), cptr<int64_t>(info), total,
                          num_scores,       channels,   mptr<T>(out)};
#if !ZOO_CUDA
    if (cells <= total) {
      launch(v, cells * score_tiles(num_scores), weigh, 64);
      stream_cell_sums(sum, cptr<int64_t>(at), cells);
      return std::make_tuple(out, weights);
    }
#endif
    launch(v, cells * score_tiles(num_scores), CellAttention<T>{weigh, sum}, 64);
    return std::make_tuple(out, weights);
  });
}

inline std::tuple<Tensor, Tensor> cell_attention_backward(const Tensor& grad, const Tensor& weights,
                                                          const Tensor& values, const Tensor& index,
                                                          const Tensor& order, const Tensor& packed_info) {
  const Tensor g = packed(grad), w = packed(weights), v = packed(values), at = packed(index), o = packed(order),
               info = packed(packed_info);
  const int64_t total = v.size(0), num_scores = w.size(1), channels = v.size(1), cells = info.size(0);
  check_cells(at, o, info, total, "cell_attention_backward");
  return dispatch_floating(v.scalar_type(), "cell_attention_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor to_scores = empty_on<T>(v, {total, num_scores}), to_values = empty_on<T>(v, {total, channels});
    launch(v, total * score_tiles(num_scores),
           CellAttentionProducts<T>{cptr<T>(g), cptr<T>(w), cptr<T>(v), cptr<int64_t>(at), total, cells, num_scores,
                                    channels, mptr<T>(to_scores), mptr<T>(to_values)},
           256);
    launch(
        v, cells * score_tiles(num_scores),
        CellScoreGradient<T>{cptr<T>(w), cptr<int64_t>(o), cptr<int64_t>(info), total, num_scores, mptr<T>(to_scores)},
        64);
    return std::make_tuple(to_scores, to_values);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
