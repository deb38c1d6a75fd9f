// Colours of Gaussians from spherical harmonics of the line of sight, and their gradient.
#pragma once

#include "kernels/row_sums.h"
#include "kernels/spherical_harmonics.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kMaxColorBands = 5;

// Unit vector from the camera to the Gaussian; returns the inverse of the distance.
template <class T>
ZOO_HD T line_of_sight(const T* mean, const T* center, T* unit) {
  T squared = 0;
  for (int d = 0; d < 3; ++d) {
    unit[d] = mean[d] - center[d];
    squared += unit[d] * unit[d];
  }
  const T inverse = squared > 0 ? 1 / sqrt(squared) : T(0);
  for (int d = 0; d < 3; ++d) unit[d] *= inverse;
  return inverse;
}

template <class T, int kBands>
struct GaussianColors {
  const T *means, *coeffs, *centers;
  const int32_t* radii;  // may be null
  int64_t count, coefficients;
  bool rectify;
  ShNorms<T> norms;
  T* out;  // (C, N, 3)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t camera = i / count, n = i % count;
    T color[3] = {};
    if (radii == nullptr || radii[2 * i] > 0) {
      T v[3];
      line_of_sight(means + 3 * n, centers + 3 * camera, v);
      const T* k = coeffs + n * coefficients * 3;
      visit_sh(kBands, v[0], v[1], v[2], [&](int l, int m, T here, T, T cosine, T sine, T, T) {
        const T value = norms.value[l * kMaxShDegree + m] * here;
        for (int d = 0; d < 3; ++d) color[d] += value * cosine * k[3 * (l * l + l + m) + d];
        if (m == 0) return;
        for (int d = 0; d < 3; ++d) color[d] += value * sine * k[3 * (l * l + l - m) + d];
      });
      for (int d = 0; d < 3 && rectify; ++d) color[d] = color[d] + T(0.5) > 0 ? color[d] + T(0.5) : T(0);
    }
    for (int d = 0; d < 3; ++d) out[3 * i + d] = color[d];
  }
};

template <class T, int kBands>
struct GaussianColorsBackward {
  const T *grad, *colors, *means, *coeffs, *centers;
  const int32_t* radii;
  int64_t cameras, count, coefficients;
  bool rectify;
  ShNorms<T> norms;
  T *out_means, *out_coeffs, *center_rows;  // center_rows (C, N, 3), null where not needed

  ZOO_HD void operator()(int64_t n) const {
    T* out = out_coeffs + n * coefficients * 3;
    for (int64_t k = 0; k < 3 * coefficients; ++k) out[k] = 0;
    T mean_sum[3] = {};
    for (int64_t camera = 0; camera < cameras; ++camera) {
      const int64_t i = camera * count + n;
      T toward[3] = {};
      if (radii == nullptr || radii[2 * i] > 0) add_camera(camera, n, i, out, toward);
      for (int d = 0; d < 3; ++d) {
        mean_sum[d] += toward[d];
        if (center_rows != nullptr) center_rows[3 * i + d] = -toward[d];
      }
    }
    for (int d = 0; d < 3; ++d) out_means[3 * n + d] = mean_sum[d];
  }

  ZOO_HD void add_camera(int64_t camera, int64_t n, int64_t i, T* out, T* toward) const {
    T v[3], g[3], along[3] = {};
    const T inverse = line_of_sight(means + 3 * n, centers + 3 * camera, v);
    for (int d = 0; d < 3; ++d) g[d] = rectify && !(colors[3 * i + d] > 0) ? T(0) : grad[3 * i + d];
    const T* k = coeffs + n * coefficients * 3;
    visit_sh(kBands, v[0], v[1], v[2], [&](int l, int m, T here, T next, T cosine, T sine, T cos_before, T sin_before) {
      const T norm = norms.value[l * kMaxShDegree + m];
      const int even = 3 * (l * l + l + m), odd = 3 * (l * l + l - m);
      T gc = 0, gs = 0;
      for (int d = 0; d < 3; ++d) {
        out[even + d] += norm * here * cosine * g[d];
        gc += norm * k[even + d] * g[d];
        if (m == 0) continue;
        out[odd + d] += norm * here * sine * g[d];
        gs += norm * k[odd + d] * g[d];
      }
      along[0] += m * here * (gc * cos_before + gs * sin_before);
      along[1] += m * here * (gs * cos_before - gc * sin_before);
      along[2] += next * (gc * cosine + gs * sine);
    });
    const T radial = along[0] * v[0] + along[1] * v[1] + along[2] * v[2];
    for (int d = 0; d < 3; ++d) toward[d] = (along[d] - radial * v[d]) * inverse;
  }
};

