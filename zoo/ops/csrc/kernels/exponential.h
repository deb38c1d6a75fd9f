// exp in a form that compilers turn into vector instructions: the library's function is called one value at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

ZOO_HD double vector_exp(double x) {
  return exp(x);
}

#if ZOO_CUDA

ZOO_HD float vector_exp(float x) {
  return expf(x);
}

#else

// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln 2 / 2, where a polynomial of degree 6 errs by 2^-27.
// Within 2 units in the last place of the result; 0 below the smallest normal number, infinity above the largest, NaN
// for NaN.
ZOO_HD float vector_exp(float x) {
  constexpr float kLowest = -87.33654f, kHighest = 88.72283f, kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds
  const float inside = x < kLowest ? kLowest : (x > kHighest ? kHighest : x);
  const float n = (inside * 1.44269504f + kRound) - kRound;
  const float r = (inside - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts: the first product is exact
  float poly = 1.3981999e-3f;
  poly = poly * r + 8.3334519e-3f;
  poly = poly * r + 4.1665796e-2f;
  poly = poly * r + 1.6666666e-1f;
  poly = poly * r + 0.5f;
  poly = poly * r * r + r + 1.0f;
  const int32_t half = static_cast<int32_t>(n) >> 1, rest = static_cast<int32_t>(n) - half;  // 2^128 has no float
  const int32_t first_bits = (half + 127) << 23, second_bits = (rest + 127) << 23;
  float first, second;
  std::memcpy(&first, &first_bits, sizeof(first));
  std::memcpy(&second, &second_bits, sizeof(second));
  const float value = poly * first * second;
  const float bounded = x < kLowest ? 0.0f : (x > kHighest ? HUGE_VALF : value);
  return x == x ? bounded : x;
}

#endif

}  // namespace ZOO_TARGET
}  // namespace zoo
