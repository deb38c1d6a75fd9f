// Attention within sets of rows. Every row lies in one set, so that sets write to places of their own and the result
// does not depend on the number of threads. No padded copy of the sets is made: each is worked on in scratch memory.
#include "cpu/isa/set_attention.h"

#include <cmath>
#include <tuple>

#include "cpu/work_queue.h"
#include "runtime/isa.h"
#include "runtime/op.h"

ZOO_DECLARE_ISA(void, set_attention_f32, (const attention::Job<float>& job, int64_t set, float* scratch))
ZOO_DECLARE_ISA(void, set_attention_f64, (const attention::Job<double>& job, int64_t set, double* scratch))
ZOO_DECLARE_ISA(void, set_attention_grad_f32, (const attention::Job<float>& job, int64_t set, float* scratch))
ZOO_DECLARE_ISA(void, set_attention_grad_f64, (const attention::Job<double>& job, int64_t set, double* scratch))

namespace zoo {
namespace {

using attention::Job;
using attention::Rows;

// The tensor itself where each row lies in one piece, else a row-major copy.
Tensor rowwise(const Tensor& tensor) {
  return tensor.stride(1) == 1 ? tensor : torch::stable::contiguous(tensor);
}
template <class T>
Rows<const T> rows_of(const Tensor& tensor) {
  return {cptr<T>(tensor), tensor.stride(0)};
}
template <class T>
Rows<T> new_rows(const Tensor& tensor) {
  return {mptr<T>(tensor), tensor.stride(0)};
}

template <class T>
Job<T> make_job(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& order, const Tensor& offsets,
                int64_t heads) {
  const int64_t rows = query.size(0), sets = offsets.numel() - 1, width = query.size(1) / heads;
  STD_TORCH_CHECK(order.numel() == rows && sets >= 0, "set_attention: order must hold every row once");
  const int64_t *runs = cptr<int64_t>(offsets), *members = cptr<int64_t>(order);
  int64_t longest = 0;
  STD_TORCH_CHECK(runs[0] == 0 && runs[sets] == rows, "set_attention: offsets must end at the number of rows");
  for (int64_t s = 0; s < sets; ++s) {
    STD_TORCH_CHECK(runs[s + 1] >= runs[s], "set_attention: offsets must not fall");
    longest = std::max(longest, runs[s + 1] - runs[s]);
  }
  for (int64_t i = 0; i < rows; ++i) {
    STD_TORCH_CHECK(members[i] >= 0 && members[i] < rows, "set_attention: order holds a row that does not exist");
  }
  Job<T> job{};
  job.query = rows_of<T>(query), job.key = rows_of<T>(key), job.value = rows_of<T>(value);
  job.order = members, job.offsets = runs;
  job.heads = heads, job.width = width, job.longest = longest;
  job.scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(width)));
  return job;
}

template <class T, class F>
void for_each_set(const Job<T>& job, int64_t sets, const F& kernel) {
  for_each_unit(sets, [&] {
    return [&, scratch = Scratch<T>(attention::scratch_elements(job.longest, job.width))](int64_t set) {
      kernel(job, set, scratch.get());
    };
  });
}

std::tuple<Tensor, Tensor> set_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                         const Tensor& /*slots*/, const Tensor& /*repeated*/, const Tensor& order,
                                         const Tensor& offsets, int64_t heads) {
  const Tensor q = rowwise(query), k = rowwise(key), v = rowwise(value), members = packed(order),
               runs = packed(offsets);
  return dispatch_floating(q.scalar_type(), "set_attention", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(q, {q.size(0), q.size(1)}), logsumexp = empty_on<T>(q, {q.size(0), heads});
    Job<T> job = make_job<T>(q, k, v, members, runs, heads);
    job.out = new_rows<T>(out), job.logsumexp = mptr<T>(logsumexp);
    if constexpr (std::is_same_v<T, float>) {
      for_each_set(job, runs.numel() - 1, ZOO_CALL_ISA(set_attention_f32));
    } else {
      for_each_set(job, runs.numel() - 1, ZOO_CALL_ISA(set_attention_f64));
    }
    return std::make_tuple(out, logsumexp);
  });
}

std::tuple<Tensor, Tensor, Tensor> set_attention_backward(const Tensor& grad, const Tensor& query, const Tensor& key,
                                                          const Tensor& value, const Tensor& output,
                                                          const Tensor& logsumexp, const Tensor& /*slots*/,
                                                          const Tensor& /*repeated*/, const Tensor& order,
                                                          const Tensor& offsets, int64_t heads) {
  const Tensor g = rowwise(grad), q = rowwise(query), k = rowwise(key), v = rowwise(value), out = rowwise(output);
  const Tensor sums = packed(logsumexp), members = packed(order), runs = packed(offsets);
  return dispatch_floating(q.scalar_type(), "set_attention_backward", [&](auto zero) {
    using T = decltype(zero);
    const auto like_query = [&] { return empty_on<T>(q, {q.size(0), q.size(1)}); };
    Tensor grad_query = like_query(), grad_key = like_query(), grad_value = like_query();
    Job<T> job = make_job<T>(q, k, v, members, runs, heads);
    job.logsumexp = const_cast<T*>(cptr<T>(sums));  // read only
    job.grad = rows_of<T>(g), job.output = rows_of<T>(out);
    job.grad_query = new_rows<T>(grad_query);
    job.grad_key = new_rows<T>(grad_key);
    job.grad_value = new_rows<T>(grad_value);
    if constexpr (std::is_same_v<T, float>) {
      for_each_set(job, runs.numel() - 1, ZOO_CALL_ISA(set_attention_grad_f32));
    } else {
      for_each_set(job, runs.numel() - 1, ZOO_CALL_ISA(set_attention_grad_f64));
    }
    return std::make_tuple(grad_query, grad_key, grad_value);
  });
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("set_attention", TORCH_BOX(&zoo::set_attention));
  m.impl("set_attention_backward", TORCH_BOX(&zoo::set_attention_backward));
}
