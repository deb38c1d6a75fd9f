// Attention within one set: small dense products with vectors along the columns, softmax by rows.
#include "cpu/isa/set_attention.h"

#include <cmath>
#include <cstring>

#include "runtime/isa.h"

namespace zoo::ZOO_ISA {
namespace {

using attention::Job;
using attention::Rows;

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float V __attribute__((vector_size(kBytes), aligned(4), may_alias));
};
template <>
struct Lanes<double> {
  typedef double V __attribute__((vector_size(kBytes), aligned(8), may_alias));
};
template <class T>
constexpr int64_t kLanes = kBytes / sizeof(T);

int64_t pad(int64_t n) {
  return (n + attention::kPad - 1) / attention::kPad * attention::kPad;
}

// As kernels/exponential.h, which files of several instruction sets must not share.
float exponential(float x) {
  constexpr float kLowest = -87.33654f, kRound = 12582912.0f;
  const float inside = x < kLowest ? kLowest : (x > 88.0f ? 88.0f : x);
  const float n = (inside * 1.44269504f + kRound) - kRound;
  const float r = (inside - n * 0.693359375f) + n * 2.12194440e-4f;
  float poly = 1.3981999e-3f;
  poly = poly * r + 8.3334519e-3f;
  poly = poly * r + 4.1665796e-2f;
  poly = poly * r + 1.6666666e-1f;
  poly = poly * r + 0.5f;
  poly = poly * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  const float value = poly * power;
  const float bounded = x < kLowest ? 0.0f : value;
  return x == x ? bounded : x;
}
double exponential(double x) {
  return std::exp(x);
}

// c (R, kCols vectors) = a (R, k) . b (k, ldb)
template <class T, int R, int kCols>
void tile(int64_t k, const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t ldb, T* c, int64_t ldc) {
  using V = typename Lanes<T>::V;
  V sums[R][kCols] = {};
  for (int64_t i = 0; i < k; ++i) {
    V right[kCols];
    for (int v = 0; v < kCols; ++v) right[v] = *reinterpret_cast<const V*>(b + i * ldb + v * kLanes<T>);
    for (int r = 0; r < R; ++r) {
      const T left = a[r * a_row + i * a_step];
      for (int v = 0; v < kCols; ++v) sums[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kCols; ++v) *reinterpret_cast<V*>(c + r * ldc + v * kLanes<T>) = sums[r][v];
  }
}

// c (rows, cols) = a . b, cols a multiple of kPad; element (r, i) of a is a[r * a_row + i * a_step].
template <class T>
void multiply(int64_t rows, int64_t cols, int64_t k, const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t ldb,
              T* c, int64_t ldc) {
  constexpr int64_t kWide = 2 * kLanes<T>;
  for (int64_t n = 0; n < cols;) {
    const bool wide = n + kWide <= cols;
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      const T* left = a + r * a_row;
      if (wide) {
        tile<T, 4, 2>(k, left, a_row, a_step, b + n, ldb, c + r * ldc + n, ldc);
      } else {
        tile<T, 4, 1>(k, left, a_row, a_step, b + n, ldb, c + r * ldc + n, ldc);
      }
    }
    for (; r < rows; ++r) {
      const T* left = a + r * a_row;
      if (wide) {
        tile<T, 1, 2>(k, left, a_row, a_step, b + n, ldb, c + r * ldc + n, ldc);
      } else {
        tile<T, 1, 1>(k, left, a_row, a_step, b + n, ldb, c + r * ldc + n, ldc);
      }
    }
    n += wide ? kWide : kLanes<T>;
  }
}

// The columns [first, first + width) of some rows, times a factor, (members, pad(width)) with zeros behind them.
template <class T>
void gather(const Rows<const T>& from, const int64_t* members, int64_t count, int64_t first, int64_t width, T factor,
            T* to) {
  const int64_t columns = pad(width);
  for (int64_t i = 0; i < count; ++i) {
    const T* row = from.data + members[i] * from.stride + first;
    for (int64_t c = 0; c < width; ++c) to[i * columns + c] = row[c] * factor;
    for (int64_t c = width; c < columns; ++c) to[i * columns + c] = 0;
  }
}

// The same transposed: (width, pad(members)).
template <class T>
void gather_transposed(const Rows<const T>& from, const int64_t* members, int64_t count, int64_t first, int64_t width,
                       T* to) {
  const int64_t columns = pad(count);
  for (int64_t i = 0; i < count; ++i) {
    const T* row = from.data + members[i] * from.stride + first;
    for (int64_t c = 0; c < width; ++c) to[c * columns + i] = row[c];
  }
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t i = count; i < columns; ++i) to[c * columns + i] = 0;
  }
}

template <class T>
void scatter(const T* from, const int64_t* members, int64_t count, int64_t first, int64_t width, T factor,
             const Rows<T>& to) {
  const int64_t columns = pad(width);
  for (int64_t i = 0; i < count; ++i) {
    T* row = to.data + members[i] * to.stride + first;
    for (int64_t c = 0; c < width; ++c) row[c] = from[i * columns + c] * factor;
  }
}

