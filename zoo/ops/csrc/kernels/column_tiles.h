// How wide rows are shared out: a GPU thread takes one column, so that neighbours read neighbours; a CPU thread takes a
// cache line of them, so that every line is read once and the columns fill vector registers.
#pragma once

#include <type_traits>

#include "kernels/packed_chunks.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kColumns = ZOO_CUDA ? 1 : 16;

inline int64_t column_tiles(int64_t channels) {
  return (channels + kColumns - 1) / kColumns;
}

struct ColumnTile {
  int64_t segment, first, channels;
  int width;

  ZOO_HD ColumnTile(int64_t i, int64_t n_channels) : channels(n_channels) {
    const int64_t tiles = (channels + kColumns - 1) / kColumns;
    segment = i / tiles;
    first = (i % tiles) * kColumns;
    width = static_cast<int>(channels - first < kColumns ? channels - first : kColumns);
  }

  // Calls f(first of the row's columns, row number, width) for the rows in order; a full width is known to the
  // compiler.
  template <class T, class F>
  ZOO_HD void for_each_row(const T* values, Chunk chunk, const F& f) const {
    const T* at = values + chunk.start * channels + first;
    if (width == kColumns) {
      for (int64_t k = 0; k < chunk.count; ++k) {
        f(at + k * channels, chunk.start + k, std::integral_constant<int, kColumns>{});
      }
    } else {
      for (int64_t k = 0; k < chunk.count; ++k) f(at + k * channels, chunk.start + k, width);
    }
  }
};

}  // namespace ZOO_TARGET
}  // namespace zoo
