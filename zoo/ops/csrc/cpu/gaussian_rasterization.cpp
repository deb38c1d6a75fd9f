// Compositing of Gaussians on the CPU. Threads take whole tiles; the backward writes one row of gradients for each
// place of a Gaussian in a tile's list, and then sums the rows of each Gaussian in the order of its tiles. No sum
// depends on the number of threads.
#include "kernels/gaussian_rasterization.h"

#include "cpu/isa/gaussian_tile.h"
#include "cpu/work_queue.h"
#include "runtime/isa.h"

ZOO_DECLARE_ISA(void, composite_gaussian_tile, (const TileTask<float>&))
ZOO_DECLARE_ISA(void, composite_gaussian_tile_backward, (const TileTask<float>&))

namespace zoo {
inline namespace ZOO_TARGET {

void run_tile(const TileTask<float>& task) {
  ZOO_CALL_ISA(composite_gaussian_tile)(task);
}
void run_tile(const TileTask<double>& task) {
  composite_any<double>(task);
}
void run_tile_backward(const TileTask<float>& task) {
  ZOO_CALL_ISA(composite_gaussian_tile_backward)(task);
}
void run_tile_backward(const TileTask<double>& task) {
  if (task.absolute) return composite_backward_any<double, true>(task);
  composite_backward_any<double, false>(task);
}

// The tiles, and how their planes lie in scratch memory.
struct HostGrid : TileGrid {
  int32_t stride;
  int64_t plane() const { return static_cast<int64_t>(size) * stride; }
};

// What is read from the lists is checked in full: a wrong number would reach outside of memory.
HostGrid host_grid(const Tensor& colors, const Tensor& tile_offsets, const Tensor& ids, const Tensor& slot_offsets,
                   const Tensor& slots, int64_t width, int64_t height, int64_t size, const char* op) {
  const TileGrid grid = tile_grid(colors, tile_offsets, ids, slot_offsets, slots, width, height, size, op);
  const int64_t total = ids.numel(), owners = grid.cameras * grid.gaussians;
  const auto check = [&](const Tensor& offsets) {
    const int64_t* o = cptr<int64_t>(offsets);
    const int64_t n = offsets.numel();
    bool rising = o[0] == 0 && o[n - 1] == total;
    for (int64_t i = 1; i < n; ++i) rising &= o[i - 1] <= o[i];
    STD_TORCH_CHECK(rising, op, ": offsets do not rise from 0 to the length of the lists");
  };
  check(tile_offsets);
  check(slot_offsets);
  const auto inside = [&](const Tensor& numbers, int64_t end) {
    const int32_t* p = cptr<int32_t>(numbers);
    int32_t low = 0;
    int64_t high = -1;
    for (int64_t i = 0; i < total; ++i) {
      low = std::min(low, p[i]);
      high = std::max<int64_t>(high, p[i]);
    }
    STD_TORCH_CHECK(low >= 0 && high < end, op, ": lists name Gaussians or places that do not exist");
  };
  inside(ids, owners);
  inside(slots, total);
  return {grid, static_cast<int32_t>((size + kRowMultiple - 1) / kRowMultiple * kRowMultiple)};
}

template <class T>
struct ViewSplat {
  const T *means, *conics, *opacities;
  T min_alpha;
  SplatView<T>* out;

  void operator()(int64_t i) const {
    SplatView<T> s{means[2 * i], means[2 * i + 1], conics[3 * i], conics[3 * i + 1], conics[3 * i + 2], opacities[i]};
    s.half_height = -1;
    if (s.opacity >= min_alpha) {
      const T det = s.a * s.c - s.b * s.b;
      const T squared = 2 * std::log(s.opacity / min_alpha) * s.a / det;
      s.half_height = det > 0 && s.a > 0 ? std::sqrt(std::max(squared, T(0))) * T(1.001) + T(0.01) : T(1e9);
    }
    out[i] = s;
  }
};

template <class T>
struct Splats {
  Scratch<SplatView<T>> views;
  Splats(const Tensor& means2d, const Tensor& conics, const Tensor& opacities, double min_alpha)
      : views(opacities.numel()) {
    launch(opacities, opacities.numel(),
           ViewSplat<T>{cptr<T>(means2d), cptr<T>(conics), cptr<T>(opacities), static_cast<T>(min_alpha), views.get()});
  }
};

template <class T>
TileTask<T> tile_task(const HostGrid& grid, int64_t tile, const Splats<T>& splats, const T* colors,
                      const int64_t* offsets, const int32_t* ids, const TileRules<T>& rules) {
  TileTask<T> task{};
  task.splats = splats.views.get();
  task.colors = colors;
  task.ids = ids + offsets[tile];
  task.count = static_cast<int32_t>(offsets[tile + 1] - offsets[tile]);
  task.x0 = static_cast<int32_t>(tile % grid.columns) * grid.size;
  task.y0 = static_cast<int32_t>(tile / grid.columns % grid.rows) * grid.size;
  task.rows = std::min(grid.size, grid.height - task.y0);
  task.columns = std::min(grid.size, grid.width - task.x0);
  task.stride = grid.stride;
  task.channels = static_cast<int32_t>(grid.channels);
  task.rules = rules;
  return task;
}

// First pixel of a tile's row in the picture.
inline int64_t pixel_of(const HostGrid& grid, int64_t tile, int32_t x0, int32_t y) {
  const int64_t camera = tile / (static_cast<int64_t>(grid.rows) * grid.columns);
  return (camera * grid.height + y) * grid.width + x0;
}

std::tuple<Tensor, Tensor, Tensor> rasterize_gaussians(
    const Tensor& means2d_in, const Tensor& conics_in, const Tensor& colors_in, const Tensor& opacities_in,
    const Tensor& backgrounds_in, std::optional<Tensor> /*absolute*/, const Tensor& tile_offsets_in,
    const Tensor& ids_in, const Tensor& slot_offsets_in, const Tensor& slots_in, int64_t width, int64_t height,
    int64_t tile_size, double max_alpha, double min_alpha, double stop, bool stop_at_equal) {
  const Tensor means2d = packed(means2d_in), conics = packed(conics_in), colors = packed(colors_in);
  const Tensor opacities = packed(opacities_in), backgrounds = packed(backgrounds_in);
  const Tensor tile_offsets = packed(tile_offsets_in), ids = packed(ids_in);
  const Tensor slot_offsets = packed(slot_offsets_in), slots = packed(slots_in);
  const HostGrid grid =
      host_grid(colors, tile_offsets, ids, slot_offsets, slots, width, height, tile_size, "rasterize_gaussians");
  return dispatch_floating(colors.scalar_type(), "rasterize_gaussians", [&](auto zero) {
    using T = decltype(zero);
    Tensor picture = empty_on<T>(colors, {grid.cameras, height, width, grid.channels});
    Tensor transmittance = empty_on<T>(colors, {grid.cameras, height, width});
    Tensor last = empty_on<int32_t>(colors, {grid.cameras, height, width});
    const Splats<T> splats(means2d, conics, opacities, min_alpha);
    const TileRules<T> rules{static_cast<T>(max_alpha), static_cast<T>(min_alpha), static_cast<T>(stop), stop_at_equal};
    const int64_t channels = grid.channels, plane = grid.plane();
    const T *color = cptr<T>(colors), *background = cptr<T>(backgrounds);
    const int64_t* offsets = cptr<int64_t>(tile_offsets);
    const int32_t* members = cptr<int32_t>(ids);
    T *out = mptr<T>(picture), *through = mptr<T>(transmittance);
    int32_t* deepest = mptr<int32_t>(last);
    for_each_unit(grid.tiles(), [&] {
      return [&, planes = Scratch<T>((1 + channels) * plane), numbers = Scratch<int32_t>(plane)](int64_t tile) {
        TileTask<T> task = tile_task(grid, tile, splats, color, offsets, members, rules);
        task.planes = planes.get();
        task.last = numbers.get();
        run_tile(task);
        const T* behind = background + tile / (static_cast<int64_t>(grid.rows) * grid.columns) * channels;
        const int64_t used = static_cast<int64_t>(task.rows) * task.stride;
        for (int32_t row = 0; row < task.rows; ++row) {
          const int64_t to = pixel_of(grid, tile, task.x0, task.y0 + row),
                        from = static_cast<int64_t>(row) * task.stride;
          for (int32_t i = 0; i < task.columns; ++i) {
            const T t = task.planes[from + i];
            through[to + i] = t;
            deepest[to + i] = task.last[from + i];
            for (int64_t d = 0; d < channels; ++d) {
              out[(to + i) * channels + d] = task.planes[(1 + d) * used + from + i] + t * behind[d];
            }
          }
        }
      };
    });
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
  const HostGrid grid = host_grid(colors, tile_offsets, ids, slot_offsets, slots, width, height, tile_size,
                                  "rasterize_gaussians_backward");
  return dispatch_floating(colors.scalar_type(), "rasterize_gaussians_backward", [&](auto zero) {
    using T = decltype(zero);
    const int64_t channels = grid.channels, plane = grid.plane(), count = opacities.numel();
    const int64_t stride = 6 + channels + (absolute ? 2 : 0);
    const Splats<T> splats(means2d, conics, opacities, min_alpha);
    const TileRules<T> rules{static_cast<T>(max_alpha), static_cast<T>(min_alpha), static_cast<T>(stop), stop_at_equal};
    const Tensor rows = empty_on<T>(colors, {ids.numel(), stride});
    const Scratch<T> tile_background(grid.tiles() * channels);
    const T *color = cptr<T>(colors), *background = cptr<T>(backgrounds);
    const T *grad_out = cptr<T>(grad_picture), *grad_t = cptr<T>(grad_transmittance), *final = cptr<T>(transmittance);
    const int64_t* offsets = cptr<int64_t>(tile_offsets);
    const int32_t *members = cptr<int32_t>(ids), *deepest = cptr<int32_t>(last);
    T* gradients = mptr<T>(rows);
    for_each_unit(grid.tiles(), [&] {
      return [&, planes = Scratch<T>((2 + channels) * plane), numbers = Scratch<int32_t>(plane)](int64_t tile) {
        TileTask<T> task = tile_task(grid, tile, splats, color, offsets, members, rules);
        task.planes = planes.get();
        task.last = numbers.get();
        task.gradients = gradients + offsets[tile] * stride;
        task.gradient_stride = static_cast<int32_t>(stride);
        task.absolute = absolute;
        const T* shown = background + tile / (static_cast<int64_t>(grid.rows) * grid.columns) * channels;
        T* grad_background = tile_background.get() + tile * channels;
        for (int64_t d = 0; d < channels; ++d) grad_background[d] = 0;
        const int64_t used = static_cast<int64_t>(task.rows) * task.stride;
        for (int32_t row = 0; row < task.rows; ++row) {
          const int64_t from = pixel_of(grid, tile, task.x0, task.y0 + row),
                        to = static_cast<int64_t>(row) * task.stride;
          for (int32_t i = 0; i < task.stride; ++i) {
            const bool inside = i < task.columns;
            const T t = inside ? final[from + i] : T(1);
            T toward = inside ? grad_t[from + i] : T(0);
            for (int64_t d = 0; d < channels; ++d) {
              const T g = inside ? grad_out[(from + i) * channels + d] : T(0);
              task.planes[(2 + d) * used + to + i] = g;
              toward += g * shown[d];
              grad_background[d] += inside ? g * t : T(0);
            }
            task.planes[to + i] = t;
            task.planes[used + to + i] = t * toward;
            task.last[to + i] = inside ? deepest[from + i] : -1;
          }
        }
        run_tile_backward(task);
      };
    });
    Tensor grad_means = empty_on<T>(colors, {grid.cameras, grid.gaussians, 2});
    Tensor grad_conics = empty_on<T>(colors, {grid.cameras, grid.gaussians, 3});
    Tensor grad_colors = empty_on<T>(colors, {grid.cameras, grid.gaussians, channels});
    Tensor grad_opacities = empty_on<T>(colors, {grid.cameras, grid.gaussians});
    Tensor magnitude = empty_on<T>(colors, {grid.cameras, grid.gaussians, 2});
    launch(colors, count,
           GatherGradients<T>{gradients, cptr<int64_t>(slot_offsets), cptr<int32_t>(slots), stride, channels, absolute,
                              mptr<T>(grad_means), mptr<T>(grad_conics), mptr<T>(grad_colors), mptr<T>(grad_opacities),
                              mptr<T>(magnitude)});
    Tensor grad_backgrounds = zeros_on<T>(colors, {grid.cameras, channels});
    T* sums = mptr<T>(grad_backgrounds);
    const int64_t per_camera = static_cast<int64_t>(grid.rows) * grid.columns;
    for (int64_t tile = 0; tile < grid.tiles(); ++tile) {
      for (int64_t d = 0; d < channels; ++d) {
        sums[tile / per_camera * channels + d] += tile_background.get()[tile * channels + d];
      }
    }
    return std::make_tuple(grad_means, grad_conics, grad_colors, grad_opacities, grad_backgrounds, magnitude);
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("rasterize_gaussians", TORCH_BOX(&zoo::rasterize_gaussians));
  m.impl("rasterize_gaussians_backward", TORCH_BOX(&zoo::rasterize_gaussians_backward));
}
