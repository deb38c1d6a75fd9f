#include "kernels/ssim.h"

ZOO_LIBRARY(m) {
  m.impl("ssim_map", TORCH_BOX(&zoo::ssim_map));
  m.impl("ssim_map_backward", TORCH_BOX(&zoo::ssim_map_backward));
}
