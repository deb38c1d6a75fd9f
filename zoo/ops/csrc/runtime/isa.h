// Run-time choice of the instruction set. Files below cpu/isa are compiled once for each of baseline (x86-64-v2), avx2
// (x86-64-v3) and avx512 (x86-64-v4), with ZOO_ISA set to its name; they put their functions into namespace
// zoo::ZOO_ISA:
//
//   cpu/isa/sum.cpp:  namespace zoo::ZOO_ISA { float sum(const float* x, int64_t n) { ... } }
//   cpu/sum.cpp:      ZOO_DECLARE_ISA(float, sum, (const float*, int64_t));
//                     ... ZOO_CALL_ISA(sum)(x, n) ...
//
// Such files must not use inline functions of the standard library that other files use too (containers, algorithms):
// the linker keeps one copy of those for all.
#pragma once

#include <cstdlib>
#include <cstring>

namespace zoo {

enum class Isa { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The widest instruction set of this CPU, lowered by the environment variable ZOO_ISA_LIMIT (baseline | avx2 | avx512).
inline Isa best_isa() {
  static const Isa isa = [] {
#if defined(ZOO_X86)
    __builtin_cpu_init();
    Isa found = Isa::kBaseline;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
      found = Isa::kAvx2;
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512cd")) {
        found = Isa::kAvx512;
      }
    }
    if (const char* limit = std::getenv("ZOO_ISA_LIMIT")) {
      if (std::strcmp(limit, "baseline") == 0) found = Isa::kBaseline;
      if (std::strcmp(limit, "avx2") == 0 && found == Isa::kAvx512) found = Isa::kAvx2;
    }
    return found;
#else
    return Isa::kBaseline;
#endif
  }();
  return isa;
}

}  // namespace zoo

#if defined(ZOO_X86)
#define ZOO_DECLARE_ISA(result, name, arguments) \
  namespace zoo::baseline {                      \
  result name arguments;                         \
  }                                              \
  namespace zoo::avx2 {                          \
  result name arguments;                         \
  }                                              \
  namespace zoo::avx512 {                        \
  result name arguments;                         \
  }
#define ZOO_CALL_ISA(name)                                         \
  (::zoo::best_isa() == ::zoo::Isa::kAvx512 ? &::zoo::avx512::name \
   : ::zoo::best_isa() == ::zoo::Isa::kAvx2 ? &::zoo::avx2::name   \
                                            : &::zoo::baseline::name)
#else
#define ZOO_DECLARE_ISA(result, name, arguments) \
  namespace zoo::baseline {                      \
  result name arguments;                         \
  }
#define ZOO_CALL_ISA(name) (&::zoo::baseline::name)
#endif
