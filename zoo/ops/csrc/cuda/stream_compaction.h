// Running sums on the GPU, and with them the compaction of a stream: items that a test keeps, in their order.
//
// A thread counts the kept items of a short chunk, the counts are summed up, and the thread places its items from its
// sum on. Order and result are those of a loop over the items.
#pragma once

#include <algorithm>

#include "runtime/op.h"

namespace zoo {
inline namespace ZOO_TARGET {

constexpr int kScanBlock = 256;
constexpr int kScanItems = 4;  // of a thread
constexpr int kWarpLanes = 32;
constexpr int kChunkItems = 32;  // of the stream, to a thread

// The sum of the values of lower lanes.
template <class T>
__device__ __forceinline__ T sum_of_lower_lanes(T value, int lane) {
  T sum = value;
  for (int offset = 1; offset < kWarpLanes; offset *= 2) {
    const T other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  return sum - value;
}

// sums[i] = sum of the values before i inside the block's stretch, for i from 0 to n; totals: the sum of each stretch.
template <class T>
__global__ void __launch_bounds__(kScanBlock) running_sums_kernel(const T* values, int64_t n, T* sums, T* totals) {
  constexpr int kWarps = kScanBlock / kWarpLanes;
  __shared__ T warp_sums[kWarps];
  const int lane = threadIdx.x % kWarpLanes, warp = threadIdx.x / kWarpLanes;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kScanBlock + threadIdx.x) * kScanItems;
  T items[kScanItems], mine = 0;
  for (int i = 0; i < kScanItems; ++i) {
    items[i] = first + i < n ? values[first + i] : 0;
    mine += items[i];
  }
  T before = sum_of_lower_lanes(mine, lane);
  if (lane == kWarpLanes - 1) warp_sums[warp] = before + mine;
  __syncthreads();
  for (int w = 0; w < warp; ++w) before += warp_sums[w];
  if (threadIdx.x == kScanBlock - 1) totals[blockIdx.x] = before + mine;
  for (int i = 0; i < kScanItems; ++i) {
    if (first + i <= n) sums[first + i] = before;
    before += items[i];
  }
}

struct AddStretchStarts {
  const int64_t* starts;
  int64_t* sums;
  ZOO_HD void operator()(int64_t i) const { sums[i] += starts[i / (kScanBlock * kScanItems)]; }
};

// (n,) -> (n + 1,): the sum of the values before each place; the last one is the sum of all.
inline Tensor running_sums(const Tensor& values) {
  const int64_t n = values.numel(), blocks = n / (kScanBlock * kScanItems) + 1;
  Tensor sums = empty_on<int64_t>(values, {n + 1}), totals = empty_on<int64_t>(values, {blocks});
  ZOO_LAUNCH((running_sums_kernel<int64_t>), dim3(static_cast<unsigned>(blocks)), dim3(kScanBlock), 0,
             current_stream(values), cptr<int64_t>(values), n, mptr<int64_t>(sums), mptr<int64_t>(totals));
  if (blocks > 1) {
    const Tensor starts = running_sums(totals);
    launch(values, n + 1, AddStretchStarts{cptr<int64_t>(starts), mptr<int64_t>(sums)});
  }
  return sums;
}

template <class Keep>
struct CountKept {
  Keep keep;
  int64_t items;
  int64_t* counts;

  ZOO_HD void operator()(int64_t chunk) const {
    const int64_t begin = chunk * kChunkItems, end = begin + kChunkItems < items ? begin + kChunkItems : items;
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) count += keep(i) ? 1 : 0;
    counts[chunk] = count;
  }
};

template <class Keep, class Place>
struct PlaceKept {
  Keep keep;
  Place place;
  int64_t items;
  const int64_t* ranks;

  ZOO_HD void operator()(int64_t chunk) const {
    const int64_t begin = chunk * kChunkItems, end = begin + kChunkItems < items ? begin + kChunkItems : items;
    int64_t rank = ranks[chunk];
    for (int64_t i = begin; i < end; ++i) {
      const bool kept = keep(i);
      place(i, rank, kept);
      rank += kept ? 1 : 0;
    }
  }
};

// One value of a tensor, on the host: waits for the GPU.
inline int64_t host_value(const Tensor& values, int64_t place) {
  Tensor on_device = values;
  const Tensor one = torch::stable::narrow(on_device, 0, place, 1);
  return *cptr<int64_t>(torch::stable::to(one, torch::stable::Device(torch::headeronly::DeviceType::CPU)));
}

// The items 0 .. items - 1 that keep(i) chooses. Waits for the GPU: the caller allocates by `kept`.
template <class Keep>
struct Compaction {
  Keep keep;
  int64_t items, kept;
  Tensor like, ranks;

  Compaction(const Tensor& where, int64_t count, const Keep& chosen) : keep(chosen), items(count), like(where) {
    const int64_t chunks = (items + kChunkItems - 1) / kChunkItems;
    Tensor counts = empty_on<int64_t>(like, {chunks});
    launch(like, chunks, CountKept<Keep>{keep, items, mptr<int64_t>(counts)});
    ranks = running_sums(counts);
    kept = host_value(ranks, chunks);
  }
  // Calls place(i, rank, kept) for every item; rank: how many items before it are kept.
  template <class Place>
  void run(const Place& place) const {
    launch(like, ranks.numel() - 1, PlaceKept<Keep, Place>{keep, place, items, cptr<int64_t>(ranks)});
  }
};

}  // namespace ZOO_TARGET
}  // namespace zoo
