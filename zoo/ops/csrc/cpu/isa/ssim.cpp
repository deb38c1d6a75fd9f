// Rows of structural similarity in vectors: windowed moments down the columns into scratch, then along the row.
#include "cpu/isa/ssim.h"

#include <cstring>

#include "cpu/isa/simd.h"
#include "kernels/ssim_value.h"

#define ZOO_INLINE inline __attribute__((always_inline))

namespace {

using zoo::similarity::Job;

constexpr int kBlocks = 2;  // vectors at a time: the chains of sums hide the latency of an addition

template <class T>
struct Chunk {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int64_t kSize = kBlocks * S::kLanes;
  V part[kBlocks];

  static ZOO_INLINE Chunk load(const T* p) {
    Chunk c;
    for (int b = 0; b < kBlocks; ++b) c.part[b] = S::load(p + b * S::kLanes);
    return c;
  }
  // The first `count` values; zeros behind them.
  static ZOO_INLINE Chunk load(const T* p, int64_t count) {
    if (count >= kSize) return load(p);
    T values[kSize] = {};
    for (int64_t i = 0; i < count; ++i) values[i] = p[i];
    return load(values);
  }
  ZOO_INLINE void store(T* p) const {
    for (int b = 0; b < kBlocks; ++b) S::store(p + b * S::kLanes, part[b]);
  }
  ZOO_INLINE void store(T* p, int64_t count) const {
    if (count >= kSize) return store(p);
    T values[kSize];
    store(values);
    for (int64_t i = 0; i < count; ++i) p[i] = values[i];
  }
  ZOO_INLINE void add(typename S::V weight, const Chunk& other) {
    for (int b = 0; b < kBlocks; ++b) part[b] = S::fma(weight, other.part[b], part[b]);
  }
  ZOO_INLINE Chunk times(const Chunk& other) const {
    Chunk c;
    for (int b = 0; b < kBlocks; ++b) c.part[b] = part[b] * other.part[b];
    return c;
  }
};

template <class T, int kPlanes>
ZOO_INLINE void clear(Chunk<T> (&sums)[kPlanes]) {
  for (auto& sum : sums) {
    for (int b = 0; b < kBlocks; ++b) sum.part[b] = Simd<T>::set(0);
  }
}

// Sums along the row at place i of planes that `filter_down` filled.
template <class T, int kPlanes>
ZOO_INLINE void sum_along(const Job<T>& job, const T* scratch, int64_t i, Chunk<T> (&sums)[kPlanes]) {
  const int64_t plane = job.padded_row();
  clear<T, kPlanes>(sums);
  for (int64_t k = 0; k < job.taps; ++k) {
    const auto weight = Simd<T>::set(job.window[k]);
    const T* at = scratch + i + k * job.channels;
    for (int m = 0; m < kPlanes; ++m) sums[m].add(weight, Chunk<T>::load(at + m * plane));
  }
}

// planes[m][margin + i] = sum over the window's rows of window * read(row, i)[m], for i in the row; rows outside of the
// picture count as zeros.
template <class T, int kPlanes, class Read>
ZOO_INLINE void filter_down(const Job<T>& job, int64_t row, T* scratch, const Read& read) {
  const int64_t half = job.taps / 2, plane = job.padded_row();
  const int64_t first = row > half ? row - half : 0, last = row + half < job.height ? row + half : job.height - 1;
  for (int64_t i = 0; i < job.row; i += Chunk<T>::kSize) {
    Chunk<T> sums[kPlanes];
    clear<T, kPlanes>(sums);
    for (int64_t from = first; from <= last; ++from)
      read(from * job.row, i, Simd<T>::set(job.window[from - row + half]), sums);
    for (int m = 0; m < kPlanes; ++m) sums[m].store(scratch + m * plane + job.margin() + i, job.row - i);
  }
}

template <class T>
ZOO_INLINE void moments_down(const Job<T>& job, int64_t row, T* scratch) {
  filter_down<T, 5>(job, row, scratch, [&](int64_t start, int64_t i, auto weight, Chunk<T>(&sums)[5]) {
    const Chunk<T> x = Chunk<T>::load(job.x + start + i, job.row - i),
                   y = Chunk<T>::load(job.y + start + i, job.row - i);
    sums[0].add(weight, x);
    sums[1].add(weight, y);
    sums[2].add(weight, x.times(x));
    sums[3].add(weight, y.times(y));
    sums[4].add(weight, x.times(y));
  });
}

template <class T>
void similarity_row(const Job<T>& job, int64_t row, T* scratch, T* out) {
  moments_down(job, row, scratch);
  const zoo::SsimConstants<typename Simd<T>::V> constants{Simd<T>::set(job.covariance_scale), Simd<T>::set(job.c1),
                                                          Simd<T>::set(job.c2)};
  for (int64_t i = 0; i < job.row; i += Chunk<T>::kSize) {
    Chunk<T> m[5], value;
    sum_along<T, 5>(job, scratch, i, m);
    for (int b = 0; b < kBlocks; ++b) {
      value.part[b] = zoo::ssim_value(constants, m[0].part[b], m[1].part[b], m[2].part[b], m[3].part[b], m[4].part[b]);
    }
    value.store(out + i, job.row - i);
  }
}

// What the gradient of the local value gives to the three moments that hold x; planes of (height, row).
template <class T>
void slopes_row(const Job<T>& job, int64_t row, T* scratch, T* mean, T* square, T* product) {
  using V = typename Simd<T>::V;
  moments_down(job, row, scratch);
  const zoo::SsimConstants<V> constants{Simd<T>::set(job.covariance_scale), Simd<T>::set(job.c1), Simd<T>::set(job.c2)};
  for (int64_t i = 0; i < job.row; i += Chunk<T>::kSize) {
    Chunk<T> m[5], slope[3];
    sum_along<T, 5>(job, scratch, i, m);
    const Chunk<T> grad = Chunk<T>::load(job.grad + row * job.row + i, job.row - i);
    for (int b = 0; b < kBlocks; ++b) {
      const zoo::SsimSlopes<V> found =
          zoo::ssim_slopes(constants, m[0].part[b], m[1].part[b], m[2].part[b], m[3].part[b], m[4].part[b]);
      slope[0].part[b] = grad.part[b] * found.mean;
      slope[1].part[b] = grad.part[b] * found.square;
      slope[2].part[b] = grad.part[b] * found.product;
    }
    slope[0].store(mean + row * job.row + i, job.row - i);
    slope[1].store(square + row * job.row + i, job.row - i);
    slope[2].store(product + row * job.row + i, job.row - i);
  }
}

// The window is the same from both ends, so that its adjoint is the window itself.
template <class T>
void gradient_row(const Job<T>& job, int64_t row, T* scratch, const T* mean, const T* square, const T* product,
                  T* out) {
  filter_down<T, 3>(job, row, scratch, [&](int64_t start, int64_t i, auto weight, Chunk<T>(&sums)[3]) {
    sums[0].add(weight, Chunk<T>::load(mean + start + i, job.row - i));
    sums[1].add(weight, Chunk<T>::load(square + start + i, job.row - i));
    sums[2].add(weight, Chunk<T>::load(product + start + i, job.row - i));
  });
  for (int64_t i = 0; i < job.row; i += Chunk<T>::kSize) {
    Chunk<T> sums[3], grad;
    sum_along<T, 3>(job, scratch, i, sums);
    const int64_t at = row * job.row + i;
    const Chunk<T> x = Chunk<T>::load(job.x + at, job.row - i), y = Chunk<T>::load(job.y + at, job.row - i);
    for (int b = 0; b < kBlocks; ++b) {
      grad.part[b] = sums[0].part[b] + (x.part[b] + x.part[b]) * sums[1].part[b] + y.part[b] * sums[2].part[b];
    }
    grad.store(out + at, job.row - i);
  }
}

}  // namespace

namespace zoo::ZOO_ISA {

#define ZOO_SSIM(T, suffix)                                                                                   \
  void ssim_row_##suffix(const Job<T>& job, int64_t row, T* scratch, T* out) {                                \
    similarity_row(job, row, scratch, out);                                                                   \
  }                                                                                                           \
  void ssim_slopes_row_##suffix(const Job<T>& job, int64_t row, T* scratch, T* mean, T* square, T* product) { \
    slopes_row(job, row, scratch, mean, square, product);                                                     \
  }                                                                                                           \
  void ssim_gradient_row_##suffix(const Job<T>& job, int64_t row, T* scratch, const T* mean, const T* square, \
                                  const T* product, T* out) {                                                 \
    gradient_row(job, row, scratch, mean, square, product, out);                                              \
  }
ZOO_SSIM(float, f32)
ZOO_SSIM(double, f64)
#undef ZOO_SSIM

}  // namespace zoo::ZOO_ISA
