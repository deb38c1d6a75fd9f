// Exact searches in a bounding-box tree over points in a spatial order.
//
// Node n has the children 2 n + 1 and 2 n + 2; the last level holds the leaves, each over kLeafPoints consecutive
// points. A node stores its box (low x y z, high x y z) and the first and last sample (batch entry) of its points; a
// node without points has first > last. Distances are squared, summed x, y, z, without contraction, so that a box is
// never farther than a point in it and equal distances compare equal on every path.
#pragma once

#include <cstdint>
#include <limits>
#include <tuple>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int64_t kLeafPoints = 8;
constexpr int kMostLevels = 40;

template <class T>
ZOO_HD T sum_of_squares(T x, T y, T z) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 4) {
    return __fadd_rn(__fadd_rn(__fmul_rn(x, x), __fmul_rn(y, y)), __fmul_rn(z, z));
  } else {
    return __dadd_rn(__dadd_rn(__dmul_rn(x, x), __dmul_rn(y, y)), __dmul_rn(z, z));
  }
#else
  return x * x + y * y + z * z;
#endif
}

// Distance by which `value` lies outside [low, high].
template <class T>
ZOO_HD T gap(T value, T low, T high) {
  const T below = low - value, above = value - high, outside = below > above ? below : above;
  return outside > T(0) ? outside : T(0);
}

template <class T>
struct PointTree {
  const T* points;              // (N, 3), in tree order
  const int64_t* order;         // (N,) tree row -> caller's row
  const int64_t* samples;       // (N,)
  const T* boxes;               // (nodes, 6)
  const int64_t* sample_range;  // (nodes, 2)
  int64_t num_points, first_leaf;

  ZOO_HD T distance_to_box(int64_t node, const T* q) const {
    const T* box = boxes + node * 6;
    return sum_of_squares(gap(q[0], box[0], box[3]), gap(q[1], box[1], box[4]), gap(q[2], box[2], box[5]));
  }
  // Whether points of the sample may lie under the node; where there is one sample, no node needs to be asked.
  ZOO_HD bool holds(int64_t node, int64_t sample, bool one_sample) const {
    return one_sample || (sample_range[2 * node] <= sample && sample <= sample_range[2 * node + 1]);
  }
  ZOO_HD T distance(int64_t row, const T* q) const {
    const T* p = points + row * 3;
    return sum_of_squares(q[0] - p[0], q[1] - p[1], q[2] - p[2]);
  }

  // Shows `found` every point of the sample that may matter: found.reaches(d) says whether anything at distance d can
  // still matter, found.add(d, caller's row) takes a point.
  template <class Found>
  ZOO_HD void search(const T* q, int64_t sample, Found& found) const {
    int64_t stack[kMostLevels];
    T reach[kMostLevels];
    int depth = 0;
    if (!holds(0, sample, false)) return;
    const bool one_sample = sample_range[0] == sample_range[1];
    stack[depth] = 0;
    reach[depth++] = distance_to_box(0, q);
    while (depth > 0) {
      const int64_t node = stack[--depth];
      if (!found.reaches(reach[depth])) continue;
      if (node >= first_leaf) {
        const int64_t begin = (node - first_leaf) * kLeafPoints;
        const int64_t end = begin + kLeafPoints < num_points ? begin + kLeafPoints : num_points;
        for (int64_t row = begin; row < end; ++row) {
          if (!one_sample && samples[row] != sample) continue;
          const T far = distance(row, q);
          if (found.reaches(far)) found.add(far, order[row]);
        }
        continue;
      }
      int64_t near = 2 * node + 1, far = near + 1;
      const bool near_holds = holds(near, sample, one_sample), far_holds = holds(far, sample, one_sample);
      T near_reach = near_holds ? distance_to_box(near, q) : T(0);
      T far_reach = far_holds ? distance_to_box(far, q) : T(0);
      if (near_holds && far_holds && far_reach < near_reach) {
        const int64_t other = near;
        near = far, far = other;
        const T other_reach = near_reach;
        near_reach = far_reach, far_reach = other_reach;
      }
      if (far_holds && found.reaches(far_reach)) stack[depth] = far, reach[depth++] = far_reach;
      if (near_holds && found.reaches(near_reach)) stack[depth] = near, reach[depth++] = near_reach;
    }
  }
};

// The k nearest so far, in order of (distance, row); they lie in the query's row of the result.
template <class T>
struct NearestRows {
  T* distances;
  int64_t* rows;
  int64_t k;

  ZOO_HD bool reaches(T distance) const { return distance <= distances[k - 1]; }
  ZOO_HD bool before(T distance, int64_t row, int64_t place) const {
    return distance < distances[place] || (distance == distances[place] && row < rows[place]);
  }
  ZOO_HD void add(T distance, int64_t row) {
    if (!before(distance, row, k - 1)) return;
    int64_t place = k - 1;
    for (; place > 0 && before(distance, row, place - 1); --place) {
      distances[place] = distances[place - 1];
      rows[place] = rows[place - 1];
    }
    distances[place] = distance;
    rows[place] = row;
  }
};

