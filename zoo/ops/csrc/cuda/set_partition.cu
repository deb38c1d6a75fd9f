#include "kernels/set_partition.h"

ZOO_LIBRARY(m) {
  m.impl("window_partition", TORCH_BOX(&zoo::window_partition));
  m.impl("set_keys", TORCH_BOX(&zoo::set_keys));
  m.impl("fill_sets", TORCH_BOX(&zoo::fill_sets));
}
