// Running sums and products along packed rays: a warp scans the samples of a ray, 32 at a time, by shuffles, and
// carries the last value on. Order of the additions is fixed, so results do not change from run to run.
#include "kernels/packed_chunks.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kWarp = 32;
constexpr int kScanThreads = 128;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Add {
  template <class T>
  static __device__ T identity() {
    return T(0);
  }
  template <class T>
  static __device__ T combine(T a, T b) {
    return a + b;
  }
};

struct Multiply {
  template <class T>
  static __device__ T identity() {
    return T(1);
  }
  template <class T>
  static __device__ T combine(T a, T b) {
    return a * b;
  }
};

// Scans one ray with one warp; every lane calls it.
template <class Op, class T>
__device__ void scan_ray(const T* x, T* output, int64_t count, bool exclusive, bool reverse, int lane) {
  T carry = Op::template identity<T>();
  for (int64_t base = 0; base < count; base += kWarp) {
    const int64_t i = base + lane;
    const int64_t row = reverse ? count - 1 - i : i;
    T value = i < count ? x[row] : Op::template identity<T>();
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const T other = __shfl_up_sync(kAllLanes, value, offset);
      if (lane >= offset) value = Op::combine(other, value);
    }
    value = Op::combine(carry, value);
    T before = __shfl_up_sync(kAllLanes, value, 1);
    if (lane == 0) before = carry;
    if (i < count) output[row] = exclusive ? before : value;
    carry = __shfl_sync(kAllLanes, value, kWarp - 1);
  }
}

template <class Op, class T>
__global__ void __launch_bounds__(kScanThreads) scan_kernel(const T* x, const int64_t* packed_info, int64_t n_rays,
                                                            int64_t total, bool exclusive, bool reverse, T* output) {
  const int lane = threadIdx.x % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t ray = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp; ray < n_rays;
       ray += warps) {
    const Chunk chunk = chunk_of(packed_info, ray, total);
    scan_ray<Op>(x + chunk.start, output + chunk.start, chunk.count, exclusive, reverse, lane);
  }
}

// Gradient of the product: the exclusive products of the ray, times what follows each sample. The latter is a linear
// recurrence s_k = a_k s_{k+1} + b_k from the ray's end; its maps (a, b) are composed by the same warp scan.
template <class T>
__global__ void __launch_bounds__(kScanThreads)
    prod_backward_kernel(const T* grad, const T* x, const int64_t* packed_info, int64_t n_rays, int64_t total,
                         bool exclusive, T* output) {
  const int lane = threadIdx.x % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t ray = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp; ray < n_rays;
       ray += warps) {
    const Chunk chunk = chunk_of(packed_info, ray, total);
    const T* factors = x + chunk.start;
    const T* grads = grad + chunk.start;
    T* result = output + chunk.start;
    scan_ray<Multiply>(factors, result, chunk.count, true, false, lane);
    __syncwarp();
    T carry = 0;
    for (int64_t base = 0; base < chunk.count; base += kWarp) {
      const int64_t i = chunk.count - 1 - (base + lane);
      T a = 1, b = 0;
      if (i >= 0) {
        const bool last = i + 1 == chunk.count;
        a = last ? T(1) : factors[i + 1];
        b = exclusive ? (last ? T(0) : grads[i + 1]) : grads[i];
      }
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const T other_a = __shfl_up_sync(kAllLanes, a, offset), other_b = __shfl_up_sync(kAllLanes, b, offset);
        if (lane >= offset) {
          b = a * other_b + b;
          a = a * other_a;
        }
      }
      const T following = a * carry + b;
      if (i >= 0) result[i] *= following;
      carry = __shfl_sync(kAllLanes, following, kWarp - 1);
    }
  }
}

inline dim3 scan_grid(int64_t n_rays) {
  const int64_t rays_per_block = kScanThreads / kWarp;
  return dim3(static_cast<unsigned>(std::min<int64_t>((n_rays + rays_per_block - 1) / rays_per_block, 1 << 16)));
}

template <class Op>
Tensor packed_scan(const Tensor& x, const Tensor& packed_info, bool exclusive, bool reverse, const char* name) {
  const Tensor values = packed(x), info = packed(packed_info);
  const int64_t total = values.size(0), n_rays = info.size(0);
  return dispatch_floating(values.scalar_type(), name, [&](auto zero) {
    using T = decltype(zero);
    Tensor output = empty_on<T>(values, {total});
    if (n_rays == 0 || total == 0) return output;
    const OnDevice guard(values);
    ZOO_LAUNCH((scan_kernel<Op, T>), scan_grid(n_rays), dim3(kScanThreads), 0, current_stream(values), cptr<T>(values),
               cptr<int64_t>(info), n_rays, total, exclusive, reverse, mptr<T>(output));
    return output;
  });
}

Tensor packed_sum(const Tensor& x, const Tensor& packed_info, bool exclusive, bool reverse) {
  return packed_scan<Add>(x, packed_info, exclusive, reverse, "packed_sum");
}

Tensor packed_prod(const Tensor& x, const Tensor& packed_info, bool exclusive) {
  return packed_scan<Multiply>(x, packed_info, exclusive, false, "packed_prod");
}

Tensor packed_prod_backward(const Tensor& grad, const Tensor& x, const Tensor& packed_info, bool exclusive) {
  const Tensor values = packed(x), info = packed(packed_info), grad_output = packed(grad);
  const int64_t total = values.size(0), n_rays = info.size(0);
  return dispatch_floating(values.scalar_type(), "packed_prod_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor output = empty_on<T>(values, {total});
    if (n_rays == 0 || total == 0) return output;
    const OnDevice guard(values);
    ZOO_LAUNCH((prod_backward_kernel<T>), scan_grid(n_rays), dim3(kScanThreads), 0, current_stream(values),
               cptr<T>(grad_output), cptr<T>(values), cptr<int64_t>(info), n_rays, total, exclusive, mptr<T>(output));
    return output;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("packed_sum", TORCH_BOX(&zoo::packed_sum));
  m.impl("packed_prod", TORCH_BOX(&zoo::packed_prod));
  m.impl("packed_prod_backward", TORCH_BOX(&zoo::packed_prod_backward));
}
