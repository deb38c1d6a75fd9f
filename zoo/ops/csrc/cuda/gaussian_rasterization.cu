// Compositing of Gaussians on the GPU: a block takes a tile, a thread its pixels one after another, and the tile's list
// goes through shared memory in batches. The backward sums a Gaussian's gradients over the pixels of a tile by shuffles
// and then over warps, writes one row for each place in the list, and sums the rows of each Gaussian in the order of
// its tiles: no atomics, results do not change from run to run.
#include "kernels/gaussian_rasterization.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kTileThreads = 256;
constexpr int kTileWarp = 32;
constexpr int kSummed = 4;  // Gaussians whose sums over a warp are held before the warps' sums are added up
constexpr unsigned kEveryLane = 0xffffffffu;

template <class T>
struct Splat {
  T x, y, a, b, c, opacity;
  int32_t id;
};

template <class T>
struct TileScene {
  TileGrid grid;
  const T *means, *conics, *colors, *opacities, *backgrounds;
  const int64_t* tile_offsets;
  const int32_t* ids;
  T max_alpha, min_alpha, stop;
  bool stop_at_equal;

  __device__ Splat<T> splat(int64_t place) const {
    const int64_t i = ids[place];
    return {means[2 * i],      means[2 * i + 1], conics[3 * i],          conics[3 * i + 1],
            conics[3 * i + 2], opacities[i],     static_cast<int32_t>(i)};
  }
};

// Where a thread's pixel lies.
template <class T>
struct TilePixel {
  bool inside;
  int64_t at;  // in the picture
  T x, y;

  __device__ TilePixel(const TileGrid& grid, int64_t tile, int32_t number) {
    const int32_t column = static_cast<int32_t>(tile % grid.columns) * grid.size + number % grid.size;
    const int32_t row = static_cast<int32_t>(tile / grid.columns % grid.rows) * grid.size + number / grid.size;
    const int64_t camera = tile / (static_cast<int64_t>(grid.rows) * grid.columns);
    inside = number < grid.size * grid.size && column < grid.width && row < grid.height;
    at = (camera * grid.height + row) * grid.width + column;
    x = column + T(0.5), y = row + T(0.5);
  }
};

template <class T>
__device__ T splat_sigma(const Splat<T>& s, T dx, T dy) {
  return T(0.5) * (s.a * dx * dx + s.c * dy * dy) + s.b * dx * dy;
}

template <class T, int kChannels>
__global__ void __launch_bounds__(kTileThreads)
    composite_tiles_kernel(TileScene<T> scene, T* picture, T* transmittance, int32_t* last) {
  __shared__ Splat<T> batch[kTileThreads];
  __shared__ int alive;
  const int threads = blockDim.x, thread = threadIdx.x;
  const int64_t tile = blockIdx.x, channels = scene.grid.channels;
  const int64_t begin = scene.tile_offsets[tile], count = scene.tile_offsets[tile + 1] - begin;
  const int32_t pixels = scene.grid.size * scene.grid.size;
  for (int32_t first = 0; first < pixels; first += threads) {
    const TilePixel<T> pixel(scene.grid, tile, first + thread);
    T sums[kChannels] = {}, through = 1;
    int32_t deepest = -1;
    bool finished = !pixel.inside;
    for (int64_t base = 0; base < count; base += threads) {
      if (thread == 0) alive = 0;
      __syncthreads();
      if (!finished) alive = 1;
      if (base + thread < count) batch[thread] = scene.splat(begin + base + thread);
      __syncthreads();
      const bool go_on = alive != 0;
      const int held = static_cast<int>(count - base < threads ? count - base : threads);
      for (int j = 0; go_on && !finished && j < held; ++j) {
        const Splat<T>& s = batch[j];
        const T sigma = splat_sigma(s, s.x - pixel.x, s.y - pixel.y);
        const T raw = s.opacity * exp(-sigma), alpha = raw > scene.max_alpha ? scene.max_alpha : raw;
        if (!(sigma >= 0) || !(alpha >= scene.min_alpha)) continue;
        const T next = through * (1 - alpha);
        finished = scene.stop_at_equal ? next <= scene.stop : next < scene.stop;
        if (finished) break;
        const T* color = scene.colors + s.id * channels;
#pragma unroll
        for (int d = 0; d < kChannels; ++d) {
          if (d < channels) sums[d] += alpha * through * color[d];
        }
        through = next;
        deepest = static_cast<int32_t>(base + j);
      }
      __syncthreads();  // before the batch is overwritten
      if (!go_on) break;
    }
    if (!pixel.inside) continue;
    const T* behind =
        scene.backgrounds + tile / (static_cast<int64_t>(scene.grid.rows) * scene.grid.columns) * channels;
    transmittance[pixel.at] = through;
    last[pixel.at] = deepest;
#pragma unroll
    for (int d = 0; d < kChannels; ++d) {
      if (d < channels) picture[pixel.at * channels + d] = sums[d] + through * behind[d];
    }
  }
}

