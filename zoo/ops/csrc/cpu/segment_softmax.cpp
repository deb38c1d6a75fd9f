#include "kernels/segment_softmax.h"

ZOO_LIBRARY(m) {
  m.impl("segment_softmax", TORCH_BOX(&zoo::segment_softmax));
  m.impl("segment_softmax_backward", TORCH_BOX(&zoo::segment_softmax_backward));
}
