// Projection of a Gaussian to a camera's picture, and its gradient. One thread takes one Gaussian.
#pragma once

#include <cmath>

#include "kernels/row_sums.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

template <class T>
struct Projector {
  T fx, fy, cx, cy, width, height, blur, least_ratio, min_compensation;
  bool ortho, fov_clamp;

  ZOO_HD T low(T center, T focal, T size) const {
    const T tangent = T(0.5) * size / focal;
    return fov_clamp ? T(1.3) * tangent : center / focal + T(0.3) * tangent;
  }
  ZOO_HD T high(T center, T focal, T size) const {
    const T tangent = T(0.5) * size / focal;
    return fov_clamp ? T(1.3) * tangent : (size - center) / focal + T(0.3) * tangent;
  }
};

// What both directions need: rotation, camera's view of it, and the covariance in the picture.
template <class T>
struct Splat {
  T rotation[9];  // of the Gaussian
  T axes[9];      // W R diag(s)
  T local[3];     // W mean + d
  T ratio_x, ratio_y;
  bool free_x, free_y;  // whether the ratios are not held
  T j00, j02, j11, j12;
  T xx, xy, yy;  // before the blur
};

template <class T>
ZOO_HD T rotation_of(const T* quat, T* r) {
  const T norm = sqrt(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3]);
  const T w = quat[0] / norm, x = quat[1] / norm, y = quat[2] / norm, z = quat[3] / norm;
  r[0] = 1 - 2 * (y * y + z * z), r[1] = 2 * (x * y - w * z), r[2] = 2 * (x * z + w * y);
  r[3] = 2 * (x * y + w * z), r[4] = 1 - 2 * (x * x + z * z), r[5] = 2 * (y * z - w * x);
  r[6] = 2 * (x * z - w * y), r[7] = 2 * (y * z + w * x), r[8] = 1 - 2 * (x * x + y * y);
  return norm;
}

template <class T>
ZOO_HD T held(T value, T low, T high, bool& is_free) {
  is_free = value >= -low && value <= high;
  return value < -low ? -low : (value > high ? high : value);
}

template <class T>
ZOO_HD Splat<T> splat(const Projector<T>& p, const T* mean, const T* quat, const T* scale, const T* view) {
  Splat<T> s;
  rotation_of(quat, s.rotation);
  for (int i = 0; i < 3; ++i) {
    const T* w = view + 4 * i;
    s.local[i] = w[0] * mean[0] + w[1] * mean[1] + w[2] * mean[2] + w[3];
    for (int j = 0; j < 3; ++j) {
      s.axes[3 * i + j] = (w[0] * s.rotation[j] + w[1] * s.rotation[3 + j] + w[2] * s.rotation[6 + j]) * scale[j];
    }
  }
  s.ratio_x = s.ratio_y = 0;
  s.free_x = s.free_y = false;
  if (p.ortho) {
    s.j00 = p.fx, s.j11 = p.fy, s.j02 = s.j12 = 0;
  } else {
    const T z = s.local[2];
    s.ratio_x = held(s.local[0] / z, p.low(p.cx, p.fx, p.width), p.high(p.cx, p.fx, p.width), s.free_x);
    s.ratio_y = held(s.local[1] / z, p.low(p.cy, p.fy, p.height), p.high(p.cy, p.fy, p.height), s.free_y);
    s.j00 = p.fx / z, s.j11 = p.fy / z;
    s.j02 = -p.fx * s.ratio_x / z, s.j12 = -p.fy * s.ratio_y / z;
  }
  s.xx = s.xy = s.yy = 0;
  for (int j = 0; j < 3; ++j) {
    const T u = s.j00 * s.axes[j] + s.j02 * s.axes[6 + j], v = s.j11 * s.axes[3 + j] + s.j12 * s.axes[6 + j];
    s.xx += u * u;
    s.xy += u * v;
    s.yy += v * v;
  }
  return s;
}

