#include "runtime/isa.h"
#include "runtime/op.h"

ZOO_DECLARE_ISA(int64_t, multiply_add_chains, (int64_t, float*))

namespace {

// Every thread runs the chains; `sink` (float32, at least one value for each thread) keeps the results alive.
int64_t multiply_add_probe(const zoo::Tensor& sink, int64_t iterations) {
  float* results = zoo::mptr<float>(sink);
  const int64_t threads = sink.numel();
  std::vector<int64_t> operations(threads);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) operations[i] = ZOO_CALL_ISA(multiply_add_chains)(iterations, results + i);
  });
  int64_t total = 0;
  for (const int64_t count : operations) total += count;
  return total;
}

}  // namespace

ZOO_LIBRARY(m) {
  m.impl("multiply_add_probe", TORCH_BOX(&multiply_add_probe));
}
