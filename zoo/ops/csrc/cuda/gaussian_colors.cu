#include "kernels/gaussian_colors.h"

ZOO_LIBRARY(m) {
  m.impl("gaussian_colors", TORCH_BOX(&zoo::gaussian_colors));
  m.impl("gaussian_colors_backward", TORCH_BOX(&zoo::gaussian_colors_backward));
}
