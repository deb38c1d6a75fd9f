// Real spherical harmonics of a direction (x, y, z), band by band, and their gradient.
//
// Y_l^m = s_m N_l^|m| D_l^|m|(z) * { Im (x + iy)^|m| for m < 0;  1 for m = 0;  Re (x + iy)^m for m > 0 }
// with D_l^m = d^m P_l / dz^m (P_l Legendre), N_l^m = sqrt((2l + 1) / (4 pi) (l - m)! / (l + m)!) times sqrt(2) for m >
// 0, and s_m = (-1)^m with the Condon-Shortley phase, 1 without. Row-major index of (l, m): l^2 + l + m.
#pragma once

#include <cmath>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kMaxShDegree = 8;

template <class T>
struct ShNorms {
  T value[kMaxShDegree * kMaxShDegree];  // [l * kMaxShDegree + m], sign included

  ShNorms(int degree, bool condon_shortley) {
    for (int l = 0; l < degree; ++l) {
      for (int m = 0; m <= l; ++m) {
        double ratio = 1.0;  // (l - m)! / (l + m)!
        for (int k = l - m + 1; k <= l + m; ++k) ratio /= k;
        double norm = std::sqrt((2 * l + 1) / (4.0 * 3.14159265358979323846) * ratio) * (m > 0 ? std::sqrt(2.0) : 1.0);
        value[l * kMaxShDegree + m] = static_cast<T>(condon_shortley && m % 2 == 1 ? -norm : norm);
      }
    }
  }
};

// Visits every (l, m >= 0) with D_l^m(z), D_l^{m+1}(z), C_m, S_m, C_{m-1}, S_{m-1}.
template <class T, class Visit>
ZOO_HD void visit_sh(int degree, T x, T y, T z, Visit&& visit) {
  T cosine = 1, sine = 0, cosine_before = 0, sine_before = 0, diagonal = 1;  // diagonal = D_m^m = (2m - 1)!!
  for (int m = 0; m < degree; ++m) {
    T two_below = 0, one_below = 0;            // D_{l-2}^m, D_{l-1}^m
    T next_two_below = 0, next_one_below = 0;  // the same for m + 1
    for (int l = m; l < degree; ++l) {
      const T here = l == m ? diagonal : ((2 * l - 1) * z * one_below - (l + m - 1) * two_below) / T(l - m);
      T next = 0;
      if (l == m + 1) next = (2 * m + 1) * diagonal;
      if (l > m + 1) next = ((2 * l - 1) * z * next_one_below - (l + m) * next_two_below) / T(l - m - 1);
      visit(l, m, here, next, cosine, sine, cosine_before, sine_before);
      two_below = one_below;
      one_below = here;
      next_two_below = next_one_below;
      next_one_below = next;
    }
    diagonal *= 2 * m + 1;
    cosine_before = cosine;
    sine_before = sine;
    cosine = x * cosine_before - y * sine_before;
    sine = x * sine_before + y * cosine_before;
  }
}

template <class T>
struct ShForward {
  const T* directions;  // (N, 3)
  T* output;            // (N, degree^2)
  int degree;
  ShNorms<T> norms;

  ZOO_HD void operator()(int64_t i) const {
    const T* d = directions + 3 * i;
    T* out = output + i * degree * degree;
    const ShNorms<T>& n = norms;
    visit_sh(degree, d[0], d[1], d[2], [&](int l, int m, T here, T, T cosine, T sine, T, T) {
      const T value = n.value[l * kMaxShDegree + m] * here;
      out[l * l + l + m] = value * cosine;
      if (m > 0) out[l * l + l - m] = value * sine;
    });
  }
};

template <class T>
struct ShBackward {
  const T* directions;   // (N, 3)
  const T* grad_output;  // (N, degree^2)
  T* grad_directions;    // (N, 3)
  int degree;
  ShNorms<T> norms;

  ZOO_HD void operator()(int64_t i) const {
    const T* d = directions + 3 * i;
    const T* grad = grad_output + i * degree * degree;
    const ShNorms<T>& n = norms;
    T gx = 0, gy = 0, gz = 0;
    visit_sh(degree, d[0], d[1], d[2],
             [&](int l, int m, T here, T next, T cosine, T sine, T cosine_before, T sine_before) {
               const T norm = n.value[l * kMaxShDegree + m];
               const T grad_cosine = grad[l * l + l + m] * norm;
               const T grad_sine = m > 0 ? grad[l * l + l - m] * norm : T(0);
               gx += m * here * (grad_cosine * cosine_before + grad_sine * sine_before);
               gy += m * here * (grad_sine * cosine_before - grad_cosine * sine_before);
               gz += next * (grad_cosine * cosine + grad_sine * sine);
             });
    grad_directions[3 * i] = gx;
    grad_directions[3 * i + 1] = gy;
    grad_directions[3 * i + 2] = gz;
  }
};

inline Tensor spherical_harmonics(const Tensor& directions, int64_t degree, bool condon_shortley) {
  const Tensor x = packed(directions);
  const int64_t n = x.size(0);
  return dispatch_floating(x.scalar_type(), "spherical_harmonics", [&](auto zero) {
    using T = decltype(zero);
    Tensor output = empty_on<T>(x, {n, degree * degree});
    const int d = static_cast<int>(degree);
    launch(x, n, ShForward<T>{cptr<T>(x), mptr<T>(output), d, ShNorms<T>(d, condon_shortley)});
    return output;
  });
}

inline Tensor spherical_harmonics_backward(const Tensor& grad_output, const Tensor& directions, int64_t degree,
                                           bool condon_shortley) {
  const Tensor x = packed(directions);
  const Tensor grad = packed(grad_output);
  const int64_t n = x.size(0);
  return dispatch_floating(x.scalar_type(), "spherical_harmonics_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor output = empty_on<T>(x, {n, 3});
    const int d = static_cast<int>(degree);
    launch(x, n, ShBackward<T>{cptr<T>(x), cptr<T>(grad), mptr<T>(output), d, ShNorms<T>(d, condon_shortley)});
    return output;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
