#include "kernels/spike_counts.h"

ZOO_LIBRARY(m) {
  m.impl("spike_counts", TORCH_BOX(&zoo::spike_counts));
}
