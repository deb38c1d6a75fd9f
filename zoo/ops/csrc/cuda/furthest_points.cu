// Furthest point sampling on the GPU: one block for each cloud. Every round the threads bring their points' distances
// up to date, then reduce to the farthest one in shared memory; of equal distances the caller's lower row wins.
#include <cstdint>
#include <limits>

#include "kernels/point_tree.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kSampleThreads = 512;

template <class T>
__global__ void __launch_bounds__(kSampleThreads)
    furthest_points_kernel(const T* points, const int64_t* order, const int64_t* offsets, int64_t num_samples,
                           T* distance, int64_t* chosen) {
  __shared__ T best_distance[kSampleThreads];
  __shared__ int64_t best_row[kSampleThreads];
  const int64_t begin = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
  int64_t* out = chosen + blockIdx.x * num_samples;
  const int thread = threadIdx.x;
  for (int64_t row = begin + thread; row < end; row += kSampleThreads) {
    // The cloud's first point, wherever the spatial order has put it, beats the others in the first round.
    distance[row] = order[row] == begin ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max();
  }
  __syncthreads();
  int64_t taken = -1;
  for (int64_t s = 0; s < num_samples; ++s) {
    T largest = T(-1);
    int64_t farthest = -1;
    for (int64_t row = begin + thread; row < end; row += kSampleThreads) {
      T d = distance[row];
      if (row == taken) {
        d = T(-1);
      } else if (taken >= 0) {
        const T *p = points + row * 3, *q = points + taken * 3;
        const T fresh = sum_of_squares(q[0] - p[0], q[1] - p[1], q[2] - p[2]);
        d = fresh < d ? fresh : d;
      }
      distance[row] = d;
      if (d >= T(0) && (d > largest || (d == largest && order[row] < order[farthest]))) {
        largest = d;
        farthest = row;
      }
    }
    best_distance[thread] = largest;
    best_row[thread] = farthest;
    __syncthreads();
    for (int half = kSampleThreads / 2; half > 0; half /= 2) {
      if (thread < half && best_row[thread + half] >= 0) {
        const T other = best_distance[thread + half];
        const int64_t row = best_row[thread + half];
        const bool wins = best_row[thread] < 0 || other > best_distance[thread] ||
                          (other == best_distance[thread] && order[row] < order[best_row[thread]]);
        if (wins) {
          best_distance[thread] = other;
          best_row[thread] = row;
        }
      }
      __syncthreads();
    }
    taken = best_row[0];
    if (thread == 0) out[s] = taken < 0 ? -1 : order[taken];
    __syncthreads();
  }
}

inline Tensor furthest_points(const Tensor& points, const Tensor& order, const Tensor& offsets, int64_t num_samples) {
  const Tensor p = packed(points), o = packed(order), f = packed(offsets);
  const int64_t clouds = f.size(0) - 1;
  Tensor chosen = empty_on<int64_t>(f, {clouds, num_samples});
  if (clouds == 0 || num_samples == 0) return chosen;
  const OnDevice guard(p);
  dispatch_floating(p.scalar_type(), "furthest_point_sample", [&](auto zero) {
    using T = decltype(zero);
    Tensor distance = empty_on<T>(p, {p.size(0)});
    ZOO_LAUNCH((furthest_points_kernel<T>), dim3(static_cast<unsigned>(clouds)), dim3(kSampleThreads), 0,
               current_stream(p), cptr<T>(p), cptr<int64_t>(o), cptr<int64_t>(f), num_samples, mptr<T>(distance),
               mptr<int64_t>(chosen));
    return 0;
  });
  return chosen;
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("furthest_points", TORCH_BOX(&zoo::furthest_points));
}