template <class F>
void dispatch_bands(int64_t degree, F&& f) {
  switch (degree) {
    case 0:
      return f(std::integral_constant<int, 1>{});
    case 1:
      return f(std::integral_constant<int, 2>{});
    case 2:
      return f(std::integral_constant<int, 3>{});
    case 3:
      return f(std::integral_constant<int, 4>{});
    default:
      return f(std::integral_constant<int, kMaxColorBands>{});
  }
}

inline void check_colors(const Tensor& means, const Tensor& coeffs, int64_t degree) {
  STD_TORCH_CHECK(degree >= 0 && degree < kMaxColorBands && coeffs.dim() == 3 && coeffs.size(0) == means.size(0) &&
                      coeffs.size(1) >= (degree + 1) * (degree + 1) && coeffs.size(2) == 3,
                  "gaussian_colors: coefficients do not fit the Gaussians or the degree");
}

inline Tensor gaussian_colors(const Tensor& means_in, const Tensor& coeffs_in, const Tensor& centers_in,
                              std::optional<Tensor> radii_in, int64_t degree, bool rectify) {
  const Tensor means = packed(means_in), coeffs = packed(coeffs_in), centers = packed(centers_in);
  const bool has_radii = radii_in.has_value();
  const Tensor radii = has_radii ? packed(*radii_in) : means;
  check_colors(means, coeffs, degree);
  const int64_t cameras = centers.size(0), count = means.size(0);
  return dispatch_floating(means.scalar_type(), "gaussian_colors", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(means, {cameras, count, 3});
    dispatch_bands(degree, [&](auto bands) {
      launch(means, cameras * count,
             GaussianColors<T, decltype(bands)::value>{
                 cptr<T>(means), cptr<T>(coeffs), cptr<T>(centers), has_radii ? cptr<int32_t>(radii) : nullptr, count,
                 coeffs.size(1), rectify, ShNorms<T>(static_cast<int>(degree) + 1, true), mptr<T>(out)});
    });
    return out;
  });
}

inline std::tuple<Tensor, Tensor, Tensor> gaussian_colors_backward(const Tensor& grad_in, const Tensor& colors_in,
                                                                   const Tensor& means_in, const Tensor& coeffs_in,
                                                                   const Tensor& centers_in,
                                                                   std::optional<Tensor> radii_in, int64_t degree,
                                                                   bool rectify, bool needs_centers) {
  const Tensor grad = packed(grad_in), colors = packed(colors_in);
  const Tensor means = packed(means_in), coeffs = packed(coeffs_in), centers = packed(centers_in);
  const bool has_radii = radii_in.has_value();
  const Tensor radii = has_radii ? packed(*radii_in) : means;
  check_colors(means, coeffs, degree);
  const int64_t cameras = centers.size(0), count = means.size(0);
  return dispatch_floating(means.scalar_type(), "gaussian_colors_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor out_means = empty_on<T>(means, {count, 3}), out_coeffs = empty_on<T>(means, {count, coeffs.size(1), 3});
    Tensor out_centers = zeros_on<T>(means, {cameras, 3});
    const Tensor rows = empty_on<T>(means, {needs_centers ? cameras * count : 0, 3});
    dispatch_bands(degree, [&](auto bands) {
      launch(means, count,
             GaussianColorsBackward<T, decltype(bands)::value>{
                 cptr<T>(grad), cptr<T>(colors), cptr<T>(means), cptr<T>(coeffs), cptr<T>(centers),
                 has_radii ? cptr<int32_t>(radii) : nullptr, cameras, count, coeffs.size(1), rectify,
                 ShNorms<T>(static_cast<int>(degree) + 1, true), mptr<T>(out_means), mptr<T>(out_coeffs),
                 needs_centers ? mptr<T>(rows) : nullptr});
    });
    if (needs_centers) sum_rows<T>(rows, cameras, count, 3, mptr<T>(out_centers), 3);
    return std::make_tuple(out_means, out_coeffs, out_centers);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
