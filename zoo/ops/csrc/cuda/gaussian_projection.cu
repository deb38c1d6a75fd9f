#include "kernels/gaussian_projection.h"

ZOO_LIBRARY(m) {
  m.impl("project_gaussians", TORCH_BOX(&zoo::project_gaussians));
  m.impl("project_gaussians_backward", TORCH_BOX(&zoo::project_gaussians_backward));
}
