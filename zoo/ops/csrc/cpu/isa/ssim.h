// Structural similarity one row of pixels at a time, as cpu/isa/ssim.cpp defines it for each instruction set. A row
// holds the channels of its pixels side by side. Callers own memory and threads.
#pragma once

#include <cstdint>

namespace zoo::similarity {

constexpr int64_t kSlack = 64;  // elements behind a row of scratch that loads may touch

template <class T>
struct Job {
  const T *x, *y;  // (height, row) of one picture
  const T* grad;   // backward only
  int64_t height, row, channels;
  const T* window;  // (taps,), odd, the same from both ends
  int64_t taps;
  T covariance_scale, c1, c2;

  int64_t margin() const { return taps / 2 * channels; }
  int64_t padded_row() const { return row + 2 * margin() + kSlack; }
};

}  // namespace zoo::similarity
