// Event-driven sparse convolution on the CPU: the non-zero values of the features are listed once, and only they are
// multiplied. Where there are too many of them for that to pay, the dense kernels take over.
#include "cpu/isa/spike_conv.h"

#include "cpu/half_precision.h"
#include "cpu/sparse_conv.h"

ZOO_DECLARE_ISA(const conv::EventKernelTable&, spike_conv_kernels, ())

namespace zoo {
namespace {

constexpr int64_t kRowsAtOnce = 256;
constexpr int64_t kMostChannels = 65535;  // channels of events have 16 bits, and one number is taken by the filling

template <class T>
const conv::EventKernels<T>& kernels();
template <>
const conv::EventKernels<float>& kernels<float>() {
  return ZOO_CALL_ISA(spike_conv_kernels)().float32;
}
template <>
const conv::EventKernels<double>& kernels<double>() {
  return ZOO_CALL_ISA(spike_conv_kernels)().float64;
}

template <class T>
int64_t count_events(const conv::EventArgs& events, int32_t cout, int64_t rows) {
  std::atomic<int64_t> total{0};
  torch::stable::parallel_for(0, rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    total.fetch_add(kernels<T>().count_events(events, cout, begin, end), std::memory_order_relaxed);
  });
  return total.load();
}

template <class T>
void accumulate(conv::EventConvArgs& args, const T* weight) {
  const conv::EventKernels<T>& kernel = kernels<T>();
  args.conv.tile_rows = rows_of_tile(args.conv.num_out, args.conv.cout);
  conv::PackArgs pack{weight, nullptr, args.conv.num_offsets, 1, args.conv.cout, args.conv.cin, false};
  Scratch<T> weights(kernel.packed_elements(pack));
  pack.packed = weights.get();
  torch::stable::parallel_for(0, args.conv.num_offsets, 1,
                              [&](int64_t begin, int64_t end) { kernel.pack_weight(pack, begin, end); });
  args.conv.weight = weights.get();
  const int64_t tiles = (args.conv.num_out + args.conv.tile_rows - 1) / args.conv.tile_rows;
  for_each_range(tiles, [&] {
    return [&, scratch = Scratch<char>(kernel.scratch(args))](int64_t begin, int64_t end) {
      kernel.accumulate(args, begin, end, scratch.get());
    };
  });
}

// Events are multiplied where their share is at most break_even - row_cost / (pairs of a feature row).
Tensor spike_conv(const Tensor& features, const Tensor& weight, const Tensor& pairs_in, const Tensor& pairs_out,
                  const Tensor& offsets, int64_t num_out, double break_even, double row_cost) {
  const Tensor x = widened(features), w = widened(weight);
  const int64_t rows = x.size(0), cin = w.size(2), cout = w.size(0);
  STD_TORCH_CHECK(w.size(1) == offsets.numel() - 1 && x.size(1) == cin,
                  "spike_conv: weight does not fit features and offsets");
  return dispatch_floating(x.scalar_type(), "spike_conv", [&](auto zero) {
    using T = decltype(zero);
    Scratch<int64_t> starts(rows + 1);
    conv::EventConvArgs args{};
    args.events = {cptr<T>(x), starts.get(), nullptr, nullptr, static_cast<int32_t>(cin)};
    const int64_t num_pairs = std::max<int64_t>(1, pairs_in.numel());
    const double density = break_even - row_cost * static_cast<double>(rows) / static_cast<double>(num_pairs);
    const bool possible = cin < kMostChannels && density > 0;
    const double most = possible ? density * static_cast<double>(rows) * static_cast<double>(cin) : -1;
    if (!possible || static_cast<double>(count_events<T>(args.events, static_cast<int32_t>(cout), rows)) > most) {
      return sparse_conv(features, weight, pairs_in, pairs_out, offsets, num_out, 1);
    }
    const Pairs pairs("spike_conv", pairs_in, pairs_out, offsets, rows, num_out);
    starts.get()[0] = 0;
    for (int64_t i = 0; i < rows; ++i) starts.get()[i + 1] += starts.get()[i];
    Scratch<uint16_t> channels(starts.get()[rows]);
    Scratch<T> counts(starts.get()[rows]);
    args.events.channels = channels.get();
    args.events.counts = counts.get();
    torch::stable::parallel_for(0, rows, kRowsAtOnce,
                                [&](int64_t begin, int64_t end) { kernels<T>().list_events(args.events, begin, end); });
    Tensor out = empty_on<T>(x, {num_out, cout});
    args.conv.out = mptr<T>(out);
    args.conv.pairs_in = cptr<int32_t>(pairs.in);
    args.conv.pairs_out = cptr<int32_t>(pairs.out);
    args.conv.offsets = pairs.offsets;
    args.conv.num_out = num_out;
    args.conv.num_offsets = static_cast<int32_t>(pairs.num_offsets);
    args.conv.groups = 1;
    args.conv.cin = static_cast<int32_t>(cin);
    args.conv.cout = static_cast<int32_t>(cout);
    accumulate<T>(args, cptr<T>(w));
    return narrowed(out, features);
  });
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("spike_conv", TORCH_BOX(&zoo::spike_conv));
}
