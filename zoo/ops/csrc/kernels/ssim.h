// Structural similarity with one functor call for each value: windowed moments down the columns, then along the rows.
// CUDA only; the CPU works on whole rows (cpu/isa/ssim.cpp).
#pragma once

#include "kernels/ssim_value.h"
#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

// Pictures (N, height, row) whose rows hold `channels` values of each pixel side by side.
template <class T>
struct SsimShape {
  int64_t total, height, row, channels, taps;
  const T* window;

  // Sums of window * read(element, m) over elements `step` apart around i, at most `before` and `after` of them.
  template <int kPlanes, class Read>
  ZOO_HD void sum(int64_t i, int64_t step, int64_t before, int64_t after, const Read& read, T (&sums)[kPlanes]) const {
    const int64_t half = taps / 2, first = before < half ? -before : -half, last = after < half ? after : half;
    for (int m = 0; m < kPlanes; ++m) sums[m] = 0;
    for (int64_t k = first; k <= last; ++k) {
      for (int m = 0; m < kPlanes; ++m) sums[m] += window[k + half] * read(i + k * step, m);
    }
  }
  template <int kPlanes, class Read>
  ZOO_HD void down(int64_t i, const Read& read, T (&sums)[kPlanes]) const {
    const int64_t y = i / row % height;
    sum(i, row, y, height - 1 - y, read, sums);
  }
  template <int kPlanes, class Read>
  ZOO_HD void along(int64_t i, const Read& read, T (&sums)[kPlanes]) const {
    const int64_t x = i % row / channels;
    sum(i, channels, x, row / channels - 1 - x, read, sums);
  }
};

template <class T>
struct PlaneReader {
  const T* planes;
  int64_t total;
  ZOO_HD T operator()(int64_t i, int m) const { return planes[m * total + i]; }
};

template <class T>
struct MomentReader {
  const T *x, *y;
  ZOO_HD T operator()(int64_t i, int m) const {
    return m == 0 ? x[i] : m == 1 ? y[i] : m == 2 ? x[i] * x[i] : m == 3 ? y[i] * y[i] : x[i] * y[i];
  }
};

template <class T, int kPlanes, class Read>
struct FilterDown {
  SsimShape<T> shape;
  Read read;
  T* planes;
  ZOO_HD void operator()(int64_t i) const {
    T sums[kPlanes];
    shape.template down<kPlanes>(i, read, sums);
    for (int m = 0; m < kPlanes; ++m) planes[m * shape.total + i] = sums[m];
  }
};

template <class T>
struct SsimAlong {
  SsimShape<T> shape;
  PlaneReader<T> read;
  SsimConstants<T> constants;
  T* out;
  ZOO_HD void operator()(int64_t i) const {
    T m[5];
    shape.template along<5>(i, read, m);
    out[i] = ssim_value(constants, m[0], m[1], m[2], m[3], m[4]);
  }
};

template <class T>
struct SlopesAlong {
  SsimShape<T> shape;
  PlaneReader<T> read;
  SsimConstants<T> constants;
  const T* grad;
  T* slopes;
  ZOO_HD void operator()(int64_t i) const {
    T m[5];
    shape.template along<5>(i, read, m);
    const SsimSlopes<T> found = ssim_slopes(constants, m[0], m[1], m[2], m[3], m[4]);
    slopes[i] = grad[i] * found.mean;
    slopes[shape.total + i] = grad[i] * found.square;
    slopes[2 * shape.total + i] = grad[i] * found.product;
  }
};

template <class T>
struct SsimGradient {
  SsimShape<T> shape;
  PlaneReader<T> read;
  const T *x, *y;
  T* out;
  ZOO_HD void operator()(int64_t i) const {
    T sums[3];
    shape.template along<3>(i, read, sums);
    out[i] = sums[0] + 2 * x[i] * sums[1] + y[i] * sums[2];
  }
};

template <class T>
SsimShape<T> ssim_shape(const Tensor& x, const Tensor& y, const Tensor& window, const char* op) {
  STD_TORCH_CHECK(x.dim() == 4 && x.numel() == y.numel() && x.scalar_type() == y.scalar_type() &&
                      window.numel() % 2 == 1 && window.scalar_type() == x.scalar_type(),
                  op, ": pictures and window do not fit together");
  return {x.numel(), x.size(1), x.size(2) * x.size(3), x.size(3), window.numel(), cptr<T>(window)};
}

inline Tensor ssim_map(const Tensor& x_in, const Tensor& y_in, const Tensor& window_in, double covariance_scale,
                       double c1, double c2) {
  const Tensor x = packed(x_in), y = packed(y_in), window = packed(window_in);
  return dispatch_floating(x.scalar_type(), "ssim_map", [&](auto zero) {
    using T = decltype(zero);
    const SsimShape<T> shape = ssim_shape<T>(x, y, window, "ssim_map");
    const SsimConstants<T> constants{static_cast<T>(covariance_scale), static_cast<T>(c1), static_cast<T>(c2)};
    Tensor out = empty_on<T>(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
    Tensor planes = empty_on<T>(x, {5, shape.total});
    launch(x, shape.total, FilterDown<T, 5, MomentReader<T>>{shape, {cptr<T>(x), cptr<T>(y)}, mptr<T>(planes)});
    launch(x, shape.total, SsimAlong<T>{shape, {cptr<T>(planes), shape.total}, constants, mptr<T>(out)});
    return out;
  });
}

inline Tensor ssim_map_backward(const Tensor& grad_in, const Tensor& x_in, const Tensor& y_in, const Tensor& window_in,
                                double covariance_scale, double c1, double c2) {
  const Tensor grad = packed(grad_in), x = packed(x_in), y = packed(y_in), window = packed(window_in);
  return dispatch_floating(x.scalar_type(), "ssim_map_backward", [&](auto zero) {
    using T = decltype(zero);
    const SsimShape<T> shape = ssim_shape<T>(x, y, window, "ssim_map_backward");
    STD_TORCH_CHECK(grad.numel() == shape.total && grad.scalar_type() == x.scalar_type(),
                    "ssim_map_backward: the gradient does not fit the pictures");
    const SsimConstants<T> constants{static_cast<T>(covariance_scale), static_cast<T>(c1), static_cast<T>(c2)};
    Tensor out = empty_on<T>(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
    Tensor planes = empty_on<T>(x, {5, shape.total}), slopes = empty_on<T>(x, {3, shape.total});
    launch(x, shape.total, FilterDown<T, 5, MomentReader<T>>{shape, {cptr<T>(x), cptr<T>(y)}, mptr<T>(planes)});
    launch(x, shape.total,
           SlopesAlong<T>{shape, {cptr<T>(planes), shape.total}, constants, cptr<T>(grad), mptr<T>(slopes)});
    launch(x, shape.total, FilterDown<T, 3, PlaneReader<T>>{shape, {cptr<T>(slopes), shape.total}, mptr<T>(planes)});
    launch(x, shape.total,
           SsimGradient<T>{shape, {cptr<T>(planes), shape.total}, cptr<T>(x), cptr<T>(y), mptr<T>(out)});
    return out;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
