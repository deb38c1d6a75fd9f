// Compositing of one tile's Gaussians, a vector of pixels of a row at a time: forward front to back, backward back to
// front.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace zoo {

// What is needed of a Gaussian at a pixel.
template <class T>
struct SplatView {
  T x, y, a, b, c, opacity;
  T half_height;  // rows farther than this from y see nothing of it; negative: nobody does
  T unused;
};

template <class T>
struct TileRules {
  T max_alpha, min_alpha, stop;
  bool stop_at_equal;
};

// One tile. Pixels live in planes of `rows` rows of `stride` values (a multiple of kRowMultiple), the tile's columns
// first.
template <class T>
struct TileTask {
  const SplatView<T>* splats;  // by id
  const T* colors;             // (Gaussians, channels) by id
  const int32_t* ids;
  int32_t count;
  int32_t x0, y0, rows, columns, stride, channels;
  TileRules<T> rules;
  T* planes;      // forward: transmittance, then channels; backward: transmittance, what lies behind, gradients
  int32_t* last;  // place in `ids` of the last contributor, -1: none
  T* gradients;   // backward: (count, gradient_stride)
  int32_t gradient_stride;
  bool absolute;
};

constexpr int kRowMultiple = 16;  // pixels; rows of planes are padded to whole vectors of every instruction set

}  // namespace zoo

