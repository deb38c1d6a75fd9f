// The output sites of strided and transposed convolutions on the CPU.
//
// Output slabs (one batch index and one index of the first axis) are independent: a thread marks the cells that the
// input slabs of the kernel's first axis reach, in a bitmap that stays in cache, and reads them off in order. A slab
// too large and too empty for a bitmap is sorted instead.
#include <algorithm>
#include <bit>
#include <tuple>

#include "cpu/work_queue.h"
#include "kernels/kernel_map.h"
#include "runtime/op.h"

namespace zoo {
namespace {

// Which output index an input index reaches on one axis through each kernel index; -1: none.
class Reach {
 public:
  Reach(const ConvGeometry& g, int axis, bool transposed) : g_(g), axis_(axis), transposed_(transposed) {
    const int64_t size = g.in_shape[axis];
    if (size > kLargestTable) return;
    table_.resize(size * g.kernel[axis]);
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t k = 0; k < g.kernel[axis]; ++k) table_[i * g.kernel[axis] + k] = compute(i, k);
    }
  }
  int64_t operator()(int64_t in, int64_t k) const {
    return table_.empty() ? compute(in, k) : table_[in * g_.kernel[axis_] + k];
  }

 private:
  static constexpr int64_t kLargestTable = 1 << 16;
  int64_t compute(int64_t in, int64_t k) const {
    const int64_t shift = g_.padding[axis_] - k * g_.dilation[axis_], stride = g_.stride[axis_];
    const int64_t scaled = transposed_ ? in * stride - shift : in + shift;
    if (scaled < 0 || (!transposed_ && scaled % stride != 0)) return -1;
    const int64_t out = transposed_ ? scaled : scaled / stride;
    return out < g_.out_shape[axis_] ? out : -1;
  }
  const ConvGeometry& g_;
  int axis_;
  bool transposed_;
  std::vector<int64_t> table_;
};

struct Slab {
  int64_t batch, index;  // of the batch and of the first axis
  int64_t begin, end;    // input: rows; output: places in the list of sources
};

std::vector<Slab> input_slabs(const ConvGeometry& g, const int32_t* coords, int64_t rows) {
  std::vector<Slab> slabs;
  int64_t batch, site[kMaxAxes];
  for (int64_t i = 0; i < rows; ++i) {
    g.read(coords, i, batch, site);
    if (slabs.empty() || slabs.back().batch != batch || slabs.back().index != site[0]) {
      if (!slabs.empty()) slabs.back().end = i;
      slabs.push_back({batch, site[0], i, rows});
    }
  }
  return slabs;
}

struct Link {  // an input slab that reaches an output slab
  int64_t batch, index, source;
  bool operator<(const Link& o) const { return std::tie(batch, index, source) < std::tie(o.batch, o.index, o.source); }
};

std::vector<Link> link_slabs(const std::vector<Slab>& sources, const Reach& reach, int64_t kernel) {
  std::vector<Link> links;
  for (size_t s = 0; s < sources.size(); ++s) {
    for (int64_t k = 0; k < kernel; ++k) {
      const int64_t out = reach(sources[s].index, k);
      if (out >= 0) links.push_back({sources[s].batch, out, static_cast<int64_t>(s)});
    }
  }
  std::sort(links.begin(), links.end());
  return links;
}

std::vector<Slab> output_slabs(const std::vector<Link>& links) {
  std::vector<Slab> slabs;
  for (size_t i = 0; i < links.size(); ++i) {
    if (slabs.empty() || slabs.back().batch != links[i].batch || slabs.back().index != links[i].index) {
      slabs.push_back({links[i].batch, links[i].index, static_cast<int64_t>(i), 0});
    }
    slabs.back().end = static_cast<int64_t>(i) + 1;
  }
  return slabs;
}

// Calls mark(cell) for every cell of the slab that is reached, in any order and with repetitions.
template <class Mark>
void reached_cells(const ConvGeometry& g, const int32_t* coords, const Slab& source, const Reach& reach1,
                   const Reach& reach2, const Mark& mark) {
  int64_t batch, site[kMaxAxes];
  for (int64_t row = source.begin; row < source.end; ++row) {
    g.read(coords, row, batch, site);
    for (int64_t k1 = 0; k1 < g.kernel[1]; ++k1) {
      const int64_t out1 = reach1(site[1], k1);
      if (out1 < 0) continue;
      for (int64_t k2 = 0; k2 < g.kernel[2]; ++k2) {
        const int64_t out2 = reach2(site[2], k2);
        if (out2 >= 0) mark(out1 * g.out_shape[2] + out2);
      }
    }
  }
}

