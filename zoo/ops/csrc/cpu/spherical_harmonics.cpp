#include "kernels/spherical_harmonics.h"

ZOO_LIBRARY(m) {
  m.impl("spherical_harmonics", TORCH_BOX(&zoo::spherical_harmonics));
  m.impl("spherical_harmonics_backward", TORCH_BOX(&zoo::spherical_harmonics_backward));
}
