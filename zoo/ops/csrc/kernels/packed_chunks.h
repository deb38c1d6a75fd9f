// The packed layout: rows of many rays one after another, described by (start, count) of each ray.
#pragma once

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

struct Chunk {
  int64_t start, count;
};

// The rows of one ray; none where the description points outside the `total` rows.
ZOO_HD Chunk chunk_of(const int64_t* packed_info, int64_t ray, int64_t total) {
  const int64_t start = packed_info[2 * ray], count = packed_info[2 * ray + 1];
  if (start < 0 || count < 0 || count > total || start > total - count) return {0, 0};
  return {start, count};
}

// On the CPU a description that does not tile the rows in order is an error; a GPU would have to wait for the answer,
// so there wrong chunks are only kept from reaching outside.
inline void check_tiling(const Tensor& packed_info, int64_t total, const char* op) {
#if !ZOO_CUDA
  const int64_t* info = cptr<int64_t>(packed_info);
  const int64_t n_rays = packed_info.size(0);
  int64_t end = 0;
  for (int64_t ray = 0; ray < n_rays; ++ray) {
    const int64_t start = info[2 * ray], count = info[2 * ray + 1];
    STD_TORCH_CHECK(count >= 0 && (count == 0 || start == end), op, ": packed_info row ", ray, " is (", start, ", ",
                    count, "), expected start ", end,
                    ": the rays tile the samples in order, as pack_info and march_rays make them");
    end += count;
  }
  STD_TORCH_CHECK(end == total, op, ": packed_info describes ", end, " samples, expected ", total);
#else
  (void)packed_info, (void)total, (void)op;
#endif
}

}  // namespace ZOO_TARGET
}  // namespace zoo
