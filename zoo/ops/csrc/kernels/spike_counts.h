// Membranes to integer spike counts: clamped to [0, most], then rounded, in one pass over memory.
#pragma once

#include <cmath>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

// NaN stays NaN: every comparison with it is false.
template <class T, bool kHalfUp>
struct SpikeCounts {
  T most;
  const T* membrane;
  T* counts;

  ZOO_HD void operator()(int64_t i) const {
    T u = membrane[i];
    u = u < T(0) ? T(0) : u;
    u = u > most ? most : u;
    counts[i] = kHalfUp ? std::floor(u + T(0.5)) : std::nearbyint(u);
  }
};

inline Tensor spike_counts(const Tensor& membrane, int64_t max_count, bool half_up) {
  const Tensor u = packed(membrane);
  return dispatch_floating(u.scalar_type(), "spike_counts", [&](auto zero) {
    using T = decltype(zero);
    const auto sizes = u.sizes();
    Tensor counts = empty_on<T>(u, std::vector<int64_t>(sizes.begin(), sizes.end()));
    const T most = static_cast<T>(max_count);
    if (half_up) {
      launch(u, u.numel(), SpikeCounts<T, true>{most, cptr<T>(u), mptr<T>(counts)}, 1 << 15);
    } else {
      launch(u, u.numel(), SpikeCounts<T, false>{most, cptr<T>(u), mptr<T>(counts)}, 1 << 15);
    }
    return counts;
  });
}

}  // namespace ZOO_TARGET
}  // namespace zoo
