// A small emulator of CUDA thread blocks on the host: one fibre for each thread of a block, run in random order between
// barriers. It compiles the shipped .cu files with a C++ compiler (-x c++ -DZOO_EMULATE_CUDA -include cuda_emulator.h).
//
// What it finds: wrong indexing, missing barriers (random order exposes them), divergent barriers (an error), reads of
// shared memory that nobody wrote (dynamic shared memory is poisoned), and, under ASan/UBSan, every access out of
// bounds. What it cannot find: races between warps that real hardware would interleave inside a barrier interval at
// finer grain.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __constant__ static
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
using cudaStream_t = void*;
constexpr int warpSize = 32;

namespace zoo_emulator {

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kSharedBytes = 228 << 10;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  State state = State::kReady;
  uint3 thread{};
  unsigned rank = 0;
  void* fake_stack = nullptr;
};

struct Block {
  std::vector<Fibre> fibres;
  Fibre* current = nullptr;
  ucontext_t scheduler;
  std::function<void()> body;
  uint64_t random = 1;
  // Exchange buffers of the warps: one 8-byte slot for each lane.
  std::vector<uint64_t> slots;
  std::vector<unsigned char> shared;
  uint64_t barriers = 0;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  void* scheduler_fake_stack = nullptr;
};

inline Block& block() {
  static Block instance;
  return instance;
}
inline dim3& grid_dim() {
  static dim3 value;
  return value;
}
inline dim3& block_dim() {
  static dim3 value;
  return value;
}
inline uint3& block_idx() {
  static uint3 value;
  return value;
}

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "CUDA emulator: %s\n", what.c_str());
  std::abort();
}

inline uint64_t next_random() {
  uint64_t& s = block().random;
  s ^= s << 13;
  s ^= s >> 7;
  s ^= s << 17;
  return s;
}

inline void switch_to_scheduler([[maybe_unused]] bool finished) {
  Block& b = block();
  Fibre* self = b.current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished ? nullptr : &self->fake_stack, b.scheduler_stack, b.scheduler_stack_bytes);
#endif
  swapcontext(&self->context, &b.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
}

inline void fibre_main() {
  Block& b = block();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &b.scheduler_stack, &b.scheduler_stack_bytes);
#endif
  b.body();
  b.current->state = State::kDone;
  switch_to_scheduler(true);
}

inline void resume(Fibre& fibre) {
  Block& b = block();
  b.current = &fibre;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&b.scheduler_fake_stack, fibre.stack.data(), fibre.stack.size());
#endif
  swapcontext(&b.scheduler, &fibre.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(b.scheduler_fake_stack, nullptr, nullptr);
#endif
}

// Frees the fibres of [begin, end) that wait at a barrier of this kind, once all of them do.
inline bool release(State waiting, size_t begin, size_t end) {
  Block& b = block();
  size_t arrived = 0, done = 0;
  for (size_t i = begin; i < end; ++i) {
    arrived += b.fibres[i].state == waiting;
    done += b.fibres[i].state == State::kDone;
  }
  if (arrived == 0 || arrived + done < end - begin) return false;
  if (done > 0) fail("divergent barrier: some threads have left the kernel, others wait at a barrier");
  for (size_t i = begin; i < end; ++i) b.fibres[i].state = State::kReady;
  return true;
}

inline void run_block(size_t threads) {
  Block& b = block();
  b.fibres.resize(threads);
  b.slots.assign(threads, 0);
  b.shared.resize(kSharedBytes);
  std::memset(b.shared.data(), 0xFF, b.shared.size());  // NaN: shared memory that nobody wrote shows
  for (size_t i = 0; i < threads; ++i) {
    Fibre& f = b.fibres[i];
    f.stack.resize(kStackBytes);
    f.state = State::kReady;
    f.rank = static_cast<unsigned>(i);
    f.thread = {static_cast<unsigned>(i % block_dim().x), static_cast<unsigned>(i / block_dim().x % block_dim().y),
                static_cast<unsigned>(i / (static_cast<size_t>(block_dim().x) * block_dim().y))};
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data();
    f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = nullptr;
    makecontext(&f.context, fibre_main, 0);
  }
  std::vector<size_t> ready;
  for (;;) {
    ready.clear();
    for (size_t i = 0; i < threads; ++i) {
      if (b.fibres[i].state == State::kReady) ready.push_back(i);
    }
    if (ready.empty()) {
      bool moved = false, all_done = true;
      for (size_t w = 0; w < threads; w += 32) moved |= release(State::kAtWarpBarrier, w, std::min(w + 32, threads));
      if (!moved) moved = release(State::kAtBlockBarrier, 0, threads);
      for (size_t i = 0; i < threads; ++i) all_done &= b.fibres[i].state == State::kDone;
      if (all_done) return;
      if (!moved) fail("divergent barrier: the threads of a block or warp wait at different barriers");
      continue;
    }
    for (size_t i = ready.size(); i > 1; --i) std::swap(ready[i - 1], ready[next_random() % i]);
    for (const size_t i : ready) resume(b.fibres[i]);
  }
}

