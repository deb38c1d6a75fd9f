#include "kernels/interpolate.h"

ZOO_LIBRARY(m) {
  m.impl("interpolate_rows", TORCH_BOX(&zoo::interpolate_rows));
  m.impl("interpolate_rows_backward", TORCH_BOX(&zoo::interpolate_rows_backward));
}
