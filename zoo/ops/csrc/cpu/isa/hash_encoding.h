// The fast path of the hash encoding on the CPU (float32, 2D and 3D, linear and smoothstep), as
// cpu/isa/hash_encoding.cpp defines it for each instruction set.
#pragma once

#include <cstdint>

#include "kernels/hash_grid.h"

namespace zoo {

// Points (N, D), table (rows, F) and output gradient (N, L F), row-major.
struct GridJob {
  int num_dims, num_features, num_levels;
  GridSettings settings;
  const GridLevel<float>* levels;
  const float* x;
  const float* table;
  const float* grad;
};

// Points and the output gradients of one level in the order in which a level-wise pass reads them.
struct GridColumns {
  const float* x;     // (D, count), axis by axis
  int64_t stride;     // from one axis to the next
  const float* grad;  // (count, F)
  int64_t count;
};

}  // namespace zoo