// The sum over a warp, in lane 0.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int offset = kTileWarp / 2; offset > 0; offset /= 2) value += __shfl_down_sync(kEveryLane, value, offset);
  return value;
}

template <class T>
struct TileGradients {
  const T *picture, *transmittance_grad, *transmittance;
  const int32_t* last;
  T *rows, *tile_backgrounds;  // (places, stride), (tiles, channels)
  int stride;
  bool absolute;
};

// Dynamic shared memory: (kSummed, warps, stride).
template <class T, int kChannels>
__global__ void __launch_bounds__(kTileThreads)
    composite_tiles_backward_kernel(TileScene<T> scene, TileGradients<T> g) {
  ZOO_DYNAMIC_SHARED(T, warp_sums);
  __shared__ Splat<T> batch[kSummed];
  const int threads = blockDim.x, thread = threadIdx.x, warp = thread / kTileWarp, warps = threads / kTileWarp;
  const bool leader = thread % kTileWarp == 0;
  const int64_t tile = blockIdx.x, channels = scene.grid.channels;
  const int64_t begin = scene.tile_offsets[tile], count = scene.tile_offsets[tile + 1] - begin;
  const T* shown = scene.backgrounds + tile / (static_cast<int64_t>(scene.grid.rows) * scene.grid.columns) * channels;
  const int32_t pixels = scene.grid.size * scene.grid.size;
  for (int32_t first = 0; first < pixels; first += threads) {
    const TilePixel<T> pixel(scene.grid, tile, first + thread);
    T grads[kChannels] = {}, through = pixel.inside ? g.transmittance[pixel.at] : T(1);
    T toward_rest = pixel.inside ? g.transmittance_grad[pixel.at] : T(0);
    const int32_t deepest = pixel.inside ? g.last[pixel.at] : -1;
    // gradient of the background, summed like those of the Gaussians
    for (int d = 0; d < kChannels; ++d) {
      if (d < channels) {
        grads[d] = pixel.inside ? g.picture[pixel.at * channels + d] : T(0);
        toward_rest += grads[d] * shown[d];
        const T sum = warp_sum(grads[d] * (pixel.inside ? through : T(0)));
        if (leader) warp_sums[warp * channels + d] = sum;
      }
    }
    __syncthreads();
    if (thread < channels) {
      T sum = first == 0 ? T(0) : g.tile_backgrounds[tile * channels + thread];
      for (int w = 0; w < warps; ++w) sum += warp_sums[w * channels + thread];
      g.tile_backgrounds[tile * channels + thread] = sum;
    }
    T hidden = through * toward_rest;  // what a unit of alpha would take from all behind, times transmittance
    for (int64_t end = count; end > 0; end -= kSummed) {
      __syncthreads();  // before the batch and the sums are overwritten
      const int held = static_cast<int>(end < kSummed ? end : kSummed);
      if (thread < held) batch[thread] = scene.splat(begin + end - 1 - thread);
      __syncthreads();
      for (int j = 0; j < held; ++j) {
        const Splat<T>& s = batch[j];
        const T dx = s.x - pixel.x, dy = s.y - pixel.y, sigma = splat_sigma(s, dx, dy);
        const T raw = s.opacity * exp(-sigma), alpha = raw > scene.max_alpha ? scene.max_alpha : raw;
        const bool used = sigma >= 0 && alpha >= scene.min_alpha && deepest >= end - 1 - j;
        const T* color = scene.colors + s.id * channels;
        T weight = 0, grad_sigma = 0;
        if (used) {
          const T rest = 1 / (1 - alpha);
          through *= rest;  // in front of this Gaussian
          weight = alpha * through;
          T toward = 0;
          for (int d = 0; d < kChannels; ++d) {
            if (d < channels) toward += grads[d] * color[d];
          }
          if (raw <= scene.max_alpha) grad_sigma = -raw * (toward * through - hidden * rest);
          hidden += toward * weight;
        }
        const T gx = (s.a * dx + s.b * dy) * grad_sigma, gy = (s.b * dx + s.c * dy) * grad_sigma;
        T* sums = warp_sums + (static_cast<int64_t>(j) * warps + warp) * g.stride;
        const T geometry[kSplatGradients] = {
            gx, gy, T(0.5) * grad_sigma * dx * dx, grad_sigma * dx * dy, T(0.5) * grad_sigma * dy * dy, -grad_sigma};
        for (int d = 0; d < kSplatGradients; ++d) {
          const T sum = warp_sum(geometry[d]);
          if (leader) sums[d] = d == 5 && sum != 0 ? sum / s.opacity : sum;
        }
        for (int d = 0; d < kChannels; ++d) {
          if (d < channels) {
            const T sum = warp_sum(grads[d] * weight);
            if (leader) sums[kSplatGradients + d] = sum;
          }
        }
        if (g.absolute) {
          const T size_x = warp_sum(gx < 0 ? -gx : gx), size_y = warp_sum(gy < 0 ? -gy : gy);
          if (leader) sums[g.stride - 2] = size_x, sums[g.stride - 1] = size_y;
        }
      }
      __syncthreads();
      for (int at = thread; at < held * g.stride; at += threads) {
        const int j = at / g.stride, d = at % g.stride;
        T* row = g.rows + (begin + end - 1 - j) * g.stride;
        T sum = first == 0 ? T(0) : row[d];
        for (int w = 0; w < warps; ++w) sum += warp_sums[(j * warps + w) * g.stride + d];
        row[d] = sum;
      }
    }
    __syncthreads();
  }
}

