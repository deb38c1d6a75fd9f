// Cutting work into blocks and runs.
#pragma once

#include <cstdint>

namespace {

inline int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}
inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// `count` things split into `blocks` nearly equal blocks.
struct Split {
  int blocks, base, extra;
  Split(int count, int largest) : blocks(ceil_div(count, largest)), base(0), extra(0) {
    if (blocks > 0) base = count / blocks, extra = count % blocks;
  }
  int size(int b) const { return base + (b < extra ? 1 : 0); }
  int start(int b) const { return b * base + (b < extra ? b : extra); }
};

// First position of the ascending rows[0, n) whose value is not below `row`.
inline int64_t lower_bound(const int32_t* rows, int64_t n, int64_t row) {
  if (n == 0) return 0;
  const int32_t* low = rows;
  for (; n > 1; n -= n / 2) low += low[n / 2 - 1] < row ? n / 2 : 0;  // no branch: it would be a coin toss
  return (low - rows) + (*low < row ? 1 : 0);
}

}  // namespace
