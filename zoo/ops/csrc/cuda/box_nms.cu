// Suppression of overlapping boxes on the GPU: first every box learns, as bits, which later ones it overlaps; then one
// block goes through the boxes in order and collects the bits of those that it keeps.
#include <algorithm>
#include <cstdint>

#include "kernels/box_overlap.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kScanThreads = 512;
constexpr int64_t kWordBits = 64;

template <class T>
struct OverlapBits {
  const Footprint<T>* boxes;
  int64_t count, words;
  T threshold;
  int64_t* bits;  // (N, words)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t row = i / words, first = i % words * kWordBits;
    uint64_t word = 0;
    for (int64_t k = 0; k < kWordBits; ++k) {
      const int64_t other = first + k;
      if (other <= row || other >= count) continue;
      if (measure_pair(boxes[row], boxes[other], kIouBev) > threshold) word |= uint64_t{1} << k;
    }
    bits[i] = static_cast<int64_t>(word);
  }
};

__global__ void __launch_bounds__(kScanThreads) keep_in_order_kernel(const int64_t* bits, int64_t count, int64_t words,
                                                                     int64_t max_kept, int64_t* gone, bool* keep) {
  int64_t kept = 0;
  for (int64_t row = 0; row < count; ++row) {
    const bool stays =
        kept < max_kept && ((static_cast<uint64_t>(gone[row / kWordBits]) >> (row % kWordBits)) & 1) == 0;
    __syncthreads();  // all have read the word before it changes
    if (stays) {
      ++kept;
      for (int64_t word = row / kWordBits + threadIdx.x; word < words; word += kScanThreads) {
        gone[word] |= bits[row * words + word];
      }
    }
    if (threadIdx.x == 0) keep[row] = stays;
    __syncthreads();
  }
}

inline Tensor nms_keep(const Tensor& boxes, double threshold, int64_t max_kept) {
  const Tensor rows = packed(boxes);
  const int64_t count = rows.size(0), words = (count + kWordBits - 1) / kWordBits;
  Tensor keep = empty_on<bool>(rows, {count});
  if (count == 0) return keep;
  const OnDevice guard(rows);
  Tensor bits = empty_on<int64_t>(rows, {count, words}), gone = zeros_on<int64_t>(rows, {words});
  dispatch_floating(rows.scalar_type(), "nms_rotated", [&](auto zero) {
    using T = decltype(zero);
    const Tensor ready = footprints_of<T>(rows);
    launch(rows, count * words,
           OverlapBits<T>{footprints<T>(ready), count, words, static_cast<T>(threshold), mptr<int64_t>(bits)});
    return 0;
  });
  ZOO_LAUNCH((keep_in_order_kernel), dim3(1), dim3(kScanThreads), 0, current_stream(rows), cptr<int64_t>(bits), count,
             words, max_kept, mptr<int64_t>(gone), mptr<bool>(keep));
  return keep;
}

}  // namespace ZOO_TARGET
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("nms_keep", TORCH_BOX(&zoo::nms_keep));
}
