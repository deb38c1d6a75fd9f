// Compositing along packed rays in one pass:
//   alpha_i = 1 - exp(-sigma_i dt_i),  T_i = prod_{j < i} (1 - alpha_j),  w_i = T_i alpha_i,
//   colour = sum w_i c_i,  opacity = sum w_i,  depth = sum w_i (t0_i + t1_i) / 2.
// A ray stops before the first sample with T_i < early_stop_eps; what lies behind has weight 0 and gradient 0.
#pragma once

#include <cmath>
#include <optional>
#include <tuple>

#include "kernels/packed_chunks.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

// kChannels = 0: any number, accumulated in the output itself.
template <class T, int kChannels>
struct RenderForward {
  const T* t_starts;   // (N,)
  const T* t_ends;     // (N,)
  const T* densities;  // (N,)
  const T* colors;     // (N, C)
  const int64_t* packed_info;
  int64_t total, channels;
  T early_stop_eps;
  T* ray_colors;        // (R, C)
  T* opacities;         // (R,)
  T* depths;            // (R,)
  T* weights;           // (N,)
  T* transmittances;    // (R,) behind the last sample composited
  int64_t* composited;  // (R,) number of samples in front of the stop

  ZOO_HD void operator()(int64_t ray) const {
    const Chunk chunk = chunk_of(packed_info, ray, total);
    const int64_t width = kChannels > 0 ? kChannels : channels;
    T local[kChannels > 0 ? kChannels : 1] = {};
    T* sums = kChannels > 0 ? local : ray_colors + ray * width;
    if (kChannels == 0) {
      for (int64_t c = 0; c < width; ++c) sums[c] = 0;
    }
    T transmittance = 1, opacity = 0, depth = 0;
    const int64_t end = chunk.start + chunk.count;
    int64_t row = chunk.start;
    for (; row < end && transmittance >= early_stop_eps; ++row) {
      const T t0 = t_starts[row], t1 = t_ends[row];
      const T alpha = -std::expm1(-densities[row] * (t1 - t0));
      const T weight = transmittance * alpha;
      weights[row] = weight;
      opacity += weight;
      depth += weight * ((t0 + t1) * T(0.5));
      const T* color = colors + row * width;
      for (int64_t c = 0; c < width; ++c) sums[c] += weight * color[c];
      transmittance *= 1 - alpha;
    }
    composited[ray] = row - chunk.start;
    for (; row < end; ++row) weights[row] = 0;
    opacities[ray] = opacity;
    depths[ray] = depth;
    transmittances[ray] = transmittance;
    if (kChannels > 0) {
      for (int64_t c = 0; c < width; ++c) ray_colors[ray * width + c] = local[c];
    }
  }
};

// With G_i = dL/dw_i: dL/dsigma_i = dt_i (T_{i+1} G_i - sum_{j > i} w_j G_j). The ray is read from its end, where both
// the transmittance, T_i = T_{i+1} + w_i, and the sum grow, so nothing cancels.
template <class T, int kChannels>
struct RenderBackward {
  const T* grad_colors;     // (R, C) or null
  const T* grad_opacities;  // (R,) or null
  const T* grad_depths;     // (R,) or null
  const T* grad_weights;    // (N,) or null
  const T* t_starts;        // (N,)
  const T* t_ends;          // (N,)
  const T* colors;          // (N, C)
  const T* weights;         // (N,)
  const T* transmittances;  // (R,)
  const int64_t* composited;
  const int64_t* packed_info;
  int64_t total, channels;
  T* grad_densities;      // (N,)
  T* grad_sample_colors;  // (N, C)

  ZOO_HD void operator()(int64_t ray) const {
    const Chunk chunk = chunk_of(packed_info, ray, total);
    const int64_t width = kChannels > 0 ? kChannels : channels;
    const T grad_opacity = grad_opacities != nullptr ? grad_opacities[ray] : T(0);
    const T grad_depth = grad_depths != nullptr ? grad_depths[ray] : T(0);
    const T* grad_color = grad_colors != nullptr ? grad_colors + ray * width : nullptr;
    const int64_t stop = chunk.start + composited[ray];
    for (int64_t row = stop; row < chunk.start + chunk.count; ++row) {
      grad_densities[row] = 0;
      for (int64_t c = 0; c < width; ++c) grad_sample_colors[row * width + c] = 0;
    }
    T transmittance = transmittances[ray], behind = 0;
    for (int64_t row = stop - 1; row >= chunk.start; --row) {
      const T t0 = t_starts[row], t1 = t_ends[row], weight = weights[row];
      T grad_weight = grad_opacity + grad_depth * ((t0 + t1) * T(0.5));
      if (grad_weights != nullptr) grad_weight += grad_weights[row];
      for (int64_t c = 0; c < width; ++c) {
        const T g = grad_color != nullptr ? grad_color[c] : T(0);
        grad_weight += g * colors[row * width + c];
        grad_sample_colors[row * width + c] = weight * g;
      }
      grad_densities[row] = (t1 - t0) * (transmittance * grad_weight - behind);
      behind += weight * grad_weight;
      transmittance += weight;
    }
  }
};

