#include "kernels/bev_maps.h"

ZOO_LIBRARY(m) {
  m.impl("draw_heatmap", TORCH_BOX(&zoo::draw_heatmap));
  m.impl("scatter_to_bev", TORCH_BOX(&zoo::scatter_to_bev));
  m.impl("scatter_to_bev_backward", TORCH_BOX(&zoo::scatter_to_bev_backward));
}
