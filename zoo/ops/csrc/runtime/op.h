// What every op needs: the stable tensor, registration, allocation, dispatch over dtypes, and the launcher.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "runtime/huge_pages.h"
#include "runtime/launch.h"
#include "runtime/target.h"

// The block after ZOO_LIBRARY(m) registers this file's kernels: m.impl("name", TORCH_BOX(&function)).
#if defined(ZOO_EMULATE_CUDA)
#define ZOO_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(zoo_emulated, CPU, m)
#elif ZOO_CUDA
#define ZOO_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(zoo, CUDA, m)
#else
#define ZOO_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(zoo, CPU, m)
#endif

namespace zoo {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
struct scalar_type_of;
template <>
struct scalar_type_of<float> {
  static constexpr ScalarType value = ScalarType::Float;
};
template <>
struct scalar_type_of<double> {
  static constexpr ScalarType value = ScalarType::Double;
};
template <>
struct scalar_type_of<int32_t> {
  static constexpr ScalarType value = ScalarType::Int;
};
template <>
struct scalar_type_of<int64_t> {
  static constexpr ScalarType value = ScalarType::Long;
};
template <>
struct scalar_type_of<bool> {
  static constexpr ScalarType value = ScalarType::Bool;
};
template <>
struct scalar_type_of<uint8_t> {
  static constexpr ScalarType value = ScalarType::Byte;
};

// Uninitialised / zeroed tensors on the device of `like`.
template <class T>
Tensor empty_on(const Tensor& like, std::vector<int64_t> sizes) {
  Tensor made = torch::stable::new_empty(like, sizes, scalar_type_of<T>::value);
#if !ZOO_CUDA
  prefer_huge_pages(made.mutable_data_ptr(), static_cast<size_t>(made.numel()) * sizeof(T));
#endif
  return made;
}
template <class T>
Tensor zeros_on(const Tensor& like, std::vector<int64_t> sizes) {
  return torch::stable::new_zeros(like, sizes, scalar_type_of<T>::value);
}
// The tensor itself where its memory is row-major, else a row-major copy.
inline Tensor packed(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

template <class T>
const T* cptr(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* mptr(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Calls f(T{}) with T = float or double by dtype.
template <class F>
auto dispatch_floating(ScalarType dtype, const char* op, F&& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    default:
      STD_TORCH_CHECK(false, op, ": found a dtype that is neither float32 nor float64");
      return f(float{});
  }
}

}  // namespace zoo