template <class F>
auto dispatch_channels(int64_t channels, F&& f) {
  switch (channels) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    default:
      return f(std::integral_constant<int, 0>{});
  }
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> render_rays(const Tensor& t_starts,
                                                                              const Tensor& t_ends,
                                                                              const Tensor& sigmas, const Tensor& rgbs,
                                                                              const Tensor& packed_info,
                                                                              double early_stop_eps) {
  const Tensor t0 = packed(t_starts), t1 = packed(t_ends), density = packed(sigmas), color = packed(rgbs),
               info = packed(packed_info);
  const int64_t total = density.size(0), channels = color.size(1), n_rays = info.size(0);
  check_tiling(info, total, "render_rays");
  return dispatch_floating(density.scalar_type(), "render_rays", [&](auto zero) {
    using T = decltype(zero);
    Tensor colors = empty_on<T>(t0, {n_rays, channels}), opacities = empty_on<T>(t0, {n_rays}),
           depths = empty_on<T>(t0, {n_rays}), weights = empty_on<T>(t0, {total}),
           transmittances = empty_on<T>(t0, {n_rays}), composited = empty_on<int64_t>(t0, {n_rays});
    dispatch_channels(channels, [&](auto fixed) {
      launch(t0, n_rays,
             RenderForward<T, decltype(fixed)::value>{
                 cptr<T>(t0), cptr<T>(t1), cptr<T>(density), cptr<T>(color), cptr<int64_t>(info), total, channels,
                 static_cast<T>(early_stop_eps), mptr<T>(colors), mptr<T>(opacities), mptr<T>(depths), mptr<T>(weights),
                 mptr<T>(transmittances), mptr<int64_t>(composited)},
             64);
    });
    return std::make_tuple(colors, opacities, depths, weights, transmittances, composited);
  });
}

inline std::tuple<Tensor, Tensor> render_rays_backward(
    std::optional<Tensor> grad_colors, std::optional<Tensor> grad_opacities, std::optional<Tensor> grad_depths,
    std::optional<Tensor> grad_weights, const Tensor& t_starts, const Tensor& t_ends, const Tensor& rgbs,
    const Tensor& weights, const Tensor& transmittances, const Tensor& composited, const Tensor& packed_info) {
  const Tensor t0 = packed(t_starts), t1 = packed(t_ends), color = packed(rgbs), weight = packed(weights),
               transmittance = packed(transmittances), count = packed(composited), info = packed(packed_info);
  for (auto* grad : {&grad_colors, &grad_opacities, &grad_depths, &grad_weights}) {
    if (grad->has_value()) *grad = packed(**grad);
  }
  const int64_t total = weight.size(0), channels = color.size(1), n_rays = info.size(0);
  check_tiling(info, total, "render_rays_backward");
  return dispatch_floating(weight.scalar_type(), "render_rays_backward", [&](auto zero) {
    using T = decltype(zero);
    const auto pointer = [](const std::optional<Tensor>& grad) { return grad.has_value() ? cptr<T>(*grad) : nullptr; };
    Tensor grad_sigmas = empty_on<T>(t0, {total}), grad_rgbs = empty_on<T>(t0, {total, channels});
    dispatch_channels(channels, [&](auto fixed) {
      launch(t0, n_rays,
             RenderBackward<T, decltype(fixed)::value>{
                 pointer(grad_colors), pointer(grad_opacities), pointer(grad_depths), pointer(grad_weights),
                 cptr<T>(t0), cptr<T>(t1), cptr<T>(color), cptr<T>(weight), cptr<T>(transmittance),
                 cptr<int64_t>(count), cptr<int64_t>(info), total, channels, mptr<T>(grad_sigmas), mptr<T>(grad_rgbs)},
             64);
    });
    return std::make_tuple(grad_sigmas, grad_rgbs);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
