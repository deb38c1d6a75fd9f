// Structural similarity of pictures on the CPU. Threads take bands of rows; every value is computed by itself, so that
// nothing depends on the number of threads.
#include "cpu/isa/ssim.h"

#include <type_traits>

#include "cpu/work_queue.h"
#include "runtime/isa.h"
#include "runtime/op.h"

#define ZOO_DECLARE_SSIM(T, suffix)                                                                          \
  ZOO_DECLARE_ISA(void, ssim_row_##suffix, (const similarity::Job<T>& job, int64_t row, T* scratch, T* out)) \
  ZOO_DECLARE_ISA(void, ssim_slopes_row_##suffix,                                                            \
                  (const similarity::Job<T>& job, int64_t row, T* scratch, T* mean, T* square, T* product))  \
  ZOO_DECLARE_ISA(void, ssim_gradient_row_##suffix,                                                          \
                  (const similarity::Job<T>& job, int64_t row, T* scratch, const T* mean, const T* square,   \
                   const T* product, T* out))
ZOO_DECLARE_SSIM(float, f32)
ZOO_DECLARE_SSIM(double, f64)

namespace zoo {
namespace {

using similarity::Job;
constexpr int64_t kBand = 16;  // rows: neighbours read the same rows, while they are in the cache

template <class T>
class Pictures {
 public:
  Pictures(const Tensor& x, const Tensor& y, const Tensor& window, double scale, double c1, double c2)
      : x_(cptr<T>(x)), y_(cptr<T>(y)), count_(x.size(0)) {
    job_.height = x.size(1), job_.row = x.size(2) * x.size(3), job_.channels = x.size(3);
    job_.window = cptr<T>(window), job_.taps = window.numel();
    job_.covariance_scale = static_cast<T>(scale), job_.c1 = static_cast<T>(c1), job_.c2 = static_cast<T>(c2);
  }
  int64_t size() const { return job_.height * job_.row; }

  // Calls kernel(job, row, scratch, first element of the picture) for every row; `planes` rows of scratch, zeros
  // before.
  template <class F>
  void for_each_row(int64_t planes, const T* grad, const F& kernel) const {
    const int64_t bands = (job_.height + kBand - 1) / kBand;
    for_each_unit(count_ * bands, [&] {
      const int64_t elements = planes * job_.padded_row();
      Scratch<T> scratch(elements);
      for (int64_t i = 0; i < elements; ++i) scratch.get()[i] = 0;
      return [this, grad, bands, &kernel, scratch = std::move(scratch)](int64_t unit) {
        const int64_t start = unit / bands * size(), first = unit % bands * kBand;
        Job<T> job = job_;
        job.x = x_ + start, job.y = y_ + start, job.grad = grad == nullptr ? nullptr : grad + start;
        for (int64_t row = first; row < std::min(first + kBand, job.height); ++row) {
          kernel(job, row, scratch.get(), start);
        }
      };
    });
  }

 private:
  const T *x_, *y_;
  int64_t count_;
  Job<T> job_{};
};

void check_pictures(const Tensor& x, const Tensor& y, const Tensor& window, const char* op) {
  STD_TORCH_CHECK(x.dim() == 4 && y.dim() == 4 && x.numel() == y.numel() && x.size(2) == y.size(2) &&
                      x.size(3) == y.size(3) && x.scalar_type() == y.scalar_type(),
                  op, ": the pictures differ in shape or dtype");
  STD_TORCH_CHECK(window.numel() % 2 == 1 && window.scalar_type() == x.scalar_type(), op,
                  ": the window needs an odd number of weights in the pictures' dtype");
}

Tensor ssim_map(const Tensor& x_in, const Tensor& y_in, const Tensor& window_in, double covariance_scale, double c1,
                double c2) {
  const Tensor x = packed(x_in), y = packed(y_in), window = packed(window_in);
  check_pictures(x, y, window, "ssim_map");
  return dispatch_floating(x.scalar_type(), "ssim_map", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
    const Pictures<T> pictures(x, y, window, covariance_scale, c1, c2);
    T* values = mptr<T>(out);
    pictures.for_each_row(5, nullptr, [&](const Job<T>& job, int64_t row, T* scratch, int64_t start) {
      T* to = values + start + row * job.row;
      if constexpr (std::is_same_v<T, float>) {
        ZOO_CALL_ISA(ssim_row_f32)(job, row, scratch, to);
      } else {
        ZOO_CALL_ISA(ssim_row_f64)(job, row, scratch, to);
      }
    });
    return out;
  });
}

Tensor ssim_map_backward(const Tensor& grad_in, const Tensor& x_in, const Tensor& y_in, const Tensor& window_in,
                         double covariance_scale, double c1, double c2) {
  const Tensor grad = packed(grad_in), x = packed(x_in), y = packed(y_in), window = packed(window_in);
  check_pictures(x, y, window, "ssim_map_backward");
  check_pictures(x, grad, window, "ssim_map_backward");
  return dispatch_floating(x.scalar_type(), "ssim_map_backward", [&](auto zero) {
    using T = decltype(zero);
    Tensor out = empty_on<T>(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
    const Tensor slopes = empty_on<T>(x, {3, x.numel()});
    const Pictures<T> pictures(x, y, window, covariance_scale, c1, c2);
    T *mean = mptr<T>(slopes), *square = mean + x.numel(), *product = square + x.numel(), *values = mptr<T>(out);
    pictures.for_each_row(5, cptr<T>(grad), [&](const Job<T>& job, int64_t row, T* scratch, int64_t start) {
      if constexpr (std::is_same_v<T, float>) {
        ZOO_CALL_ISA(ssim_slopes_row_f32)(job, row, scratch, mean + start, square + start, product + start);
      } else {
        ZOO_CALL_ISA(ssim_slopes_row_f64)(job, row, scratch, mean + start, square + start, product + start);
      }
    });
    pictures.for_each_row(3, nullptr, [&](const Job<T>& job, int64_t row, T* scratch, int64_t start) {
      T* to = values + start;
      if constexpr (std::is_same_v<T, float>) {
        ZOO_CALL_ISA(ssim_gradient_row_f32)(job, row, scratch, mean + start, square + start, product + start, to);
      } else {
        ZOO_CALL_ISA(ssim_gradient_row_f64)(job, row, scratch, mean + start, square + start, product + start, to);
      }
    });
    return out;
  });
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("ssim_map", TORCH_BOX(&zoo::ssim_map));
  m.impl("ssim_map_backward", TORCH_BOX(&zoo::ssim_map_backward));
}
