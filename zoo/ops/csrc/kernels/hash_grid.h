// Where a point lies on one level of a hash grid: the arithmetic that all targets share. No torch in here: the files
// below cpu/isa include it too, and everything is inlined into its caller.
//
// p = fma(scale, x, shift); the cell is floor(p); corner c (bit d = axis d) has the row
// (sum or XOR over d of (cell_d + c_d) * multiplier_d) mod rows, all in wrapping 32-bit arithmetic.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ZOO_INLINE __host__ __device__ __forceinline__
#else
#define ZOO_INLINE __attribute__((always_inline)) inline
#endif

namespace zoo {

constexpr int kMaxGridDims = 4;
constexpr int kMaxGridLevels = 32;

enum GridInterpolation : int { kLinear = 0, kSmoothstep = 1, kNearest = 2 };

template <class T>
struct GridLevel {
  T scale;
  uint32_t rows;
  bool hashed;
  uint32_t multipliers[kMaxGridDims];
  int64_t first;  // row of the table at which the level begins
};

struct GridSettings {
  int interpolation;
  bool bounded;       // points outside of [0, 1] are encoded as zeros
  bool ceil_corners;  // the upper corner is ceil(p), not floor(p) + 1
  double shift;
};

ZOO_INLINE float fused_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return fmaf(a, b, c);
#elif defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  // The product is exact in double; what is lost to rounding twice is beyond any use.
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
#endif
}
ZOO_INLINE double fused_multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return fma(a, b, c);
#elif defined(__FP_FAST_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}
ZOO_INLINE float round_down(float a) {
  return __builtin_floorf(a);
}
ZOO_INLINE double round_down(double a) {
  return __builtin_floor(a);
}

// One coordinate on one level.
template <class T>
struct GridAxis {
  uint32_t low, high;  // products of the two vertices and the multiplier
  T upper;             // weight of the upper vertex
  T slope;             // d upper / d x
};

template <class T>
ZOO_INLINE GridAxis<T> place_on_axis(T x, T scale, T shift, uint32_t multiplier, int interpolation, bool ceil_corners) {
  const T position = fused_multiply_add(scale, x, shift);
  const T floor = round_down(position);
  const T fraction = position - floor;
  // Conversion of what an int32 cannot hold is undefined; such points land at its ends.
  const T least = static_cast<T>(-2147483648.0), most = static_cast<T>(2147483520.0);
  const T clamped = floor < least ? least : (floor < most ? floor : most);
  const uint32_t low = static_cast<uint32_t>(static_cast<int32_t>(clamped)) * multiplier;
  const uint32_t step = !ceil_corners || fraction > T(0) ? multiplier : 0u;
  GridAxis<T> axis{low, low + step, fraction, scale};
  if (interpolation == kSmoothstep) {
    axis.upper = fraction * fraction * (T(3) - T(2) * fraction);
    axis.slope = scale * (T(6) * fraction * (T(1) - fraction));
  }
  return axis;
}

template <int D, class T>
ZOO_INLINE uint32_t corner_index(const GridAxis<T> (&axes)[D], int corner, bool hashed) {
  uint32_t index = corner & 1 ? axes[0].high : axes[0].low;
#pragma GCC unroll 4
  for (int d = 1; d < D; ++d) {
    const uint32_t term = corner >> d & 1 ? axes[d].high : axes[d].low;
    index = hashed ? index ^ term : index + term;
  }
  return index;
}

// Product of the sides' weights over all axes but `skipped` (-1: over all).
template <int D, class T>
ZOO_INLINE T corner_weight(const GridAxis<T> (&axes)[D], int corner, int skipped = -1) {
  T weight = T(1);
#pragma GCC unroll 4
  for (int d = 0; d < D; ++d) {
    if (d != skipped) weight *= corner >> d & 1 ? axes[d].upper : T(1) - axes[d].upper;
  }
  return weight;
}

template <int D, class T>
ZOO_INLINE bool inside_unit_cube(const T* x) {
  bool inside = true;
#pragma GCC unroll 4
  for (int d = 0; d < D; ++d) inside = inside && x[d] >= T(0) && x[d] <= T(1);
  return inside;
}

}  // namespace zoo
