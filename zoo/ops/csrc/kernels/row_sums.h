// Sums of many rows in a fixed order: runs of rows first, then the runs.
#pragma once

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int64_t kRowRun = 256;

template <class T>
struct SumRowRun {
  const T* rows;  // (groups, count, columns)
  int64_t count, columns, runs;
  T* out;  // (groups, runs, columns)

  ZOO_HD void operator()(int64_t i) const {
    const int64_t column = i % columns, run = i / columns % runs, group = i / columns / runs;
    const int64_t begin = run * kRowRun, end = begin + kRowRun < count ? begin + kRowRun : count;
    T total = 0;
    for (int64_t k = begin; k < end; ++k) total += rows[(group * count + k) * columns + column];
    out[i] = total;
  }
};

template <class T>
struct SumRuns {
  const T* runs;
  int64_t number, columns, stride;
  T* out;  // (groups, stride), the first `columns` are written

  ZOO_HD void operator()(int64_t i) const {
    const int64_t column = i % columns, group = i / columns;
    T total = 0;
    for (int64_t k = 0; k < number; ++k) total += runs[(group * number + k) * columns + column];
    out[group * stride + column] = total;
  }
};

// out[g, c] = sum over k of rows[g, k, c].
template <class T>
void sum_rows(const Tensor& rows, int64_t groups, int64_t count, int64_t columns, T* out, int64_t stride) {
  const int64_t runs = (count + kRowRun - 1) / kRowRun;
  const Tensor partial = empty_on<T>(rows, {groups * runs, columns});
  launch(rows, groups * runs * columns, SumRowRun<T>{cptr<T>(rows), count, columns, runs, mptr<T>(partial)}, 16);
  launch(rows, groups * columns, SumRuns<T>{cptr<T>(partial), runs, columns, stride, out}, 16);
}

}  // namespace ZOO_TARGET
}  // namespace zoo
