// The check that every call of a sparse convolution makes of its kernel map, vectorised.
#include <cstdint>

#include "runtime/isa.h"

namespace zoo::ZOO_ISA {

// Whether rows[0] < rows[1] < ... < rows[n - 1].
bool strictly_ascending(const int32_t* rows, int64_t n) {
  int32_t wrong = 0;
  for (int64_t i = 1; i < n; ++i) wrong |= rows[i] <= rows[i - 1] ? 1 : 0;
  return wrong == 0;
}

}  // namespace zoo::ZOO_ISA