template <class T>
struct ProjectionSettings {
  T width, height, blur, min_compensation, near_plane, far_plane;
  bool ortho, fov_clamp, circle, antialiased;

  ZOO_HD Projector<T> projector(const T* intrinsics) const {
    return {intrinsics[0],
            intrinsics[1],
            intrinsics[2],
            intrinsics[3],
            width,
            height,
            blur,
            min_compensation * min_compensation,
            min_compensation,
            ortho,
            fov_clamp};
  }
};

template <class T>
struct ProjectGaussian {
  const T *means, *quats, *scales, *opacities, *views, *intrinsics;  // opacities may be null
  int64_t count;
  ProjectionSettings<T> settings;
  T *means2d, *depths, *conics, *compensations, *covariances;
  int32_t* radii;

  ZOO_HD void extent(const Splat<T>& s, T after, T compensation, int64_t n, T& rx, T& ry) const {
    const T xx = s.xx + settings.blur, yy = s.yy + settings.blur;
    if (settings.circle) {
      const T middle = T(0.5) * (xx + yy), spread = middle * middle - after;
      rx = ry = ceil(3 * sqrt(middle + sqrt(spread > T(0.1) ? spread : T(0.1))));
      return;
    }
    T reach = T(3.33);
    if (opacities != nullptr) {
      const T opacity = opacities[n] * (settings.antialiased ? compensation : T(1));
      const T squared = 2 * log(255 * opacity);
      const T shown = sqrt(squared > 0 ? squared : T(0));
      reach = opacity >= T(1) / 255 ? (shown < reach ? shown : reach) : T(0);
    }
    rx = ceil(reach * sqrt(xx));
    ry = ceil(reach * sqrt(yy));
  }

  ZOO_HD void operator()(int64_t i) const {
    const int64_t camera = i / count, n = i % count;
    const Projector<T> p = settings.projector(intrinsics + 4 * camera);
    const Splat<T> s = splat(p, means + 3 * n, quats + 4 * n, scales + 3 * n, views + 16 * camera);
    const T xx = s.xx + p.blur, yy = s.yy + p.blur, z = s.local[2], divisor = p.ortho ? T(1) : z;
    const T after = xx * yy - s.xy * s.xy, ratio = (s.xx * s.yy - s.xy * s.xy) / after;
    const T compensation = ratio > p.least_ratio ? sqrt(ratio) : p.min_compensation;
    const T u = p.fx * s.local[0] / divisor + p.cx, v = p.fy * s.local[1] / divisor + p.cy;
    T rx = 0, ry = 0;
    extent(s, after, compensation, n, rx, ry);
    const T conic[3] = {yy / after, -s.xy / after, xx / after};
    const T limit = T(1 << 24);
    bool visible = z >= settings.near_plane && z <= settings.far_plane && after > 0 && rx > 0 && ry > 0 && rx < limit &&
                   ry < limit && u + rx > 0 && u - rx < p.width && v + ry > 0 && v - ry < p.height;
    for (int d = 0; d < 3; ++d) visible = visible && conic[d] - conic[d] == 0;  // finite
    means2d[2 * i] = visible ? u : T(0);
    means2d[2 * i + 1] = visible ? v : T(0);
    depths[i] = visible ? z : T(0);
    for (int d = 0; d < 3; ++d) conics[3 * i + d] = visible ? conic[d] : T(0);
    compensations[i] = visible ? compensation : T(0);
    covariances[3 * i] = visible ? s.xx : T(0);
    covariances[3 * i + 1] = visible ? s.xy : T(0);
    covariances[3 * i + 2] = visible ? s.yy : T(0);
    radii[2 * i] = visible ? static_cast<int32_t>(rx) : 0;
    radii[2 * i + 1] = visible ? static_cast<int32_t>(ry) : 0;
  }
};

