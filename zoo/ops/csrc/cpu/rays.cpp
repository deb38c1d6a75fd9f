#include "kernels/ray_boxes.h"
#include "kernels/ray_marching.h"

ZOO_LIBRARY(m) {
  m.impl("ray_aabb_intersect", TORCH_BOX(&zoo::ray_aabb_intersect));
  m.impl("march_count", TORCH_BOX(&zoo::march_count));
  m.impl("march_fill", TORCH_BOX(&zoo::march_fill));
}
