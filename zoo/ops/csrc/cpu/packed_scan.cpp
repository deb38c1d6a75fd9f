#include "kernels/packed_scan.h"

namespace zoo {

Tensor packed_sum(const Tensor& x, const Tensor& packed_info, bool exclusive, bool reverse) {
  const Tensor values = packed(x), info = packed(packed_info);
  const int64_t total = values.size(0);
  check_tiling(info, total, "packed_sum");
  return dispatch_floating(values.scalar_type(), "packed_sum", [&](auto zero) {
    using T = decltype(zero);
    Tensor output = empty_on<T>(values, {total});
    launch(values, info.size(0),
           PackedSum<T>{cptr<T>(values), cptr<int64_t>(info), total, exclusive, reverse, mptr<T>(output)}, 64);
    return output;
  });
}

Tensor packed_prod(const Tensor& x, const Tensor& packed_info, bool exclusive) {
  const Tensor values = packed(x), info = packed(packed_info);
  const int64_t total = values.size(0);
  check_tiling(info, total, "packed_prod");
  return dispatch_floating(values.scalar_type(), "packed_prod", [&](auto zero) {
    using T = decltype(zero);
    Tensor output = empty_on<T>(values, {total});
    launch(values, info.size(0), PackedProd<T>{cptr<T>(values), cptr<int64_t>(info), total, exclusive, mptr<T>(output)},
           64);
    return output;
  });
}

Tensor packed_prod_backward(const Tensor& grad, const Tensor& x, const Tensor& packed_info, bool exclusive) {
  const Tensor values = packed(x), info = packed(packed_info), grad_output = packed(grad);
  const int64_t total = values.size(0);
  check_tiling(info, total, "packed_prod_backward");
  return dispatch_floating(values.scalar_type(), "packed_prod_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor output = empty_on<T>(values, {total});
    launch(values, info.size(0),
           PackedProdBackward<T>{cptr<T>(grad_output), cptr<T>(values), cptr<int64_t>(info), total, exclusive,
                                 mptr<T>(output)},
           64);
    return output;
  });
}

}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("packed_sum", TORCH_BOX(&zoo::packed_sum));
  m.impl("packed_prod", TORCH_BOX(&zoo::packed_prod));
  m.impl("packed_prod_backward", TORCH_BOX(&zoo::packed_prod_backward));
}
