// What the dense and the event-driven sparse convolution on the CPU share: checked pairs, tiles and their ranges.
#pragma once

#include <algorithm>
#include <atomic>

#include "cpu/work_queue.h"
#include "runtime/isa.h"
#include "runtime/op.h"

ZOO_DECLARE_ISA(bool, strictly_ascending, (const int32_t*, int64_t))

namespace zoo {

Tensor sparse_conv(const Tensor& features, const Tensor& weight, const Tensor& pairs_in, const Tensor& pairs_out,
                   const Tensor& offsets, int64_t num_out, int64_t groups);

// The pairs of a kernel map, checked: the kernels rely on both rows ascending inside the group of each offset.
struct Pairs {
  Tensor in, out, starts;
  const int64_t* offsets;
  int64_t num_offsets;

  Pairs(const char* op, const Tensor& pairs_in, const Tensor& pairs_out, const Tensor& offsets_tensor, int64_t num_in,
        int64_t num_out)
      : in(packed(pairs_in)),
        out(packed(pairs_out)),
        starts(packed(offsets_tensor)),
        offsets(cptr<int64_t>(starts)),
        num_offsets(starts.numel() - 1) {
    STD_TORCH_CHECK(in.numel() == out.numel(), op, ": pairs_in has ", in.numel(), " values, pairs_out ", out.numel());
    STD_TORCH_CHECK(num_offsets >= 0 && offsets[0] == 0 && offsets[num_offsets] == in.numel(), op,
                    ": offsets do not run from 0 to the number of pairs, ", in.numel());
    for (int64_t k = 0; k < num_offsets; ++k) {
      STD_TORCH_CHECK(offsets[k] <= offsets[k + 1], op, ": offsets descend at ", k);
    }
    check_ascending(op, "pairs_in", cptr<int32_t>(in), num_in);
    check_ascending(op, "pairs_out", cptr<int32_t>(out), num_out);
  }

  void check_ascending(const char* op, const char* name, const int32_t* rows, int64_t limit) const {
    std::atomic<int64_t> bad{-1};
    torch::stable::parallel_for(0, num_offsets, 4, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t first = offsets[k], last = offsets[k + 1];
        if (first == last) continue;
        const bool inside = rows[first] >= 0 && rows[last - 1] < limit;
        if (!inside || !ZOO_CALL_ISA(strictly_ascending)(rows + first, last - first)) bad = k;
      }
    });
    STD_TORCH_CHECK(bad < 0, op, ": ", name, " of kernel offset ", bad.load(),
                    " are not strictly ascending rows from 0 to ", limit - 1, "; build the map with build_kernel_map");
  }
};

inline int64_t num_threads() {
  return torch::stable::get_num_threads();
}

// Groups of units, several for each thread, so that a thread's start-up is paid seldom and the load still levels out.
template <class Run>
void for_each_range(int64_t units, const Run& make_run) {
  const int64_t step = std::max<int64_t>(1, units / (num_threads() * 16));
  for_each_unit((units + step - 1) / step, [&] {
    return [run = make_run(), step, units](int64_t i) { run(i * step, std::min(units, (i + 1) * step)); };
  });
}

// Output rows of one tile: its sums and the rows gathered for them fill half of an L2 cache.
inline int64_t rows_of_tile(int64_t num_out, int64_t channels) {
  const int64_t most = std::clamp<int64_t>((1 << 16) / std::max<int64_t>(1, channels), 64, 2048);
  return std::clamp<int64_t>(num_out / (4 * num_threads()), 32, most);
}

}  // namespace zoo
