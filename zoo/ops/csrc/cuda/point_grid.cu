#include "kernels/cell_attention.h"
#include "kernels/point_sampling.h"

ZOO_LIBRARY(m) {
  m.impl("cell_index", TORCH_BOX(&zoo::cell_index));
  m.impl("cell_order", TORCH_BOX(&zoo::cell_order));
  m.impl("cell_attention", TORCH_BOX(&zoo::cell_attention));
  m.impl("cell_attention_backward", TORCH_BOX(&zoo::cell_attention_backward));
  m.impl("sample_rows", TORCH_BOX(&zoo::sample_rows));
  m.impl("sample_rows_backward", TORCH_BOX(&zoo::sample_rows_backward));
  m.impl("sample_coords_backward", TORCH_BOX(&zoo::sample_coords_backward));
}
