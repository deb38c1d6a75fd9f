// Units of unequal cost, handed to threads one after another.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <utility>

namespace zoo {

// Every thread calls `worker = make_worker()` once and then worker(unit) until the units 0 to count - 1 are used up.
// Results do not depend on who does what as long as units write to places of their own.
template <class MakeWorker>
void for_each_unit(int64_t count, const MakeWorker& make_worker) {
  if (count <= 0) return;
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    int64_t unit = next.fetch_add(1, std::memory_order_relaxed);
    if (unit >= count) return;
    auto worker = make_worker();
    for (; unit < count; unit = next.fetch_add(1, std::memory_order_relaxed)) worker(unit);
  });
}

// Uninitialised memory aligned to a cache line.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(::operator new[](sizeof(T) * std::max<int64_t>(count, 1), kAlignment))) {}
  Scratch(Scratch&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Scratch() { ::operator delete[](data_, kAlignment); }
  T* get() const { return data_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  T* data_;
};

}  // namespace zoo
