#include "kernels/importance_sampling.h"

ZOO_LIBRARY(m) {
  m.impl("importance_sample", TORCH_BOX(&zoo::importance_sample));
  m.impl("interval_search", TORCH_BOX(&zoo::interval_search));
}
