// The hash encoding on the GPU: one thread for each point and level, level by level so that a level's rows stay in the
// L2 cache. Rows of the table's gradient are met by many threads; atomic additions sum them in no fixed order.
#include "kernels/hash_encoding.h"

namespace zoo {
inline namespace ZOO_TARGET {

struct AtomicAdd {
  template <class T>
  static __device__ __forceinline__ void add(T* target, T value) {
    add_shared(target, value);
  }
};

// Calls f with D and F as compile-time constants; F = 0 (known at run time) except for float32 in 2D and 3D.
template <class T, class F>
auto dispatch_grid(int64_t dims, int64_t features, F&& f) {
  return dispatch_grid_dims(dims, [&](auto constant) {
    if constexpr (std::is_same_v<T, float> && decltype(constant)::value <= 3) {
      switch (features) {
        case 1:
          return f(constant, Constant<1>{});
        case 2:
          return f(constant, Constant<2>{});
        case 4:
          return f(constant, Constant<4>{});
        default:
          return f(constant, Constant<8>{});
      }
    } else {
      return f(constant, Constant<0>{});
    }
  });
}

Tensor hash_encode(const Tensor& points, const Tensor& rows, const Tensor& scales, const Tensor& levels, double shift,
                   int64_t interpolation, bool bounded, bool ceil_corners) {
  const Tensor x = packed(points), table = packed(rows);
  const GridSettings settings = grid_settings(shift, interpolation, bounded, ceil_corners);
  const int64_t n = x.size(0), features = table.size(1);
  return dispatch_floating(x.scalar_type(), "hash_encode", [&](auto zero) {
    using T = decltype(zero);
    const GridLevels<T> grid = read_levels<T>(scales, levels);
    Tensor output = empty_on<T>(x, {n, grid.count * features});
    dispatch_grid<T>(x.size(1), features, [&](auto d, auto f) {
      launch(x, n * grid.count,
             HashEncode<T, decltype(d)::value, decltype(f)::value>{grid, settings, n, static_cast<int>(features),
                                                                   cptr<T>(x), cptr<T>(table), mptr<T>(output)});
    });
    return output;
  });
}

Tensor hash_encode_table_grad(const Tensor& grad_output, const Tensor& points, const Tensor& scales,
                              const Tensor& levels, int64_t num_rows, double shift, int64_t interpolation, bool bounded,
                              bool ceil_corners) {
  const Tensor x = packed(points), grad = packed(grad_output);
  const GridSettings settings = grid_settings(shift, interpolation, bounded, ceil_corners);
  return dispatch_floating(x.scalar_type(), "hash_encode_table_grad", [&](auto zero) {
    using T = decltype(zero);
    const GridLevels<T> grid = read_levels<T>(scales, levels);
    const int64_t n = x.size(0), features = grad.size(1) / grid.count;
    Tensor result = zeros_on<T>(x, {num_rows, features});
    dispatch_grid<T>(x.size(1), features, [&](auto d, auto f) {
      launch(x, n * grid.count,
             HashTableGrad<T, decltype(d)::value, decltype(f)::value, AtomicAdd>{
                 grid, settings, n, static_cast<int>(features), cptr<T>(x), cptr<T>(grad), mptr<T>(result)});
    });
    return result;
  });
}

Tensor hash_encode_input_grad(const Tensor& grad_output, const Tensor& points, const Tensor& rows, const Tensor& scales,
                              const Tensor& levels, double shift, int64_t interpolation, bool bounded,
                              bool ceil_corners) {
  const Tensor x = packed(points), table = packed(rows), grad = packed(grad_output);
  const GridSettings settings = grid_settings(shift, interpolation, bounded, ceil_corners);
  const int64_t n = x.size(0), features = table.size(1);
  return dispatch_floating(x.scalar_type(), "hash_encode_input_grad", [&](auto zero) {
    using T = decltype(zero);
    const GridLevels<T> grid = read_levels<T>(scales, levels);
    Tensor grad_x = empty_on<T>(x, {n, x.size(1)});
    dispatch_grid<T>(x.size(1), features, [&](auto d, auto f) {
      launch(
          x, n,
          HashInputGrad<T, decltype(d)::value, decltype(f)::value>{
              grid, settings, static_cast<int>(features), cptr<T>(x), cptr<T>(table), cptr<T>(grad), mptr<T>(grad_x)});
    });
    return grad_x;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("hash_encode", TORCH_BOX(&zoo::hash_encode));
  m.impl("hash_encode_table_grad", TORCH_BOX(&zoo::hash_encode_table_grad));
  m.impl("hash_encode_input_grad", TORCH_BOX(&zoo::hash_encode_input_grad));
}
