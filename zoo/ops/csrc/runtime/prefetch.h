// Asking for memory before it is needed: rows in random order wait for it otherwise.
#pragma once

#include <cstdint>

#include "runtime/target.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int64_t kAhead = 8;  // rows between the one that is asked for and the one in work

// A hint; does nothing on a GPU, whose threads wait for each other's memory.
template <class T>
ZOO_HD void prefetch_row([[maybe_unused]] const T* row, [[maybe_unused]] int64_t count) {
#if !ZOO_CUDA
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(row + i);
#endif
}

}  // namespace ZOO_TARGET
}  // namespace zoo
