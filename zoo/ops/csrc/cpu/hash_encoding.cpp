// The hash encoding on the CPU. Bitwise the same for any number of threads: points are encoded in blocks whose borders
// do not depend on it, and each row of the table's gradient is summed by one thread in the order of the points.
#include "kernels/hash_encoding.h"

#include <atomic>
#include <cstring>

#include "cpu/isa/hash_encoding.h"
#include "runtime/isa.h"

ZOO_DECLARE_ISA(void, hash_encode_points,
                (const GridJob& job, int num_levels, int64_t begin, int64_t end, float* output))
ZOO_DECLARE_ISA(void, hash_encode_level, (const GridJob& job, int l, int64_t begin, int64_t end, float* output))
ZOO_DECLARE_ISA(void, hash_encode_points_grad, (const GridJob& job, int64_t begin, int64_t end, float* grad_x))
ZOO_DECLARE_ISA(void, hash_encode_level_grad,
                (const GridJob& job, int l, const GridColumns& columns, uint32_t begin, uint32_t end, float* grad))

namespace zoo {
namespace {

constexpr int64_t kBlock = 2048;         // points encoded by one thread in one go
constexpr int64_t kChunk = 1 << 18;      // points whose gradients are transposed at a time
constexpr int64_t kTranspose = 256;      // points transposed by one thread in one go
constexpr int64_t kMinPass = 1 << 14;    // fewer points reuse too little of a level to go through it on their own
constexpr int64_t kPass = 1 << 19;       // points whose fine levels lie in scratch memory at a time
constexpr int64_t kFineBytes = 1 << 19;  // levels from this size on are fine: they displace each other in the cache

bool has_fast_path(const Tensor& x, const GridSettings& settings) {
  return x.scalar_type() == ScalarType::Float && x.size(1) <= 3 && settings.interpolation != kNearest;
}

GridJob make_job(const Tensor& x, int64_t features, const GridSettings& settings, const GridLevels<float>& levels) {
  return GridJob{static_cast<int>(x.size(1)),
                 static_cast<int>(features),
                 levels.count,
                 settings,
                 levels.level,
                 cptr<float>(x),
                 nullptr,
                 nullptr};
}

// Calls f(begin, end) for blocks of [0, n) with fixed borders, on all threads.
template <class F>
void for_blocks(int64_t n, int64_t block, const F& f) {
  torch::stable::parallel_for(0, (n + block - 1) / block, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) f(b * block, std::min(n, (b + 1) * block));
  });
}

// Calls f(task) for tasks of unequal cost: each thread takes the next one.
template <class F>
void for_tasks(int64_t count, const F& f) {
  std::atomic<int64_t> next{0};
  const int64_t threads = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t task = next++; task < count; task = next++) f(task);
  });
}

int64_t row_bytes(const GridJob& job) {
  return int64_t{job.num_features} * sizeof(float);
}

// Points [begin, end) of by_level (levels from first_level on, stride, F) into output (N, L F).
template <int kFeatures>
void merge_levels(const float* by_level, int first_level, int num_levels, int64_t begin, int64_t end, int64_t stride,
                  float* output) {
  for (int64_t i = begin; i < end; ++i) {
    for (int l = first_level; l < num_levels; ++l) {
      std::memcpy(output + (i * num_levels + l) * kFeatures, by_level + ((l - first_level) * stride + i) * kFeatures,
                  kFeatures * sizeof(float));
    }
  }
}

// Random points reuse the rows of a fine level only while that level stays in the cache, so all threads go through the
// fine levels one after another, into scratch memory; the coarse ones, which stay cached together, go block by block.
void encode(GridJob job, int64_t n, Tensor& result) {
  int num_coarse = job.num_levels;
  if (n >= kMinPass) {
    while (num_coarse > 0 && job.levels[num_coarse - 1].rows * row_bytes(job) >= kFineBytes) --num_coarse;
  }
  const int num_fine = job.num_levels - num_coarse;
  const int64_t pass = std::min(n, kPass);
  Tensor scratch = empty_on<float>(result, {num_fine, pass, job.num_features});
  float *by_level = mptr<float>(scratch), *output = mptr<float>(result);
  const auto merge = job.num_features == 1   ? &merge_levels<1>
                     : job.num_features == 2 ? &merge_levels<2>
                     : job.num_features == 4 ? &merge_levels<4>
                                             : &merge_levels<8>;
  for (int64_t start = 0; start < n; start += pass) {
    const int64_t count = std::min(pass, n - start);
    for (int l = num_coarse; l < job.num_levels; ++l) {
      float* target = by_level + (l - num_coarse) * pass * job.num_features;
      for_blocks(count, kBlock,
                 [&](int64_t begin, int64_t end) { ZOO_CALL_ISA(hash_encode_level)(job, l, begin, end, target); });
    }
    for_blocks(count, kBlock, [&](int64_t begin, int64_t end) {
      ZOO_CALL_ISA(hash_encode_points)(job, num_coarse, begin, end, output);
      merge(by_level, num_coarse, job.num_levels, begin, end, pass, output);
    });
    job.x += pass * job.num_dims;
    output += pass * job.num_levels * job.num_features;
  }
}