template <class T>
struct ProjectGaussianBackward {
  const T *grad_means2d, *grad_depths, *grad_conics, *grad_compensations, *grad_covariances;
  const T *means, *quats, *scales, *views, *intrinsics;
  const int32_t* radii;
  int64_t cameras, count;
  ProjectionSettings<T> settings;
  T *out_means, *out_quats, *out_scales, *view_rows;  // view_rows (C, N, 12), null where not needed

  // Gradient of the covariance in the picture (xx, xy, yy) from what is made of it.
  ZOO_HD void covariance_gradient(const Projector<T>& p, const Splat<T>& s, int64_t i, T* g) const {
    const T a = s.xx + p.blur, c = s.yy + p.blur, b = s.xy, after = a * c - b * b;
    const T q0 = c / after, q1 = -b / after, q2 = a / after;
    const T g0 = grad_conics[3 * i], g1 = T(0.5) * grad_conics[3 * i + 1], g2 = grad_conics[3 * i + 2];
    const T m00 = g0 * q0 + g1 * q1, m01 = g0 * q1 + g1 * q2, m10 = g1 * q0 + g2 * q1, m11 = g1 * q1 + g2 * q2;
    g[0] = -(q0 * m00 + q1 * m10) + grad_covariances[3 * i];
    g[1] = -2 * (q0 * m01 + q1 * m11) + grad_covariances[3 * i + 1];
    g[2] = -(q1 * m01 + q2 * m11) + grad_covariances[3 * i + 2];
    const T ratio = (s.xx * s.yy - b * b) / after;
    if (ratio > p.least_ratio) {
      const T k = grad_compensations[i] * T(0.5) / sqrt(ratio) / after;
      g[0] += k * (s.yy - ratio * c);
      g[1] += k * 2 * b * (ratio - 1);
      g[2] += k * (s.xx - ratio * a);
    }
  }

  ZOO_HD void operator()(int64_t n) const {
    T mean_sum[3] = {}, scale_sum[3] = {}, rotation_sum[9] = {};
    for (int64_t camera = 0; camera < cameras; ++camera) {
      const int64_t i = camera * count + n;
      T* rows = view_rows == nullptr ? nullptr : view_rows + 12 * i;
      if (rows != nullptr) {
        for (int d = 0; d < 12; ++d) rows[d] = 0;
      }
      if (radii[2 * i] > 0) add_camera(camera, n, i, mean_sum, scale_sum, rotation_sum, rows);
    }
    T r[9];
    const T* quat = quats + 4 * n;
    const T norm = rotation_of(quat, r), inverse = norm > 0 ? 1 / norm : T(0);
    const T w = quat[0] * inverse, x = quat[1] * inverse, y = quat[2] * inverse, z = quat[3] * inverse;
    const T* g = rotation_sum;
    const T grad[4] = {
        2 * (x * (g[7] - g[5]) + y * (g[2] - g[6]) + z * (g[3] - g[1])),
        2 * (-2 * x * (g[4] + g[8]) + y * (g[1] + g[3]) + z * (g[2] + g[6]) + w * (g[7] - g[5])),
        2 * (x * (g[1] + g[3]) - 2 * y * (g[0] + g[8]) + z * (g[5] + g[7]) + w * (g[2] - g[6])),
        2 * (x * (g[2] + g[6]) + y * (g[5] + g[7]) - 2 * z * (g[0] + g[4]) + w * (g[3] - g[1])),
    };
    const T unit[4] = {w, x, y, z};
    const T along = grad[0] * w + grad[1] * x + grad[2] * y + grad[3] * z;
    // A Gaussian that no camera shows has zero sums; its NaN and infinities must not reach the gradient.
    bool met = false;
    for (int d = 0; d < 9; ++d) met = met || g[d] != 0;
    for (int d = 0; d < 4; ++d) out_quats[4 * n + d] = met ? (grad[d] - unit[d] * along) * inverse : T(0);
    for (int d = 0; d < 3; ++d) {
      out_means[3 * n + d] = mean_sum[d];
      out_scales[3 * n + d] = scale_sum[d];
    }
  }