template <class Body>
void run_grid(dim3 grid, dim3 threads, size_t shared_bytes, Body&& body) {
  if (shared_bytes > kSharedBytes) fail("more dynamic shared memory than any GPU has");
  const size_t count = static_cast<size_t>(threads.x) * threads.y * threads.z;
  if (count == 0 || count > 1024) fail("a block of " + std::to_string(count) + " threads");
  Block& b = block();
  const char* seed = std::getenv("ZOO_EMULATOR_SEED");
  b.random = 0x9E3779B97F4A7C15ull ^ (seed ? std::strtoull(seed, nullptr, 10) * 0x2545F4914F6CDD1Dull : 0);
  b.body = body;
  grid_dim() = grid;
  block_dim() = threads;
  const size_t blocks = static_cast<size_t>(grid.x) * grid.y * grid.z;
  std::vector<size_t> order(blocks);
  for (size_t i = 0; i < blocks; ++i) order[i] = i;
  for (size_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
  for (const size_t i : order) {
    block_idx() = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                   static_cast<unsigned>(i / (static_cast<size_t>(grid.x) * grid.y))};
    run_block(count);
  }
}

inline void wait(State barrier) {
  block().current->state = barrier;
  ++block().barriers;
  switch_to_scheduler(false);
}

// Every lane writes its value, then reads another lane's.
template <class T>
T exchange(T value, int source_lane) {
  static_assert(sizeof(T) <= 8);
  Block& b = block();
  const unsigned rank = b.current->rank, first = rank / 32 * 32;
  std::memcpy(&b.slots[rank], &value, sizeof(T));
  wait(State::kAtWarpBarrier);
  T result = value;
  const size_t source = first + static_cast<unsigned>(source_lane);
  if (source_lane >= 0 && source_lane < 32 && source < b.slots.size())
    std::memcpy(&result, &b.slots[source], sizeof(T));
  wait(State::kAtWarpBarrier);
  return result;
}

inline int lane() {
  return static_cast<int>(block().current->rank % 32);
}

}  // namespace zoo_emulator

#define threadIdx (zoo_emulator::block().current->thread)
#define blockIdx (zoo_emulator::block_idx())
#define blockDim (zoo_emulator::block_dim())
#define gridDim (zoo_emulator::grid_dim())

#define ZOO_EXPAND(...) __VA_ARGS__
#define ZOO_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                \
  do {                                                                                            \
    (void)(stream);                                                                               \
    zoo_emulator::run_grid(grid, block, shared_bytes, [&] { (ZOO_EXPAND kernel)(__VA_ARGS__); }); \
  } while (0)
#define ZOO_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(zoo_emulator::block().shared.data())

inline void __syncthreads() {
  zoo_emulator::wait(zoo_emulator::State::kAtBlockBarrier);
}
inline void __syncwarp(unsigned = 0xFFFFFFFFu) {
  zoo_emulator::wait(zoo_emulator::State::kAtWarpBarrier);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return zoo_emulator::exchange(value, source & 31);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const int source = zoo_emulator::lane() - static_cast<int>(delta);
  return zoo_emulator::exchange(value, source < 0 ? zoo_emulator::lane() : source);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const int source = zoo_emulator::lane() + static_cast<int>(delta);
  return zoo_emulator::exchange(value, source > 31 ? zoo_emulator::lane() : source);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return zoo_emulator::exchange(value, zoo_emulator::lane() ^ mask);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= zoo_emulator::exchange<int>(predicate != 0, lane) ? 1u << lane : 0u;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == 0xFFFFFFFFu;
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}

// Fibres switch only at barriers, so plain read-modify-write is atomic.
template <class T, class U>
T atomicAdd(T* target, U value) {
  const T old = *target;
  *target = static_cast<T>(old + value);
  return old;
}
template <class T, class U>
T atomicMax(T* target, U value) {
  const T old = *target;
  *target = std::max<T>(old, value);
  return old;
}
template <class T, class U>
T atomicMin(T* target, U value) {
  const T old = *target;
  *target = std::min<T>(old, value);
  return old;
}
template <class T, class U>
T atomicExch(T* target, U value) {
  const T old = *target;
  *target = value;
  return old;
}
template <class T, class U>
T atomicOr(T* target, U value) {
  const T old = *target;
  *target = old | value;
  return old;
}
template <class T, class U, class V>
T atomicCAS(T* target, U expected, V value) {
  const T old = *target;
  if (old == static_cast<T>(expected)) *target = static_cast<T>(value);
  return old;
}

template <class T>
T __ldg(const T* pointer) {
  return *pointer;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
