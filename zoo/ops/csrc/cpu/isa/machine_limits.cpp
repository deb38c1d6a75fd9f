// The arithmetic peak of one core: independent chains of vector multiply-adds, nothing else.
#include <cstdint>

#include "runtime/isa.h"

namespace zoo::ZOO_ISA {

#if defined(__AVX512F__)
typedef float Vector __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef float Vector __attribute__((vector_size(32)));
#else
typedef float Vector __attribute__((vector_size(16)));
#endif

// One multiply-add on one chain; the empty assembly keeps the compiler from folding rounds together.
#if defined(__AVX512F__)
#define ZOO_STEP(chain)          \
  chain = chain * factor + term; \
  asm volatile("" : "+v"(chain))
#elif defined(ZOO_X86)
#define ZOO_STEP(chain)          \
  chain = chain * factor + term; \
  asm volatile("" : "+x"(chain))
#else
#define ZOO_STEP(chain)          \
  chain = chain * factor + term; \
  asm volatile("" : "+w"(chain))
#endif

// Runs `iterations` rounds and returns the number of floating-point operations done; `sink` keeps the result alive.
// Ten chains are more than latency times throughput of any core; named variables stay in registers.
int64_t multiply_add_chains(int64_t iterations, float* sink) {
  const Vector factor = Vector{} + 0.999f, term = Vector{} + 0.001f;
  Vector a = term, b = term, c = term, d = term, e = term, f = term, g = term, h = term, i = term, j = term;
  for (int64_t round = 0; round < iterations; ++round) {
    ZOO_STEP(a);
    ZOO_STEP(b);
    ZOO_STEP(c);
    ZOO_STEP(d);
    ZOO_STEP(e);
    ZOO_STEP(f);
    ZOO_STEP(g);
    ZOO_STEP(h);
    ZOO_STEP(i);
    ZOO_STEP(j);
  }
  *sink = (a + b + c + d + e + f + g + h + i + j)[0];
  return iterations * 10 * static_cast<int64_t>(sizeof(Vector) / sizeof(float)) * 2;
}

}  // namespace zoo::ZOO_ISA