template <class T>
struct NearestNeighbors {
  PointTree<T> tree;
  const T* queries;              // (M, 3)
  const int64_t* query_samples;  // (M,)
  const int64_t* query_order;    // (M,)
  int64_t k;
  int64_t* rows;  // (M, k)
  T* distances;   // (M, k)

  ZOO_HD void operator()(int64_t i) const {
    constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    const int64_t query = query_order[i];
    NearestRows<T> found{distances + query * k, rows + query * k, k};
    for (int64_t place = 0; place < k; ++place) {
      found.distances[place] = std::numeric_limits<T>::infinity();
      found.rows[place] = kNone;
    }
    tree.search(queries + query * 3, query_samples[query], found);
    for (int64_t place = 0; place < k; ++place) {
      if (found.rows[place] == kNone) found.rows[place] = -1;
    }
  }
};

// The first rows within the radius, ascending.
template <class T>
struct RowsWithin {
  T square;
  int64_t* rows;
  int64_t most, count;

  ZOO_HD bool reaches(T distance) const { return distance < square; }
  ZOO_HD void add(T distance, int64_t row) {
    if (count == most && row > rows[most - 1]) return;
    int64_t place = count < most ? count++ : most - 1;
    for (; place > 0 && rows[place - 1] > row; --place) rows[place] = rows[place - 1];
    rows[place] = row;
  }
};

template <class T>
struct BallQuery {
  PointTree<T> tree;
  const T* queries;
  const int64_t* query_samples;
  const int64_t* query_order;
  T square;
  int64_t most;
  int64_t* rows;    // (M, most)
  int64_t* counts;  // (M,)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t query = query_order[i];
    RowsWithin<T> found{square, rows + query * most, most, 0};
    tree.search(queries + query * 3, query_samples[query], found);
    for (int64_t place = found.count; place < most; ++place) found.rows[place] = -1;
    counts[query] = found.count;
  }
};

template <class T>
PointTree<T> tree_of(const Tensor& points, const Tensor& order, const Tensor& samples, const Tensor& boxes,
                     const Tensor& sample_range) {
  return {cptr<T>(points), cptr<int64_t>(order),   cptr<int64_t>(samples), cptr<T>(boxes), cptr<int64_t>(sample_range),
          points.size(0),  (boxes.size(0) - 1) / 2};
}

inline std::tuple<Tensor, Tensor> point_knn(const Tensor& queries, const Tensor& query_samples,
                                            const Tensor& query_order, const Tensor& points, const Tensor& order,
                                            const Tensor& samples, const Tensor& boxes, const Tensor& sample_range,
                                            int64_t k) {
  const Tensor q = packed(queries), qs = packed(query_samples), qo = packed(query_order), p = packed(points),
               o = packed(order), s = packed(samples), b = packed(boxes), r = packed(sample_range);
  const int64_t count = q.size(0);
  return dispatch_floating(q.scalar_type(), "knn", [&](auto zero) {
    using T = decltype(zero);
    Tensor rows = empty_on<int64_t>(q, {count, k}), distances = empty_on<T>(q, {count, k});
    launch(q, count,
           NearestNeighbors<T>{tree_of<T>(p, o, s, b, r), cptr<T>(q), cptr<int64_t>(qs), cptr<int64_t>(qo), k,
                               mptr<int64_t>(rows), mptr<T>(distances)},
           64);
    return std::make_tuple(rows, distances);
  });
}

inline std::tuple<Tensor, Tensor> point_ball(const Tensor& queries, const Tensor& query_samples,
                                             const Tensor& query_order, const Tensor& points, const Tensor& order,
                                             const Tensor& samples, const Tensor& boxes, const Tensor& sample_range,
                                             double radius, int64_t most) {
  const Tensor q = packed(queries), qs = packed(query_samples), qo = packed(query_order), p = packed(points),
               o = packed(order), s = packed(samples), b = packed(boxes), r = packed(sample_range);
  const int64_t count = q.size(0);
  return dispatch_floating(q.scalar_type(), "ball_query", [&](auto zero) {
    using T = decltype(zero);
    Tensor rows = empty_on<int64_t>(q, {count, most}), counts = empty_on<int64_t>(q, {count});
    launch(q, count,
           BallQuery<T>{tree_of<T>(p, o, s, b, r), cptr<T>(q), cptr<int64_t>(qs), cptr<int64_t>(qo),
                        static_cast<T>(radius * radius), most, mptr<int64_t>(rows), mptr<int64_t>(counts)},
           64);
    return std::make_tuple(rows, counts);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
