// Inverse transform sampling along packed rays.
#pragma once

#include <tuple>

#include "kernels/packed_chunks.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

// First position in [low, high) whose key is greater than `value`, else high.
template <class T>
ZOO_HD int64_t first_above(const T* keys, int64_t low, int64_t high, T value) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (keys[middle] > value) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

template <class T>
struct ImportanceSample {
  const T* edges;  // (N,)
  const T* cdfs;   // (N,)
  const int64_t* packed_info;
  int64_t total, n_intervals;
  const T* jitter;  // (R,)
  T* new_edges;     // (R, n + 1)
  T* samples;       // (R, n)

  ZOO_HD void operator()(int64_t ray) const {
    const Chunk chunk = chunk_of(packed_info, ray, total);
    T* out = samples + ray * n_intervals;
    T* out_edges = new_edges + ray * (n_intervals + 1);
    if (chunk.count == 0) {
      for (int64_t k = 0; k < n_intervals; ++k) out[k] = out_edges[k] = 0;
      out_edges[n_intervals] = 0;
      return;
    }
    const int64_t first = chunk.start, last = chunk.start + chunk.count - 1;
    const T floor = cdfs[first], step = (cdfs[last] - cdfs[first]) / static_cast<T>(n_intervals);
    for (int64_t k = 0; k < n_intervals; ++k) {
      const T u = floor + (static_cast<T>(k) + jitter[ray]) * step;
      const int64_t right = first_above(cdfs, first, last, u);
      const int64_t left = right > first ? right - 1 : first;
      const T mass = cdfs[right] - cdfs[left], span = edges[right] - edges[left];
      out[k] = mass < T(1e-10) ? (edges[left] + edges[right]) * T(0.5) : (u - cdfs[left]) * (span / mass) + edges[left];
    }
    if (n_intervals == 1) {
      out_edges[0] = edges[first];
      out_edges[1] = edges[last];
      return;
    }
    const int64_t n = n_intervals;
    const T before = out[0] - (out[1] - out[0]) * T(0.5), after = out[n - 1] + (out[n - 1] - out[n - 2]) * T(0.5);
    out_edges[0] = before > edges[first] ? before : edges[first];
    for (int64_t k = 1; k < n; ++k) out_edges[k] = (out[k] + out[k - 1]) * T(0.5);
    out_edges[n] = after < edges[last] ? after : edges[last];
  }
};

template <class T>
struct IntervalSearch {
  const T* edges;  // (N,)
  const int64_t* packed_info;
  int64_t total, n_rays;
  const T* values;            // (M,)
  const int64_t* value_rays;  // (M,)
  int64_t* left;              // (M,)
  int64_t* right;             // (M,)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t ray = value_rays[i];
    const bool known = ray >= 0 && ray < n_rays;
    const Chunk chunk = known ? chunk_of(packed_info, ray, total) : Chunk{0, 0};
    const int64_t start = known ? packed_info[2 * ray] : 0;
    const int64_t found =
        chunk.count > 0 ? first_above(edges, chunk.start, chunk.start + chunk.count - 1, values[i]) : start;
    right[i] = found;
    left[i] = found > start ? found - 1 : start;
  }
};

inline std::tuple<Tensor, Tensor> importance_sample(const Tensor& edges, const Tensor& cdfs, const Tensor& packed_info,
                                                    int64_t n_intervals, const Tensor& jitter) {
  const Tensor e = packed(edges), c = packed(cdfs), info = packed(packed_info), shift = packed(jitter);
  const int64_t total = e.size(0), n_rays = info.size(0);
  check_tiling(info, total, "importance_sample");
  return dispatch_floating(e.scalar_type(), "importance_sample", [&](auto zero) {
    using T = decltype(zero);
    Tensor new_edges = empty_on<T>(e, {n_rays, n_intervals + 1}), samples = empty_on<T>(e, {n_rays, n_intervals});
    launch(e, n_rays,
           ImportanceSample<T>{cptr<T>(e), cptr<T>(c), cptr<int64_t>(info), total, n_intervals, cptr<T>(shift),
                               mptr<T>(new_edges), mptr<T>(samples)},
           64);
    return std::make_tuple(new_edges, samples);
  });
}

inline std::tuple<Tensor, Tensor> interval_search(const Tensor& edges, const Tensor& packed_info, const Tensor& values,
                                                  const Tensor& value_rays) {
  const Tensor e = packed(edges), info = packed(packed_info), v = packed(values), rays = packed(value_rays);
  const int64_t total = e.size(0), count = v.size(0);
  check_tiling(info, total, "interval_search");
  return dispatch_floating(e.scalar_type(), "interval_search", [&](auto zero) {
    using T = decltype(zero);
    Tensor left = empty_on<int64_t>(e, {count}), right = empty_on<int64_t>(e, {count});
    launch(e, count,
           IntervalSearch<T>{cptr<T>(e), cptr<int64_t>(info), total, info.size(0), cptr<T>(v), cptr<int64_t>(rays),
                             mptr<int64_t>(left), mptr<int64_t>(right)});
    return std::make_tuple(left, right);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
