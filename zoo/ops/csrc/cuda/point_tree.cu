#include "kernels/point_tree.h"

ZOO_LIBRARY(m) {
  m.impl("point_knn", TORCH_BOX(&zoo::point_knn));
  m.impl("point_ball", TORCH_BOX(&zoo::point_ball));
}
