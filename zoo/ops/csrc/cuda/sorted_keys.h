// Sorting on the GPU: torch's stable sort, a radix sort; no reason to write another.
#pragma once

#include <array>
#include <optional>
#include <tuple>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

// Keys in rising order, and the place that each had.
inline std::tuple<Tensor, Tensor> sort_keys(const Tensor& keys) {
  std::array<StableIValue, 4> stack{torch::stable::detail::from(keys),
                                    torch::stable::detail::from(std::optional<bool>(true)),
                                    torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

}  // namespace ZOO_TARGET
}  // namespace zoo
