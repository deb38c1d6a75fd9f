// torch's current CUDA stream, found at run time so that the binary also loads where libtorch_cuda is absent, and the
// launch macro that the emulator replaces.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#if defined(ZOO_EMULATE_CUDA)

// <emulator> provides cudaStream_t, dim3, ZOO_LAUNCH and the device intrinsics (included on the command line).
namespace zoo {
inline cudaStream_t current_stream(const torch::stable::Tensor&) {
  return nullptr;
}
struct OnDevice {
  explicit OnDevice(const torch::stable::Tensor&) {}
};
}  // namespace zoo

#else

#include <dlfcn.h>

#define ZOO_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                          \
  do {                                                                                                      \
    ZOO_EXPAND kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__);                                  \
    const cudaError_t status = cudaGetLastError();                                                          \
    STD_TORCH_CHECK(status == cudaSuccess, "launch of ", #kernel, " failed: ", cudaGetErrorString(status)); \
  } while (0)
#define ZOO_EXPAND(...) __VA_ARGS__
// Shared memory whose size is given at launch.
#define ZOO_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char zoo_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(zoo_dynamic_shared)

namespace zoo {

// While it lives, the tensor's GPU is the current one: every function that launches a kernel itself holds one.
class OnDevice {
 public:
  explicit OnDevice(const torch::stable::Tensor& where) : guard_(where.get_device_index()) {}

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

inline cudaStream_t current_stream(const torch::stable::Tensor& where) {
  using CurrentCudaStream = AOTITorchError (*)(int32_t, void**);
  using NativeHandle = AOTITorchError (*)(StreamHandle, void**);
  const int32_t device = where.get_device_index();
  void* stream = nullptr;
  // torch >= 2.13 gives the native handle through libtorch_cpu.
  static const auto native_handle = reinterpret_cast<NativeHandle>(dlsym(RTLD_DEFAULT, "torch_stream_native_handle"));
  if (native_handle != nullptr) {
    StreamHandle handle = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_stream(device, &handle) == AOTI_TORCH_SUCCESS, "no current stream");
    const AOTITorchError status = native_handle(handle, &stream);
    aoti_torch_delete_stream(handle);
    STD_TORCH_CHECK(status == AOTI_TORCH_SUCCESS, "the current stream has no native handle");
    return static_cast<cudaStream_t>(stream);
  }
  // Older releases have it in libtorch_cuda, which is loaded wherever a CUDA tensor exists.
  static const auto cuda_stream = [] {
    void* symbol = dlsym(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream");
    if (symbol == nullptr) {
      void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
      if (library != nullptr) symbol = dlsym(library, "aoti_torch_get_current_cuda_stream");
    }
    return reinterpret_cast<CurrentCudaStream>(symbol);
  }();
  STD_TORCH_CHECK(cuda_stream != nullptr,
                  "this torch does not tell its current CUDA stream; torch >= 2.10 with CUDA does");
  STD_TORCH_CHECK(cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS, "no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

}  // namespace zoo

#endif
