// Interface between the sparse convolution ops and their instruction-set builds.
//
// cpu/isa/sparse_conv.cpp is compiled once per instruction set; each build exports one table of plain functions that
// work on a range of independent units. The callers own memory and threads, so that a build needs no library header:
// an inline library function compiled with AVX-512 could otherwise be picked by the linker for every other file too.
#pragma once

#include <cstdint>

namespace zoo::conv {

// out[pairs_out[p]] += weight[k] . in[pairs_in[p]] for the pairs p of every offset k. pairs_out ascends inside a group.
struct ForwardArgs {
  const void* in;           // (num_in, groups * cin)
  const void* weight;       // written by pack_weight
  void* out;                // (num_out, groups * cout)
  const int32_t* pairs_in;  // (P,)
  const int32_t* pairs_out;
  const int64_t* offsets;  // (num_offsets + 1,)
  int64_t num_out;
  int64_t tile_rows;  // output rows of one tile
  int32_t num_offsets;
  int32_t groups;
  int32_t cin;  // channels of one group
  int32_t cout;
};

// packed[k, g] = weight[:, k, :] of group g, transposed so that output channels lie next to each other and padded.
struct PackArgs {
  const void* weight;  // (groups * rows, K, cols)
  void* packed;
  int32_t num_offsets;
  int32_t groups;
  int32_t rows;
  int32_t cols;
  bool transposed;  // false: reduce over cols (forward); true: reduce over rows (dgrad)
};

// grad[:, k, :] = sum over the pairs of offset k of grad_out[pairs_out[p]] (outer product) in[pairs_in[p]].
struct WgradArgs {
  const void* in;        // (num_in, groups * cin)
  const void* grad_out;  // (num_out, groups * cout)
  void* grad;            // (groups * cout, K, cin)
  const int32_t* pairs_in;
  const int32_t* pairs_out;
  const int64_t* offsets;
  int32_t num_offsets;
  int32_t groups;
  int32_t cin;
  int32_t cout;
  int32_t splits;  // units of one (offset, group): parts of the rows of its gradient
};

// Scratch memory belongs to one thread, is aligned to a cache line, and its size is in bytes.
template <typename T>
struct Kernels {
  int64_t (*packed_elements)(const PackArgs&);                       // size of PackArgs::packed
  void (*pack_weight)(const PackArgs&, int64_t begin, int64_t end);  // units: offsets
  int64_t (*forward_scratch)(const ForwardArgs&);
  void (*forward)(const ForwardArgs&, int64_t begin, int64_t end, void* scratch);  // units: tiles of output rows
  void (*depthwise)(const ForwardArgs&, int64_t begin, int64_t end);  // cin = cout = 1, weight (num_offsets, groups)
  int64_t (*wgrad_scratch)(const WgradArgs&);
  void (*wgrad)(const WgradArgs&, int64_t unit, void* scratch);  // (offset * groups + group) * splits + part
  void (*depthwise_wgrad)(const WgradArgs&, int64_t offset,
                          void* scratch);  // grad (num_offsets, groups); one T a group
};

struct KernelTable {
  Kernels<float> float32;
  Kernels<double> float64;
};

}  // namespace zoo::conv
