// Attention within sets of rows on the CPU, one set at a time, as cpu/isa/set_attention.cpp defines it for each
// instruction set. Callers own memory and threads.
#pragma once

#include <cstdint>

namespace zoo::attention {

constexpr int64_t kPad = 16;  // elements that rows of scratch matrices are padded to

inline constexpr int64_t padded(int64_t n) {
  return (n + kPad - 1) / kPad * kPad;
}

// A matrix of rows (N, heads * width) whose rows may lie apart.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
};

template <class T>
struct Job {
  Rows<const T> query, key, value;
  const int64_t* order;    // (N,) rows, set by set
  const int64_t* offsets;  // (S + 1,)
  int64_t heads, width, longest;
  T scale;
  Rows<T> out;
  T* logsumexp;  // (N, heads)
  // backward only
  Rows<const T> grad, output;
  Rows<T> grad_query, grad_key, grad_value;
};

// Elements of scratch for sets of up to `longest` rows.
inline constexpr int64_t scratch_elements(int64_t longest, int64_t width) {
  const int64_t square = longest * padded(longest), tall = longest * padded(width), flat = width * padded(longest);
  return 2 * square + 5 * tall + 2 * flat;
}

}  // namespace zoo::attention