// Ascending cells whose bit is set; the bits are cleared.
void read_bits(std::vector<uint64_t>& bits, std::vector<int64_t>& cells) {
  for (size_t w = 0; w < bits.size(); ++w) {
    for (uint64_t word = bits[w]; word != 0; word &= word - 1) {
      cells.push_back(static_cast<int64_t>(w) * 64 + std::countr_zero(word));
    }
    bits[w] = 0;
  }
}

std::vector<std::vector<int64_t>> cells_of_slabs(const ConvGeometry& g, const int32_t* coords,
                                                 const std::vector<Slab>& sources, const std::vector<Link>& links,
                                                 const std::vector<Slab>& targets, bool transposed) {
  const Reach reach1(g, 1, transposed), reach2(g, 2, transposed);
  const int64_t words = g.out_shape[1] > (int64_t{1} << 40) / g.out_shape[2]
                            ? int64_t{1} << 40
                            : (g.out_shape[1] * g.out_shape[2] + 63) / 64;
  std::vector<std::vector<int64_t>> cells(targets.size());
  for_each_unit(static_cast<int64_t>(targets.size()), [&] {
    return [&, bits = std::vector<uint64_t>()](int64_t t) mutable {
      int64_t rows = 0;
      for (int64_t i = targets[t].begin; i < targets[t].end; ++i) {
        rows += sources[links[i].source].end - sources[links[i].source].begin;
      }
      const bool bitmap = words <= 65536 + 4 * rows;
      if (bitmap) bits.resize(words, 0);
      cells[t].reserve(rows);
      for (int64_t i = targets[t].begin; i < targets[t].end; ++i) {
        const Slab& source = sources[links[i].source];
        if (bitmap) {
          reached_cells(g, coords, source, reach1, reach2,
                        [&](int64_t cell) { bits[cell >> 6] |= uint64_t{1} << (cell & 63); });
        } else {
          reached_cells(g, coords, source, reach1, reach2, [&](int64_t cell) { cells[t].push_back(cell); });
        }
      }
      if (bitmap) {
        read_bits(bits, cells[t]);
      } else {
        std::sort(cells[t].begin(), cells[t].end());
        cells[t].erase(std::unique(cells[t].begin(), cells[t].end()), cells[t].end());
      }
    };
  });
  return cells;
}

Tensor conv_output_coords(const Tensor& in_tensor, const std::vector<int64_t>& in_shape,
                          const std::vector<int64_t>& out_shape, int64_t /*batch_size*/,
                          const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                          const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, bool transposed) {
  ConvGeometry g;
  STD_TORCH_CHECK(make_geometry(in_tensor.size(1), in_shape, out_shape, kernel_size, stride, padding, dilation, g),
                  "conv_output_coords: coordinates, shapes and kernel do not have the same number of axes, 1 to 3");
  const Tensor in_coords = packed(in_tensor);
  const int32_t* coords = cptr<int32_t>(in_coords);
  const std::vector<Slab> sources = input_slabs(g, coords, in_coords.size(0));
  const std::vector<Link> links = link_slabs(sources, Reach(g, 0, transposed), g.kernel[0]);
  const std::vector<Slab> targets = output_slabs(links);
  const std::vector<std::vector<int64_t>> cells = cells_of_slabs(g, coords, sources, links, targets, transposed);
  std::vector<int64_t> starts(targets.size() + 1, 0);
  for (size_t t = 0; t < targets.size(); ++t) starts[t + 1] = starts[t] + static_cast<int64_t>(cells[t].size());
  Tensor out_coords = empty_on<int32_t>(in_coords, {starts[targets.size()], g.columns});
  int32_t* out = mptr<int32_t>(out_coords);
  for_each_unit(static_cast<int64_t>(targets.size()), [&] {
    return [&](int64_t t) {
      int32_t* row = out + starts[t] * g.columns;
      int64_t site[kMaxAxes] = {targets[t].index, 0, 0}, line = 0;  // line: first cell of the current index of axis 1
      for (const int64_t cell : cells[t]) {
        while (cell >= line + g.out_shape[2]) {
          const int64_t lines = (cell - line) / g.out_shape[2];
          site[1] += lines;
          line += lines * g.out_shape[2];
        }
        site[2] = cell - line;
        row[0] = static_cast<int32_t>(targets[t].batch);
        for (int a = 0; a < kMaxAxes; ++a) {
          if (g.column_of[a] > 0) row[g.column_of[a]] = static_cast<int32_t>(site[a]);
        }
        row += g.columns;
      }
    };
  });
  return out_coords;
}

}  // namespace
}  // namespace zoo

ZOO_LIBRARY(m) {
  m.impl("conv_output_coords", TORCH_BOX(&zoo::conv_output_coords));
}
