#include "kernels/segment.h"

ZOO_LIBRARY(m) {
  m.impl("segment_total", TORCH_BOX(&zoo::segment_total));
  m.impl("segment_spread", TORCH_BOX(&zoo::segment_spread));
  m.impl("segment_extreme", TORCH_BOX(&zoo::segment_extreme));
}