struct PlainAdd {
  template <class T>
  static void add(T* target, T value) {
    *target += value;
  }
};

template <int kFeatures>
void transpose_grad(const float* grad, int num_levels, int64_t begin, int64_t end, int64_t stride, float* by_level) {
  struct Features {
    float value[kFeatures];
  };
  for (int l = 0; l < num_levels; ++l) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(by_level + (l * stride + i) * kFeatures, grad + (i * num_levels + l) * kFeatures, sizeof(Features));
    }
  }
}

// Points [0, count) of x (N, D) and grad (N, L F) into columns (D, count) and by_level (L, count, F).
void transpose(const GridJob& job, int64_t count, float* columns, float* by_level) {
  const auto transpose_features = job.num_features == 1   ? &transpose_grad<1>
                                  : job.num_features == 2 ? &transpose_grad<2>
                                  : job.num_features == 4 ? &transpose_grad<4>
                                                          : &transpose_grad<8>;
  for_blocks(count, kTranspose, [&](int64_t begin, int64_t end) {
    for (int d = 0; d < job.num_dims; ++d) {
      for (int64_t i = begin; i < end; ++i) columns[d * count + i] = job.x[i * job.num_dims + d];
    }
    transpose_features(job.grad, job.num_levels, begin, end, count, by_level);
  });
}

// Level by level, finest first; with more threads than levels, each level in several ranges of rows.
void add_levels(const GridJob& job, const float* columns, const float* by_level, int64_t count, bool is_first,
                float* grad_table) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t ranges = std::min<int64_t>(16, std::max<int64_t>(1, 2 * threads / job.num_levels));
  for_tasks(job.num_levels * ranges, [&](int64_t task) {
    const int l = job.num_levels - 1 - static_cast<int>(task / ranges);
    const int64_t rows = job.levels[l].rows, range = task % ranges;
    const int64_t begin = rows * range / ranges, end = rows * (range + 1) / ranges;
    if (is_first) {
      std::memset(grad_table + (job.levels[l].first + begin) * job.num_features, 0,
                  (end - begin) * job.num_features * sizeof(float));
    }
    const GridColumns level_columns{columns, count, by_level + l * count * job.num_features, count};
    ZOO_CALL_ISA(hash_encode_level_grad)
    (job, l, level_columns, static_cast<uint32_t>(begin), static_cast<uint32_t>(end), grad_table);
  });
}

Tensor fast_table_grad(const Tensor& x, const Tensor& grad, const GridSettings& settings,
                       const GridLevels<float>& levels, int64_t num_rows) {
  const int64_t n = x.size(0), features = grad.size(1) / levels.count, chunk = std::min(n, kChunk);
  if (n == 0) return zeros_on<float>(x, {num_rows, features});
  Tensor result = empty_on<float>(x, {num_rows, features});
  Tensor columns = empty_on<float>(x, {chunk * x.size(1)}), by_level = empty_on<float>(x, {chunk * grad.size(1)});
  GridJob job = make_job(x, features, settings, levels);
  for (int64_t start = 0; start < n; start += chunk) {
    const int64_t count = std::min(chunk, n - start);
    job.x = cptr<float>(x) + start * x.size(1);
    job.grad = cptr<float>(grad) + start * grad.size(1);
    transpose(job, count, mptr<float>(columns), mptr<float>(by_level));
    add_levels(job, cptr<float>(columns), cptr<float>(by_level), count, start == 0, mptr<float>(result));
  }
  return result;
}

