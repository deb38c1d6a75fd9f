// Local structural similarity from windowed moments, and what it gives to the moments that hold x.
#pragma once

#include "runtime/target.h"

namespace zoo {
// Apart for each target and instruction set: the linker must not merge them.
namespace {

template <class V>
struct SsimConstants {
  V covariance_scale, c1, c2;
};

template <class V>
ZOO_HD V ssim_value(const SsimConstants<V>& c, V mean_x, V mean_y, V xx, V yy, V xy) {
  const V both = mean_x * mean_y, squares = mean_x * mean_x + mean_y * mean_y;
  const V scale = c.covariance_scale + c.covariance_scale;
  return (both + both + c.c1) * (scale * (xy - both) + c.c2) /
         ((squares + c.c1) * (c.covariance_scale * (xx + yy - squares) + c.c2));
}

template <class V>
struct SsimSlopes {
  V mean, square, product;  // by mean_x, xx and xy
};

template <class V>
ZOO_HD SsimSlopes<V> ssim_slopes(const SsimConstants<V>& c, V mean_x, V mean_y, V xx, V yy, V xy) {
  const V both = mean_x * mean_y, squares = mean_x * mean_x + mean_y * mean_y;
  const V scale = c.covariance_scale + c.covariance_scale;
  const V means = both + both + c.c1, covariance = scale * (xy - both) + c.c2;
  const V magnitude = squares + c.c1, variance = c.covariance_scale * (xx + yy - squares) + c.c2;
  const V rest = covariance / (magnitude * variance), value = means * rest;  // value: the similarity
  const V by_product = scale * means / (magnitude * variance);
  const V by_square = -c.covariance_scale * value / variance;
  const V by_mean =
      (mean_y + mean_y) * rest - mean_y * by_product - (mean_x + mean_x) * (value / magnitude + by_square);
  return {by_mean, by_square, by_product};
}

}  // namespace
}  // namespace zoo