template <class T>
struct SumTiles {
  const T* tile_backgrounds;
  int64_t per_camera, channels;
  T* out;
  ZOO_HD void operator()(int64_t i) const {
    T sum = 0;
    for (int64_t tile = i / channels * per_camera; tile < (i / channels + 1) * per_camera; ++tile) {
      sum += tile_backgrounds[tile * channels + i % channels];
    }
    out[i] = sum;
  }
};

inline unsigned tile_threads(const TileGrid& grid) {
  const int pixels = (grid.size * grid.size + kTileWarp - 1) / kTileWarp * kTileWarp;
  return static_cast<unsigned>(pixels < kTileThreads ? pixels : kTileThreads);
}

template <class F>
auto dispatch_channels(int64_t channels, const F& f) {
  if (channels <= 3) return f(std::integral_constant<int, 3>{});
  if (channels == 4) return f(std::integral_constant<int, 4>{});
  return f(std::integral_constant<int, kMaxSplatChannels>{});
}

std::tuple<Tensor, Tensor, Tensor> rasterize_gaussians(const Tensor& means2d_in, const Tensor& conics_in,
                                                       const Tensor& colors_in, const Tensor& opacities_in,
                                                       const Tensor& backgrounds_in, std::optional<Tensor> /*absolute*/,
                                                       const Tensor& tile_offsets_in, const Tensor& ids_in,
                                                       const Tensor& slot_offsets, const Tensor& slots, int64_t width,
                                                       int64_t height, int64_t tile_size, double max_alpha,
                                                       double min_alpha, double stop, bool stop_at_equal) {
  const Tensor means2d = packed(means2d_in), conics = packed(conics_in), colors = packed(colors_in);
  const Tensor opacities = packed(opacities_in), backgrounds = packed(backgrounds_in);
  const Tensor tile_offsets = packed(tile_offsets_in), ids = packed(ids_in);
  const TileGrid grid =
      tile_grid(colors, tile_offsets, ids, slot_offsets, slots, width, height, tile_size, "rasterize_gaussians");
  const OnDevice guard(colors);
  return dispatch_floating(colors.scalar_type(), "rasterize_gaussians", [&](auto zero) {
    using T = decltype(zero);
    Tensor picture = empty_on<T>(colors, {grid.cameras, height, width, grid.channels});
    Tensor transmittance = empty_on<T>(colors, {grid.cameras, height, width});
    Tensor last = empty_on<int32_t>(colors, {grid.cameras, height, width});
    const TileScene<T> scene{grid,
                             cptr<T>(means2d),
                             cptr<T>(conics),
                             cptr<T>(colors),
                             cptr<T>(opacities),
                             cptr<T>(backgrounds),
                             cptr<int64_t>(tile_offsets),
                             cptr<int32_t>(ids),
                             static_cast<T>(max_alpha),
                             static_cast<T>(min_alpha),
                             static_cast<T>(stop),
                             stop_at_equal};
    if (grid.tiles() > 0) {
      dispatch_channels(grid.channels, [&](auto channels) {
        ZOO_LAUNCH((composite_tiles_kernel<T, decltype(channels)::value>), dim3(static_cast<unsigned>(grid.tiles())),
                   dim3(tile_threads(grid)), 0, current_stream(colors), scene, mptr<T>(picture), mptr<T>(transmittance),
                   mptr<int32_t>(last));
      });
    }
    return std::make_tuple(picture, transmittance, last);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rasterize_gaussians_backward(
    const Tensor& grad_picture_in, const Tensor& grad_transmittance_in, const Tensor& means2d_in,
    const Tensor& conics_in, const Tensor& colors_in, const Tensor& opacities_in, const Tensor& backgrounds_in,
    const Tensor& tile_offsets_in, const Tensor& ids_in, const Tensor& slot_offsets_in, const Tensor& slots_in,
    const Tensor& transmittance_in, const Tensor& last_in, int64_t width, int64_t height, int64_t tile_size,
    double max_alpha, double min_alpha, double stop, bool stop_at_equal, bool absolute) {
  const Tensor grad_picture = packed(grad_picture_in), grad_transmittance = packed(grad_transmittance_in);
  const Tensor means2d = packed(means2d_in), conics = packed(conics_in), colors = packed(colors_in);
  const Tensor opacities = packed(opacities_in), backgrounds = packed(backgrounds_in);
  const Tensor tile_offsets = packed(tile_offsets_in), ids = packed(ids_in);
  const Tensor slot_offsets = packed(slot_offsets_in), slots = packed(slots_in);
  const Tensor transmittance = packed(transmittance_in), last = packed(last_in);
  const TileGrid grid = tile_grid(colors, tile_offsets, ids, slot_offsets, slots, width, height, tile_size,
                                  "rasterize_gaussians_backward");
  const OnDevice guard(colors);
  return dispatch_floating(colors.scalar_type(), "rasterize_gaussians_backward", [&](auto zero) {
    using T = decltype(zero);
    const int64_t channels = grid.channels, stride = kSplatGradients + channels + (absolute ? 2 : 0);
    Tensor rows = empty_on<T>(colors, {ids.numel(), stride}), shown = empty_on<T>(colors, {grid.tiles(), channels});
    const TileScene<T> scene{grid,
                             cptr<T>(means2d),
                             cptr<T>(conics),
                             cptr<T>(colors),
                             cptr<T>(opacities),
                             cptr<T>(backgrounds),
                             cptr<int64_t>(tile_offsets),
                             cptr<int32_t>(ids),
                             static_cast<T>(max_alpha),
                             static_cast<T>(min_alpha),
                             static_cast<T>(stop),
                             stop_at_equal};
    const TileGradients<T> gradients{cptr<T>(grad_picture),
                                     cptr<T>(grad_transmittance),
                                     cptr<T>(transmittance),
                                     cptr<int32_t>(last),
                                     mptr<T>(rows),
                                     mptr<T>(shown),
                                     static_cast<int>(stride),
                                     absolute};
    if (grid.tiles() > 0) {
      const unsigned threads = tile_threads(grid);
      const size_t shared = sizeof(T) * kSummed * (threads / kTileWarp) * static_cast<size_t>(stride);
      dispatch_channels(channels, [&](auto most) {
        ZOO_LAUNCH((composite_tiles_backward_kernel<T, decltype(most)::value>),
                   dim3(static_cast<unsigned>(grid.tiles())), dim3(threads), shared, current_stream(colors), scene,
                   gradients);
      });
    }
    Tensor grad_means = empty_on<T>(colors, {grid.cameras, grid.gaussians, 2});
    Tensor grad_conics = empty_on<T>(colors, {grid.cameras, grid.gaussians, 3});
    Tensor grad_colors = empty_on<T>(colors, {grid.cameras, grid.gaussians, channels});
    Tensor grad_opacities = empty_on<T>(colors, {grid.cameras, grid.gaussians});
    Tensor magnitude = empty_on<T>(colors, {grid.cameras, grid.gaussians, 2});
    Tensor grad_backgrounds = empty_on<T>(colors, {grid.cameras, channels});
    launch(colors, opacities.numel(),
           GatherGradients<T>{cptr<T>(rows), cptr<int64_t>(slot_offsets), cptr<int32_t>(slots), stride, channels,
                              absolute, mptr<T>(grad_means), mptr<T>(grad_conics), mptr<T>(grad_colors),
                              mptr<T>(grad_opacities), mptr<T>(magnitude)});
    launch(colors, grid.cameras * channels,
           SumTiles<T>{cptr<T>(shown), static_cast<int64_t>(grid.rows) * grid.columns, channels,
                       mptr<T>(grad_backgrounds)});
    return std::make_tuple(grad_means, grad_conics, grad_colors, grad_opacities, grad_backgrounds, magnitude);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("rasterize_gaussians", TORCH_BOX(&zoo::rasterize_gaussians));
  m.impl("rasterize_gaussians_backward", TORCH_BOX(&zoo::rasterize_gaussians_backward));
}
