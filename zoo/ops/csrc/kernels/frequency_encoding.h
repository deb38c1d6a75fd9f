// Sines and cosines of factor * 2^k * x. Columns after the D of x itself (if included): (axis, k, sine | cosine) if
// axis-major, else (k, sine | cosine, axis).
#pragma once

#include <cmath>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

struct FrequencyColumns {
  int dims, num_frequencies;
  bool include_input, axis_major;

  ZOO_HD int first() const { return include_input ? dims : 0; }
  ZOO_HD int width() const { return first() + 2 * dims * num_frequencies; }
  ZOO_HD int sine(int axis, int k) const {
    return first() + (axis_major ? 2 * (axis * num_frequencies + k) : 2 * k * dims + axis);
  }
  ZOO_HD int cosine(int axis, int k) const { return sine(axis, k) + (axis_major ? 1 : dims); }
};

// Call i handles coordinate i % D of point i / D.
template <class T>
struct FrequencyForward {
  FrequencyColumns columns;
  double factor;
  const T* x;  // (N, D)
  T* output;   // (N, width)

  ZOO_HD void operator()(int64_t i) const {
    const int axis = static_cast<int>(i % columns.dims);
    T* out = output + i / columns.dims * columns.width();
    if (columns.include_input) out[axis] = x[i];
    double octave = factor;
    for (int k = 0; k < columns.num_frequencies; ++k, octave *= 2) {
      const T angle = x[i] * static_cast<T>(octave);
      out[columns.sine(axis, k)] = std::sin(angle);
      out[columns.cosine(axis, k)] = std::cos(angle);
    }
  }
};

template <class T>
struct FrequencyBackward {
  FrequencyColumns columns;
  double factor;
  const T* x;
  const T* grad_output;
  T* grad_x;

  ZOO_HD void operator()(int64_t i) const {
    const int axis = static_cast<int>(i % columns.dims);
    const T* grad = grad_output + i / columns.dims * columns.width();
    T sum = columns.include_input ? grad[axis] : T(0);
    double octave = factor;
    for (int k = 0; k < columns.num_frequencies; ++k, octave *= 2) {
      const T rate = static_cast<T>(octave), angle = x[i] * rate;
      sum += rate * (grad[columns.sine(axis, k)] * std::cos(angle) - grad[columns.cosine(axis, k)] * std::sin(angle));
    }
    grad_x[i] = sum;
  }
};

inline Tensor frequency_encode(const Tensor& points, int64_t num_frequencies, double factor, bool include_input,
                               bool axis_major) {
  const Tensor x = packed(points);
  const int64_t n = x.size(0), dims = x.size(1);
  const FrequencyColumns columns{static_cast<int>(dims), static_cast<int>(num_frequencies), include_input, axis_major};
  return dispatch_floating(x.scalar_type(), "frequency_encode", [&](auto zero) {
    using T = decltype(zero);
    Tensor output = empty_on<T>(x, {n, columns.width()});
    launch(x, n * dims, FrequencyForward<T>{columns, factor, cptr<T>(x), mptr<T>(output)});
    return output;
  });
}

inline Tensor frequency_encode_backward(const Tensor& grad_output, const Tensor& points, int64_t num_frequencies,
                                        double factor, bool include_input, bool axis_major) {
  const Tensor x = packed(points), grad = packed(grad_output);
  const int64_t n = x.size(0), dims = x.size(1);
  const FrequencyColumns columns{static_cast<int>(dims), static_cast<int>(num_frequencies), include_input, axis_major};
  return dispatch_floating(x.scalar_type(), "frequency_encode_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor grad_x = empty_on<T>(x, {n, dims});
    launch(x, n * dims, FrequencyBackward<T>{columns, factor, cptr<T>(x), cptr<T>(grad), mptr<T>(grad_x)});
    return grad_x;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
