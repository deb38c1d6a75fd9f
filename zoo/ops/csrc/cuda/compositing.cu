#include "kernels/compositing.h"

ZOO_LIBRARY(m) {
  m.impl("render_rays", TORCH_BOX(&zoo::render_rays));
  m.impl("render_rays_backward", TORCH_BOX(&zoo::render_rays_backward));
}