namespace {

// As wide as the registers: the compiler takes wider ones apart, and comparisons of those element by element.
#if defined(__AVX512F__)
#define ZOO_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define ZOO_VECTOR_BYTES 32
#else
#define ZOO_VECTOR_BYTES 16
#endif

template <class T>
constexpr int kLanes = ZOO_VECTOR_BYTES / sizeof(T);

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float V __attribute__((vector_size(ZOO_VECTOR_BYTES)));
  typedef int32_t M __attribute__((vector_size(ZOO_VECTOR_BYTES)));
  typedef float U __attribute__((vector_size(ZOO_VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t I __attribute__((vector_size(ZOO_VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct Lanes<double> {
  typedef double V __attribute__((vector_size(ZOO_VECTOR_BYTES)));
  typedef int64_t M __attribute__((vector_size(ZOO_VECTOR_BYTES)));
  typedef double U __attribute__((vector_size(ZOO_VECTOR_BYTES), aligned(8), may_alias));
};

#define ZOO_INLINE inline __attribute__((always_inline))

// e^x for x <= 0: 2^n by the exponent's bits times a polynomial on [-ln 2 / 2, ln 2 / 2]; relative error below 2e-7.
ZOO_INLINE Lanes<float>::V exp_negative(Lanes<float>::V x) {
  using V = Lanes<float>::V;
  using M = Lanes<float>::M;
  x = x < -80.0f ? V{} - 80.0f : x;
  const V shifted = x * 1.44269504088896341f + 12582912.0f;
  const V n = shifted - 12582912.0f;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  M bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  M value;
  std::memcpy(&value, &p, sizeof value);
  value += bits << 23;
  std::memcpy(&p, &value, sizeof p);
  return p;
}
ZOO_INLINE Lanes<double>::V exp_negative(Lanes<double>::V x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

template <class T>
ZOO_INLINE T sum(typename Lanes<T>::V v) {
  T values[kLanes<T>];
  std::memcpy(values, &v, sizeof v);
  for (int width = kLanes<T> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) values[i] += values[i + width];
  }
  return values[0];
}

template <class T>
ZOO_INLINE typename Lanes<T>::V load(const T* p) {
  return *reinterpret_cast<const typename Lanes<T>::U*>(p);
}
template <class T>
ZOO_INLINE void store(T* p, typename Lanes<T>::V v) {
  *reinterpret_cast<typename Lanes<T>::U*>(p) = v;
}
template <class T>
ZOO_INLINE typename Lanes<T>::M load_numbers(const int32_t* p) {
  if constexpr (sizeof(T) == 4) {
    return *reinterpret_cast<const typename Lanes<T>::I*>(p);
  } else {
    typename Lanes<T>::M m;
    for (int i = 0; i < kLanes<T>; ++i) m[i] = p[i];
    return m;
  }
}
template <class T>
ZOO_INLINE void store_numbers(int32_t* p, typename Lanes<T>::M m) {
  if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<typename Lanes<T>::I*>(p) = m;
  } else {
    for (int i = 0; i < kLanes<T>; ++i) p[i] = static_cast<int32_t>(m[i]);
  }
}
template <class M>
ZOO_INLINE bool any(M m) {
  int64_t words[sizeof(M) / 8], bits = 0;
  std::memcpy(words, &m, sizeof m);
  for (const int64_t word : words) bits |= word;
  return bits != 0;
}
#if defined(__AVX512F__)
ZOO_INLINE bool any(Lanes<float>::M m) {
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(m), reinterpret_cast<__m512i>(m)) != 0;
}
#elif defined(__AVX2__)
ZOO_INLINE bool any(Lanes<float>::M m) {
  return _mm256_movemask_ps(reinterpret_cast<__m256>(m)) != 0;
}
#endif

// Rows [first, last] of the tile that a Gaussian may reach.
template <class T>
ZOO_INLINE bool reached_rows(const zoo::SplatView<T>& s, const zoo::TileTask<T>& task, int& first, int& last) {
  const T middle = s.y - T(0.5) - task.y0, limit = T(task.rows);
  T low = middle - s.half_height, high = middle + s.half_height;
  if (!(s.half_height >= 0) || !(high >= 0) || !(low < limit)) return false;
  low = low > 0 ? low : T(0);
  high = high < limit - 1 ? high : limit - 1;
  first = static_cast<int>(std::ceil(low));
  last = static_cast<int>(high);
  return first <= last;
}

template <class T, int kChannels>
void composite_tile(const zoo::TileTask<T>& task) {
  using V = typename Lanes<T>::V;
  using M = typename Lanes<T>::M;
  const int channels = kChannels > 0 ? kChannels : task.channels;
  const int64_t plane = static_cast<int64_t>(task.rows) * task.stride;
  T* through = task.planes;  // negative where a pixel is finished: minus its transmittance
  T* sums = task.planes + plane;
  V lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = static_cast<T>(i);
  for (int64_t i = 0; i < plane; ++i) {
    through[i] = i % task.stride < task.columns ? T(1) : T(-1);
    task.last[i] = -1;
  }
  for (int64_t i = 0; i < plane * channels; ++i) sums[i] = 0;
  const int blocks = task.stride / kLanes<T>;
  bool live[64 * (64 / kLanes<T>)];
  int alive = task.rows * blocks;
  for (int i = 0; i < alive; ++i) live[i] = true;
  const V cap = V{} + task.rules.max_alpha, floor = V{} + task.rules.min_alpha, stop = V{} + task.rules.stop;
  for (int32_t k = 0; k < task.count && alive > 0; ++k) {
    const int32_t id = task.ids[k];
    const zoo::SplatView<T>& s = task.splats[id];
    int first, last;
    if (!reached_rows(s, task, first, last)) continue;
    const T* color = task.colors + static_cast<int64_t>(id) * channels;
    for (int row = first; row <= last; ++row) {
      const T dy = s.y - (task.y0 + row + T(0.5));
      const T cdy = T(0.5) * s.c * dy * dy, bdy = s.b * dy, half_a = T(0.5) * s.a;
      for (int block = 0; block < blocks; ++block) {
        if (!live[row * blocks + block]) continue;
        const int64_t at = static_cast<int64_t>(row) * task.stride + block * kLanes<T>;
        const V dx = s.x - (lane + (task.x0 + block * kLanes<T> + T(0.5)));
        const V sigma = (half_a * dx + bdy) * dx + cdy;
        V alpha = s.opacity * exp_negative(-sigma);
        alpha = alpha > cap ? cap : alpha;
        const V t = load(through + at);
        const M counts = (sigma >= V{}) & (alpha >= floor) & (t > V{});
        if (!any(counts)) continue;
        const V next = t * (T(1) - alpha);
        const M stops = counts & (task.rules.stop_at_equal ? (next <= stop) : (next < stop));
        const M used = counts & ~stops;
        const V weight = used ? alpha * t : V{};
        const V now = stops ? -t : (used ? next : t);
        store(through + at, now);
#pragma GCC unroll 4
        for (int d = 0; d < channels; ++d) {
          T* sum_d = sums + d * plane + at;
          store(sum_d, load(sum_d) + weight * color[d]);
        }
        store_numbers<T>(task.last + at, used ? M{} + k : load_numbers<T>(task.last + at));
        if (any(stops) && !any(now > V{})) {
          live[row * blocks + block] = false;
          --alive;
        }
      }
    }
  }
  for (int64_t i = 0; i < plane; ++i) through[i] = through[i] < 0 ? -through[i] : through[i];
}

// Planes: transmittance behind the last contributor; what a unit of alpha in front would take from all behind it
// (times transmittance); the gradient of each channel. Rows of gradients: x, y, xx, xy, yy, opacity, channels,
// [|x|, |y|].
template <class T, int kChannels, bool kAbsolute>
void composite_tile_backward(const zoo::TileTask<T>& task) {
  using V = typename Lanes<T>::V;
  using M = typename Lanes<T>::M;
  const int channels = kChannels > 0 ? kChannels : task.channels;
  const int64_t plane = static_cast<int64_t>(task.rows) * task.stride;
  T* through = task.planes;
  T* behind = through + plane;
  const T* grads = behind + plane;
  V lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = static_cast<T>(i);
  int32_t row_last[64], deepest = -1;
  for (int row = 0; row < task.rows; ++row) {
    row_last[row] = -1;
    for (int i = 0; i < task.columns; ++i) {
      const int32_t value = task.last[static_cast<int64_t>(row) * task.stride + i];
      if (value > row_last[row]) row_last[row] = value;
    }
    if (row_last[row] > deepest) deepest = row_last[row];
  }
  const int blocks = task.stride / kLanes<T>;
  const V cap = V{} + task.rules.max_alpha, floor = V{} + task.rules.min_alpha;
  for (int32_t k = task.count - 1; k >= 0; --k) {
    T* out = task.gradients + static_cast<int64_t>(k) * task.gradient_stride;
    for (int d = 0; d < task.gradient_stride; ++d) out[d] = 0;
    if (k > deepest) continue;
    const int32_t id = task.ids[k];
    const zoo::SplatView<T>& s = task.splats[id];
    int first, last;
    if (!reached_rows(s, task, first, last)) continue;
    const T* color = task.colors + static_cast<int64_t>(id) * channels;
    V sum_1{}, sum_x{}, sum_y{}, sum_xx{}, sum_xy{}, sum_yy{}, size_x{}, size_y{};
    V sum_color[kChannels > 0 ? kChannels : 32];
    for (int d = 0; d < channels; ++d) sum_color[d] = V{};
    bool met = false;
    for (int row = first; row <= last; ++row) {
      if (k > row_last[row]) continue;
      const T dy = s.y - (task.y0 + row + T(0.5));
      const T cdy = T(0.5) * s.c * dy * dy, bdy = s.b * dy, half_a = T(0.5) * s.a;
      for (int block = 0; block < blocks; ++block) {
        const int64_t at = static_cast<int64_t>(row) * task.stride + block * kLanes<T>;
        const V dx = s.x - (lane + (task.x0 + block * kLanes<T> + T(0.5)));
        const V sigma = (half_a * dx + bdy) * dx + cdy;
        const V raw = s.opacity * exp_negative(-sigma);
        const V alpha = raw > cap ? cap : raw;
        const M used = (sigma >= V{}) & (alpha >= floor) & (load_numbers<T>(task.last + at) >= k);
        if (!any(used)) continue;
        met = true;
        const V rest = T(1) / (T(1) - alpha);
        const V t = load(through + at) * rest;  // in front of this Gaussian
        store(through + at, used ? t : load(through + at));
        const V weight = used ? alpha * t : V{};
        V toward{};  // gradient times this Gaussian's colour
#pragma GCC unroll 4
        for (int d = 0; d < channels; ++d) {
          const V g = load(grads + d * plane + at);
          toward += g * color[d];
          sum_color[d] += g * weight;
        }
        const V hidden = load(behind + at);
        const V grad_alpha = toward * t - hidden * rest;
        store(behind + at, hidden + toward * weight);
        const V grad_sigma = (used & (raw <= cap)) ? -raw * grad_alpha : V{};
        const V moment = grad_sigma * dx;
        sum_1 += grad_sigma;
        sum_x += moment;
        sum_xx += moment * dx;
        sum_y += grad_sigma * dy;
        sum_xy += moment * dy;
        sum_yy += grad_sigma * (dy * dy);
        if constexpr (kAbsolute) {
          const V gx = (s.a * dx + bdy) * grad_sigma, gy = (s.b * dx + s.c * dy) * grad_sigma;
          size_x += gx < V{} ? -gx : gx;
          size_y += gy < V{} ? -gy : gy;
        }
      }
    }
    if (!met) continue;
    const T x = sum<T>(sum_x), y = sum<T>(sum_y);
    out[0] = s.a * x + s.b * y;
    out[1] = s.b * x + s.c * y;
    out[2] = T(0.5) * sum<T>(sum_xx);
    out[3] = sum<T>(sum_xy);
    out[4] = T(0.5) * sum<T>(sum_yy);
    out[5] = -sum<T>(sum_1) / s.opacity;
    for (int d = 0; d < channels; ++d) out[6 + d] = sum<T>(sum_color[d]);
    if constexpr (kAbsolute) {
      out[6 + channels] = sum<T>(size_x);
      out[7 + channels] = sum<T>(size_y);
    }
  }
}

template <class T>
void composite_any(const zoo::TileTask<T>& task) {
  if (task.channels == 3) return composite_tile<T, 3>(task);
  if (task.channels == 4) return composite_tile<T, 4>(task);
  composite_tile<T, 0>(task);
}
template <class T, bool kAbsolute>
void composite_backward_any(const zoo::TileTask<T>& task) {
  if (task.channels == 3) return composite_tile_backward<T, 3, kAbsolute>(task);
  if (task.channels == 4) return composite_tile_backward<T, 4, kAbsolute>(task);
  composite_tile_backward<T, 0, kAbsolute>(task);
}

#undef ZOO_INLINE
#undef ZOO_VECTOR_BYTES

}  // namespace
