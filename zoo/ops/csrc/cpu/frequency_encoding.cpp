#include "kernels/frequency_encoding.h"

ZOO_LIBRARY(m) {
  m.impl("frequency_encode", TORCH_BOX(&zoo::frequency_encode));
  m.impl("frequency_encode_backward", TORCH_BOX(&zoo::frequency_encode_backward));
}
