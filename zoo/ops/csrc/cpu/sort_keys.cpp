// Stable radix sort of int64 keys on the CPU.
//
// A key and its position share one 64-bit word where both fit (they nearly always do: linear keys of a grid are short),
// so that each pass moves 8 bytes. Passes split the rows into chunks with a histogram each; the chunks' places follow
// from the histograms, so that the result is the same for any number of threads.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <tuple>

#include "cpu/work_queue.h"
#include "runtime/op.h"

namespace zoo {
namespace {

constexpr int kMostDigitBits = 11;
constexpr int64_t kLeastChunk = 1 << 14;

struct Wide {  // a key that leaves no room for the position
  uint64_t key;
  int64_t position;
};

struct Chunks {
  int64_t rows, count, size;
  explicit Chunks(int64_t n) : rows(n) {
    count = std::clamp<int64_t>(n / kLeastChunk, 1, torch::stable::get_num_threads());
    size = (n + count - 1) / count;
  }
  template <class F>
  void run(const F& f) const {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) f(c, std::min(c * size, rows), std::min((c + 1) * size, rows));
    });
  }
};

// Sorts by bits [low, low + bits) of digit_of(item), least significant digits first; the result is in `items`.
template <class Item, class KeyOf>
void radix_sort(Scratch<Item>& items, int64_t rows, int low, int bits, const KeyOf& key_of) {
  if (bits == 0 || rows < 2) return;
  const int passes = (bits + kMostDigitBits - 1) / kMostDigitBits, digit_bits = (bits + passes - 1) / passes;
  const int64_t radix = int64_t{1} << digit_bits;
  const Chunks chunks(rows);
  Scratch<Item> other(rows);
  Item *from = items.get(), *to = other.get();
  std::vector<int64_t> places(chunks.count * radix);
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = low + pass * digit_bits;
    const auto digit_of = [&](const Item& item) { return (key_of(item) >> shift) & (radix - 1); };
    chunks.run([&](int64_t c, int64_t begin, int64_t end) {
      int64_t* counts = places.data() + c * radix;
      std::fill(counts, counts + radix, 0);
      for (int64_t i = begin; i < end; ++i) ++counts[digit_of(from[i])];
    });
    int64_t total = 0;
    for (int64_t d = 0; d < radix; ++d) {
      for (int64_t c = 0; c < chunks.count; ++c) {
        const int64_t count = places[c * radix + d];
        places[c * radix + d] = total;
        total += count;
      }
    }
    chunks.run([&](int64_t c, int64_t begin, int64_t end) {
      int64_t* next = places.data() + c * radix;
      for (int64_t i = begin; i < end; ++i) to[next[digit_of(from[i])]++] = from[i];
    });
    std::swap(from, to);
  }
  if (from != items.get()) std::swap(items, other);
}

std::tuple<Tensor, Tensor> sort_keys(const Tensor& tensor) {
  const Tensor keys_tensor = packed(tensor);
  const int64_t rows = keys_tensor.numel();
  const int64_t* keys = cptr<int64_t>(keys_tensor);
  Tensor sorted_tensor = empty_on<int64_t>(keys_tensor, {rows}), order_tensor = empty_on<int64_t>(keys_tensor, {rows});
  if (rows == 0) return {sorted_tensor, order_tensor};
  int64_t *sorted = mptr<int64_t>(sorted_tensor), *order = mptr<int64_t>(order_tensor);
  const Chunks chunks(rows);
  std::vector<int64_t> lowest(chunks.count, keys[0]), highest(chunks.count, keys[0]);
  chunks.run([&](int64_t c, int64_t begin, int64_t end) {
    int64_t low = keys[0], high = keys[0];
    for (int64_t i = begin; i < end; ++i) {
      low = std::min(low, keys[i]);
      high = std::max(high, keys[i]);
    }
    lowest[c] = low;
    highest[c] = high;
  });
  // Differences of int64 values as uint64: never too large.
  const uint64_t base = static_cast<uint64_t>(*std::min_element(lowest.begin(), lowest.end()));
  const uint64_t span = static_cast<uint64_t>(*std::max_element(highest.begin(), highest.end())) - base;
  const int key_bits = std::bit_width(span), position_bits = std::bit_width(static_cast<uint64_t>(rows - 1));
  if (key_bits + position_bits <= 64) {
    Scratch<uint64_t> items(rows);
    chunks.run([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const uint64_t key = static_cast<uint64_t>(keys[i]) - base;
        items.get()[i] = key << position_bits | static_cast<uint64_t>(i);
      }
    });
    radix_sort(items, rows, position_bits, key_bits, [](uint64_t item) { return item; });
    const uint64_t mask = (uint64_t{1} << position_bits) - 1;
    chunks.run([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const uint64_t item = items.get()[i];
        sorted[i] = static_cast<int64_t>((item >> position_bits) + base);
        order[i] = static_cast<int64_t>(item & mask);
      }
    });
  } else {
    Scratch<Wide> items(rows);
    chunks.run([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) items.get()[i] = {static_cast<uint64_t>(keys[i]) - base, i};
    });
    radix_sort(items, rows, 0, key_bits, [](const Wide& item) { return item.key; });
    chunks.run([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        sorted[i] = static_cast<int64_t>(items.get()[i].key + base);
        order[i] = items.get()[i].position;
      }
    });
  }
  return {sorted_tensor, order_tensor};
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("sort_keys", TORCH_BOX(&zoo::sort_keys));
}
