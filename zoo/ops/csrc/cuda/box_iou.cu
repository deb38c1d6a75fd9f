#include "kernels/box_iou.h"

ZOO_LIBRARY(m) {
  m.impl("boxes_iou_pairs", TORCH_BOX(&zoo::boxes_iou_pairs));
  m.impl("boxes_iou_aligned", TORCH_BOX(&zoo::boxes_iou_aligned));
  m.impl("boxes_iou_aligned_backward", TORCH_BOX(&zoo::boxes_iou_aligned_backward));
}