// exp(x - shift) of one padded row; what lies behind `count` becomes 0.
template <class T>
void exponentials(T* row, int64_t count, T shift) {
  const int64_t columns = pad(count);
  for (int64_t j = 0; j < columns; ++j) row[j] = exponential(row[j] - shift);
  for (int64_t j = count; j < columns; ++j) row[j] = 0;
}

template <class T>
T largest_of(const T* row, int64_t count) {
  T best = row[0];
  for (int64_t j = 1; j < count; ++j) best = row[j] > best ? row[j] : best;
  return best;
}

template <class T>
T sum_of(const T* row, int64_t columns) {  // columns a multiple of kPad
  T parts[8] = {};
  for (int64_t j = 0; j < columns; j += 8) {
    for (int p = 0; p < 8; ++p) parts[p] += row[j + p];
  }
  return ((parts[0] + parts[4]) + (parts[1] + parts[5])) + ((parts[2] + parts[6]) + (parts[3] + parts[7]));
}

template <class T>
void forward(const Job<T>& job, int64_t set, T* scratch) {
  const int64_t begin = job.offsets[set], m = job.offsets[set + 1] - begin, width = job.width;
  if (m <= 0) return;
  const int64_t columns = pad(m), wide = pad(width);
  const int64_t* members = job.order + begin;
  T *q = scratch, *v = q + m * wide, *o = v + m * wide, *kt = o + m * wide, *p = kt + width * columns;
  for (int64_t head = 0; head < job.heads; ++head) {
    const int64_t first = head * width;
    gather(job.query, members, m, first, width, job.scale, q);
    gather(job.value, members, m, first, width, T(1), v);
    gather_transposed(job.key, members, m, first, width, kt);
    multiply(m, columns, width, q, wide, int64_t{1}, kt, columns, p, columns);
    for (int64_t i = 0; i < m; ++i) {
      T* row = p + i * columns;
      const T largest = largest_of(row, m);
      exponentials(row, m, largest);
      const T total = sum_of(row, columns), share = T(1) / total;
      for (int64_t j = 0; j < columns; ++j) row[j] *= share;
      job.logsumexp[members[i] * job.heads + head] = largest + std::log(total);
    }
    multiply(m, wide, m, p, columns, int64_t{1}, v, wide, o, wide);
    scatter(o, members, m, first, width, T(1), job.out);
  }
}

template <class T>
void backward(const Job<T>& job, int64_t set, T* scratch) {
  const int64_t begin = job.offsets[set], m = job.offsets[set + 1] - begin, width = job.width;
  if (m <= 0) return;
  const int64_t columns = pad(m), wide = pad(width);
  const int64_t* members = job.order + begin;
  T *q = scratch, *k = q + m * wide, *g = k + m * wide, *o = g + m * wide, *kt = o + m * wide;
  T *vt = kt + width * columns, *p = vt + width * columns, *ds = p + m * columns;
  for (int64_t head = 0; head < job.heads; ++head) {
    const int64_t first = head * width;
    gather(job.query, members, m, first, width, job.scale, q);
    gather(job.key, members, m, first, width, T(1), k);
    gather(job.grad, members, m, first, width, T(1), g);
    gather(job.output, members, m, first, width, T(1), o);
    gather_transposed(job.key, members, m, first, width, kt);
    gather_transposed(job.value, members, m, first, width, vt);
    multiply(m, columns, width, q, wide, int64_t{1}, kt, columns, p, columns);
    multiply(m, columns, width, g, wide, int64_t{1}, vt, columns, ds, columns);
    for (int64_t i = 0; i < m; ++i) {
      T *row = p + i * columns, *change = ds + i * columns;
      exponentials(row, m, job.logsumexp[members[i] * job.heads + head]);
      for (int64_t c = 0; c < wide; ++c) o[i * wide + c] *= g[i * wide + c];
      const T mean = sum_of(o + i * wide, wide);
      for (int64_t j = 0; j < columns; ++j) change[j] = row[j] * (change[j] - mean);
    }
    multiply(m, wide, m, ds, columns, int64_t{1}, k, wide, o, wide);
    scatter(o, members, m, first, width, job.scale, job.grad_query);
    multiply(m, wide, m, ds, int64_t{1}, columns, q, wide, o, wide);
    scatter(o, members, m, first, width, T(1), job.grad_key);
    multiply(m, wide, m, p, int64_t{1}, columns, g, wide, o, wide);
    scatter(o, members, m, first, width, T(1), job.grad_value);
  }
}

}  // namespace

void set_attention_f32(const Job<float>& job, int64_t set, float* scratch) {
  forward(job, set, scratch);
}
void set_attention_f64(const Job<double>& job, int64_t set, double* scratch) {
  forward(job, set, scratch);
}
void set_attention_grad_f32(const Job<float>& job, int64_t set, float* scratch) {
  backward(job, set, scratch);
}
void set_attention_grad_f64(const Job<double>& job, int64_t set, double* scratch) {
  backward(job, set, scratch);
}

}  // namespace zoo::ZOO_ISA
