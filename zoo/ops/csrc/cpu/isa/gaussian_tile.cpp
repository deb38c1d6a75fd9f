// The tile kernels of the Gaussian rasteriser in float32, once for each instruction set.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")  // floating-point exceptions are never read
#endif

#include "cpu/isa/gaussian_tile.h"

namespace zoo::ZOO_ISA {

void composite_gaussian_tile(const TileTask<float>& task) {
  composite_any<float>(task);
}
void composite_gaussian_tile_backward(const TileTask<float>& task) {
  if (task.absolute) return composite_backward_any<float, true>(task);
  composite_backward_any<float, false>(task);
}

}  // namespace zoo::ZOO_ISA