  ZOO_HD void add_camera(int64_t camera, int64_t n, int64_t i, T* mean_sum, T* scale_sum, T* rotation_sum,
                         T* rows) const {
    const Projector<T> p = settings.projector(intrinsics + 4 * camera);
    const T *mean = means + 3 * n, *scale = scales + 3 * n, *view = views + 16 * camera;
    const Splat<T> s = splat(p, mean, quats + 4 * n, scale, view);
    T g[3];
    covariance_gradient(p, s, i, g);
    // u = first row of J times axes, v = second: xx = u u, xy = u v, yy = v v.
    T grad_axes[9], grad_j00 = 0, grad_j02 = 0, grad_j11 = 0, grad_j12 = 0;
    for (int j = 0; j < 3; ++j) {
      const T u = s.j00 * s.axes[j] + s.j02 * s.axes[6 + j], v = s.j11 * s.axes[3 + j] + s.j12 * s.axes[6 + j];
      const T gu = 2 * g[0] * u + g[1] * v, gv = g[1] * u + 2 * g[2] * v;
      grad_j00 += gu * s.axes[j];
      grad_j02 += gu * s.axes[6 + j];
      grad_j11 += gv * s.axes[3 + j];
      grad_j12 += gv * s.axes[6 + j];
      grad_axes[j] = s.j00 * gu;
      grad_axes[3 + j] = s.j11 * gv;
      grad_axes[6 + j] = s.j02 * gu + s.j12 * gv;
    }
    const T gx = grad_means2d[2 * i], gy = grad_means2d[2 * i + 1];
    T local[3];
    if (p.ortho) {
      local[0] = gx * p.fx, local[1] = gy * p.fy, local[2] = grad_depths[i];
    } else {
      const T z = s.local[2], per_z = 1 / z;
      local[0] = gx * p.fx * per_z;
      local[1] = gy * p.fy * per_z;
      local[2] = grad_depths[i] - (local[0] * s.local[0] + local[1] * s.local[1]) * per_z;
      local[2] -= (grad_j00 * s.j00 + grad_j02 * s.j02 + grad_j11 * s.j11 + grad_j12 * s.j12) * per_z;
      const T ratio_x = -grad_j02 * p.fx * per_z, ratio_y = -grad_j12 * p.fy * per_z;
      if (s.free_x) local[0] += ratio_x * per_z, local[2] -= ratio_x * s.ratio_x * per_z;
      if (s.free_y) local[1] += ratio_y * per_z, local[2] -= ratio_y * s.ratio_y * per_z;
    }
    for (int j = 0; j < 3; ++j) {
      mean_sum[j] += view[j] * local[0] + view[4 + j] * local[1] + view[8 + j] * local[2];
      for (int k = 0; k < 3; ++k) {  // axes = W R diag(s)
        const T turned = view[j] * grad_axes[k] + view[4 + j] * grad_axes[3 + k] + view[8 + j] * grad_axes[6 + k];
        scale_sum[k] += turned * s.rotation[3 * j + k];
        rotation_sum[3 * j + k] += turned * scale[k];
      }
    }
    if (rows == nullptr) return;
    for (int a = 0; a < 3; ++a) {
      for (int b = 0; b < 3; ++b) {
        T value = local[a] * mean[b];
        for (int k = 0; k < 3; ++k) value += grad_axes[3 * a + k] * s.rotation[3 * b + k] * scale[k];
        rows[4 * a + b] = value;
      }
      rows[4 * a + 3] = local[a];
    }
  }
};

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> project_gaussians(
    const Tensor& means_in, const Tensor& quats_in, const Tensor& scales_in, std::optional<Tensor> opacities_in,
    const Tensor& views_in, const Tensor& intrinsics_in, int64_t width, int64_t height, bool ortho, bool fov_clamp,
    bool circle, bool antialiased, double blur, double min_compensation, double near_plane, double far_plane) {
  const Tensor means = packed(means_in), quats = packed(quats_in), scales = packed(scales_in);
  const Tensor views = packed(views_in), intrinsics = packed(intrinsics_in);
  const bool has_opacities = opacities_in.has_value();
  const Tensor opacities = has_opacities ? packed(*opacities_in) : means;
  const int64_t cameras = views.size(0), count = means.size(0);
  return dispatch_floating(means.scalar_type(), "project_gaussians", [&](auto zero) {
    using T = decltype(zero);
    Tensor means2d = empty_on<T>(means, {cameras, count, 2}), depths = empty_on<T>(means, {cameras, count});
    Tensor conics = empty_on<T>(means, {cameras, count, 3}), compensations = empty_on<T>(means, {cameras, count});
    Tensor covariances = empty_on<T>(means, {cameras, count, 3});
    Tensor radii = empty_on<int32_t>(means, {cameras, count, 2});
    const ProjectionSettings<T> settings{T(width), T(height), T(blur), T(min_compensation), T(near_plane), T(far_plane),
                                         ortho,    fov_clamp, circle,  antialiased};
    launch(means, cameras * count,
           ProjectGaussian<T>{cptr<T>(means), cptr<T>(quats), cptr<T>(scales),
                              has_opacities ? cptr<T>(opacities) : nullptr, cptr<T>(views), cptr<T>(intrinsics), count,
                              settings, mptr<T>(means2d), mptr<T>(depths), mptr<T>(conics), mptr<T>(compensations),
                              mptr<T>(covariances), mptr<int32_t>(radii)});
    return std::make_tuple(means2d, depths, conics, compensations, covariances, radii);
  });
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor> project_gaussians_backward(
    const Tensor& grad_means2d_in, const Tensor& grad_depths_in, const Tensor& grad_conics_in,
    const Tensor& grad_compensations_in, const Tensor& grad_covariances_in, const Tensor& means_in,
    const Tensor& quats_in, const Tensor& scales_in, const Tensor& views_in, const Tensor& intrinsics_in,
    const Tensor& radii_in, int64_t width, int64_t height, bool ortho, bool fov_clamp, double blur,
    double min_compensation, bool needs_viewmats) {
  const Tensor g0 = packed(grad_means2d_in), g1 = packed(grad_depths_in), g2 = packed(grad_conics_in);
  const Tensor g3 = packed(grad_compensations_in), g4 = packed(grad_covariances_in);
  const Tensor means = packed(means_in), quats = packed(quats_in), scales = packed(scales_in);
  const Tensor views = packed(views_in), intrinsics = packed(intrinsics_in), radii = packed(radii_in);
  const int64_t cameras = views.size(0), count = means.size(0);
  return dispatch_floating(means.scalar_type(), "project_gaussians_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor out_means = empty_on<T>(means, {count, 3}), out_quats = empty_on<T>(means, {count, 4});
    Tensor out_scales = empty_on<T>(means, {count, 3}), out_views = zeros_on<T>(means, {cameras, 4, 4});
    const Tensor rows = empty_on<T>(means, {needs_viewmats ? cameras * count : 0, 12});
    const ProjectionSettings<T> settings{T(width),  T(height), T(blur), T(min_compensation), 0, 0, ortho,
                                         fov_clamp, false,     false};
    launch(means, count,
           ProjectGaussianBackward<T>{
               cptr<T>(g0), cptr<T>(g1), cptr<T>(g2), cptr<T>(g3), cptr<T>(g4), cptr<T>(means), cptr<T>(quats),
               cptr<T>(scales), cptr<T>(views), cptr<T>(intrinsics), cptr<int32_t>(radii), cameras, count, settings,
               mptr<T>(out_means), mptr<T>(out_quats), mptr<T>(out_scales), needs_viewmats ? mptr<T>(rows) : nullptr});
    if (needs_viewmats) sum_rows<T>(rows, cameras, count, 12, mptr<T>(out_views), 16);
    return std::make_tuple(out_means, out_quats, out_scales, out_views);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
