// Half-precision tensors on the CPU: ops compute in float32 and round their results once.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <vector>

#include "runtime/op.h"

namespace zoo {

template <class From, class To>
void convert(const From* from, To* to, int64_t count) {
  torch::stable::parallel_for(0, count, 1 << 15, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<To>(static_cast<float>(from[i]));
  });
}

inline bool is_half(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::BFloat16 || tensor.scalar_type() == ScalarType::Half;
}

// float32 values of a half-precision tensor; any other tensor as it is.
inline Tensor widened(const Tensor& tensor) {
  const Tensor source = packed(tensor);
  if (!is_half(source)) return source;
  const auto sizes = source.sizes();
  Tensor wide = empty_on<float>(source, std::vector<int64_t>(sizes.begin(), sizes.end()));
  if (source.scalar_type() == ScalarType::BFloat16) {
    convert(cptr<torch::headeronly::BFloat16>(source), mptr<float>(wide), source.numel());
  } else {
    convert(cptr<torch::headeronly::Half>(source), mptr<float>(wide), source.numel());
  }
  return wide;
}

// `wide` rounded to the dtype of `like` where that is half precision.
inline Tensor narrowed(const Tensor& wide, const Tensor& like) {
  if (!is_half(like)) return wide;
  const auto sizes = wide.sizes();
  Tensor narrow = torch::stable::new_empty(wide, std::vector<int64_t>(sizes.begin(), sizes.end()), like.scalar_type());
  if (like.scalar_type() == ScalarType::BFloat16) {
    convert(cptr<float>(wide), mptr<torch::headeronly::BFloat16>(narrow), wide.numel());
  } else {
    convert(cptr<float>(wide), mptr<torch::headeronly::Half>(narrow), wide.numel());
  }
  return narrow;
}

}  // namespace zoo
