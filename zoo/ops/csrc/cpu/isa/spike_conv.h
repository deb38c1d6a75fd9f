// Interface between the event-driven convolution and its instruction-set builds; as in cpu/isa/sparse_conv.h the
// callers own memory and threads.
#pragma once

#include <cstdint>

#include "cpu/isa/sparse_conv.h"

namespace zoo::conv {

// The events (values other than zero) of feature row i stand at [starts[i], starts[i + 1]), in the order of channels.
struct EventArgs {
  const void* features;  // (num_rows, cin)
  int64_t* starts;       // (num_rows + 1,)
  uint16_t* channels;
  void* counts;
  int32_t cin;
};

// out[pairs_out[p]] += the sum of count * weight[k, channel] over the events of row pairs_in[p].
struct EventConvArgs {
  EventArgs events;
  ForwardArgs conv;  // in is unused, groups = 1, weight written by pack_weight
};

template <typename T>
struct EventKernels {
  // Writes the events that rows [begin, end) take up, rounded up, to starts[row + 1]; returns their exact number.
  int64_t (*count_events)(const EventArgs&, int32_t cout, int64_t begin, int64_t end);
  void (*list_events)(const EventArgs&, int64_t begin, int64_t end);
  int64_t (*packed_elements)(const PackArgs&);
  void (*pack_weight)(const PackArgs&, int64_t begin, int64_t end);                     // units: offsets
  int64_t (*scratch)(const EventConvArgs&);                                             // bytes
  void (*accumulate)(const EventConvArgs&, int64_t begin, int64_t end, void* scratch);  // units: tiles of output rows
};

struct EventKernelTable {
  EventKernels<float> float32;
  EventKernels<double> float64;
};

}  // namespace zoo::conv