template <class T, int D>
Tensor plain_table_grad(const Tensor& x, const Tensor& grad, const GridSettings& settings, const GridLevels<T>& levels,
                        int64_t num_rows) {
  const int64_t n = x.size(0), features = grad.size(1) / levels.count;
  Tensor result = zeros_on<T>(x, {num_rows, features});
  const HashTableGrad<T, D, 0, PlainAdd> add{levels,        settings,       n, static_cast<int>(features), cptr<T>(x),
                                             cptr<T>(grad), mptr<T>(result)};
  for_tasks(levels.count, [&](int64_t l) {
    for (int64_t i = 0; i < n; ++i) add(l * n + i);
  });
  return result;
}

}  // namespace

Tensor hash_encode(const Tensor& points, const Tensor& rows, const Tensor& scales, const Tensor& levels, double shift,
                   int64_t interpolation, bool bounded, bool ceil_corners) {
  const Tensor x = packed(points), table = packed(rows);
  const GridSettings settings = grid_settings(shift, interpolation, bounded, ceil_corners);
  const int64_t n = x.size(0), features = table.size(1);
  return dispatch_floating(x.scalar_type(), "hash_encode", [&](auto zero) {
    using T = decltype(zero);
    const GridLevels<T> grid = read_levels<T>(scales, levels);
    Tensor output = empty_on<T>(x, {n, grid.count * features});
    if constexpr (std::is_same_v<T, float>) {
      if (has_fast_path(x, settings)) {
        GridJob job = make_job(x, features, settings, grid);
        job.table = cptr<float>(table);
        encode(job, n, output);
        return output;
      }
    }
    return dispatch_grid_dims(x.size(1), [&](auto dims) {
      launch(x, n * grid.count,
             HashEncode<T, decltype(dims)::value, 0>{grid, settings, n, static_cast<int>(features), cptr<T>(x),
                                                     cptr<T>(table), mptr<T>(output)});
      return output;
    });
  });
}

Tensor hash_encode_table_grad(const Tensor& grad_output, const Tensor& points, const Tensor& scales,
                              const Tensor& levels, int64_t num_rows, double shift, int64_t interpolation, bool bounded,
                              bool ceil_corners) {
  const Tensor x = packed(points), grad = packed(grad_output);
  const GridSettings settings = grid_settings(shift, interpolation, bounded, ceil_corners);
  return dispatch_floating(x.scalar_type(), "hash_encode_table_grad", [&](auto zero) {
    using T = decltype(zero);
    const GridLevels<T> grid = read_levels<T>(scales, levels);
    if constexpr (std::is_same_v<T, float>) {
      if (has_fast_path(x, settings)) return fast_table_grad(x, grad, settings, grid, num_rows);
    }
    return dispatch_grid_dims(x.size(1), [&](auto dims) {
      return plain_table_grad<T, decltype(dims)::value>(x, grad, settings, grid, num_rows);
    });
  });
}

Tensor hash_encode_input_grad(const Tensor& grad_output, const Tensor& points, const Tensor& rows, const Tensor& scales,
                              const Tensor& levels, double shift, int64_t interpolation, bool bounded,
                              bool ceil_corners) {
  const Tensor x = packed(points), table = packed(rows), grad = packed(grad_output);
  const GridSettings settings = grid_settings(shift, interpolation, bounded, ceil_corners);
  const int64_t n = x.size(0), features = table.size(1);
  return dispatch_floating(x.scalar_type(), "hash_encode_input_grad", [&](auto zero) {
    using T = decltype(zero);
    const GridLevels<T> grid = read_levels<T>(scales, levels);
    Tensor grad_x = empty_on<T>(x, {n, x.size(1)});
    if constexpr (std::is_same_v<T, float>) {
      if (has_fast_path(x, settings)) {
        GridJob job = make_job(x, features, settings, grid);
        job.table = cptr<float>(table);
        job.grad = cptr<float>(grad);
        for_blocks(n, kBlock, [&](int64_t begin, int64_t end) {
          ZOO_CALL_ISA(hash_encode_points_grad)(job, begin, end, mptr<float>(grad_x));
        });
        return grad_x;
      }
    }
    return dispatch_grid_dims(x.size(1), [&](auto dims) {
      launch(x, n,
             HashInputGrad<T, decltype(dims)::value, 0>{grid, settings, static_cast<int>(features), cptr<T>(x),
                                                        cptr<T>(table), cptr<T>(grad), mptr<T>(grad_x)});
      return grad_x;
    });
  });
}

}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("hash_encode", TORCH_BOX(&zoo::hash_encode));
  m.impl("hash_encode_table_grad", TORCH_BOX(&zoo::hash_encode_table_grad));
  m.impl("hash_encode_input_grad", TORCH_BOX(&zoo::hash_encode_input_grad));
}
