// Runs the kernels of one ISA (the table KERNELS) on cases from standard input and writes the results to standard
// output, without Python: test_emulated.py builds it with kernels that this machine does not run, runs it under
// emulation and compares bits with AVX2.
//
// A case is 7 numbers (int64: operation, size of an element, rows, cols, has weight, has bias; double: eps), then
//   operation 0, forward:   x, weight, bias; its result is y, mean, rstd.
//   operation 1, backward:  x, weight, dy, mean, rstd; its result is dx, dweight, dbias.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "fastln.h"

extern "C" const fln_kernels KERNELS;

namespace {

struct Header {
  int64_t operation, element, rows, cols, weight, bias;
  double eps;
};

template <typename T>
std::vector<T> read(int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  if (std::fread(values.data(), sizeof(T), values.size(), stdin) != values.size()) values.clear();
  return values;
}

template <typename T>
void write(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

struct ForwardKernels {
  fln_layer_norm_forward rows;
  fln_layer_norm_forward_sums sums;
  fln_layer_norm_forward_columns columns;
};

// Segments first, then columns from the back, which must not depend on those before.
void by_columns(const fln_layer_norm_forward_args& args, int64_t rows, const ForwardKernels& kernels) {
  const ptrdiff_t segments = (args.cols + FLN_FORWARD_SEGMENT_COLS - 1) / FLN_FORWARD_SEGMENT_COLS;
  std::vector<double> sums(static_cast<size_t>(segments * FLN_FORWARD_SUMS));
  for (ptrdiff_t row = 0; row < rows; ++row) {
    for (ptrdiff_t i = segments; i-- > 0;) kernels.sums(&args, row, i, sums.data() + i * FLN_FORWARD_SUMS);
    kernels.columns(&args, row, sums.data(), args.cols / 3, args.cols);
    kernels.columns(&args, row, sums.data(), 0, args.cols / 3);
  }
}

template <typename T>
bool forward(const Header& header, const ForwardKernels& kernels) {
  const std::vector<T> x = read<T>(header.rows * header.cols);
  const std::vector<T> weight = read<T>(header.weight ? header.cols : 0);
  const std::vector<T> bias = read<T>(header.bias ? header.cols : 0);
  std::vector<T> y(x.size()), mean(static_cast<size_t>(header.rows)), rstd(mean.size());
  fln_layer_norm_forward_args args = {x.data(),
                                      y.data(),
                                      header.weight ? weight.data() : nullptr,
                                      header.bias ? bias.data() : nullptr,
                                      mean.data(),
                                      rstd.data(),
                                      header.cols,
                                      header.cols,
                                      header.cols,
                                      header.eps,
                                      1};
  kernels.rows(&args, 0, header.rows);
  if (header.cols > FLN_FORWARD_SEGMENT_COLS) {
    std::vector<T> again(x.size());
    args.y = again.data();
    by_columns(args, header.rows, kernels);
    if (std::memcmp(again.data(), y.data(), y.size() * sizeof(T)) != 0) return false;
  }
  write(y);
  write(mean);
  write(rstd);
  return true;
}

// The totals of dweight or dbias: room for either type, of any content.
std::vector<double> totals(const Header& header) {
  return std::vector<double>(static_cast<size_t>(2 * header.cols), -1.0);
}

template <typename T>
struct Gradients {
  std::vector<T> dx, dweight, dbias;

  bool operator==(const Gradients& other) const {
    return same(dx, other.dx) && same(dweight, other.dweight) && same(dbias, other.dbias);
  }
  static bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
  }
};

// In one part; or the terms of the rows first, block by block, then the columns before `split` and those from there on.
template <typename T>
Gradients<T> gradients(const Header& header, fln_layer_norm_backward_args args, fln_layer_norm_backward kernel,
                       fln_layer_norm_backward_merge merge, int64_t split) {
  Gradients<T> result = {std::vector<T>(static_cast<size_t>(header.rows * header.cols)),
                         std::vector<T>(static_cast<size_t>(header.cols)),
                         std::vector<T>(static_cast<size_t>(header.cols))};
  std::vector<double> dweight = totals(header), dbias = totals(header);
  args.dx = result.dx.data();
  const ptrdiff_t rows = header.rows, cols = header.cols, block = FLN_BACKWARD_BLOCK_ROWS;
  fln_layer_norm_backward_part part = {0, rows, 0, cols, nullptr, dweight.data(), dbias.data(), 0};
  std::vector<T> terms(static_cast<size_t>((rows + block - 1) / block * block * FLN_BACKWARD_TERMS));
  if (split) {
    part.terms = terms.data();
    for (part.last_col = 0; part.first_row < rows; part.first_row += block) {
      part.last_row = part.first_row + block < rows ? part.first_row + block : rows;
      kernel(&args, &part);
    }
    part.first_row = 0;
    part.last_col = split;
    kernel(&args, &part);
    part.first_col = split;
    part.last_col = cols;
  }
  kernel(&args, &part);
  merge(dweight.data(), 1, cols, result.dweight.data());
  merge(dbias.data(), 1, cols, result.dbias.data());
  return result;
}

template <typename T>
bool backward(const Header& header, fln_layer_norm_backward kernel, fln_layer_norm_backward_merge merge) {
  const std::vector<T> x = read<T>(header.rows * header.cols);
  const std::vector<T> weight = read<T>(header.weight ? header.cols : 0);
  const std::vector<T> dy = read<T>(header.rows * header.cols);
  const std::vector<T> mean = read<T>(header.rows), rstd = read<T>(header.rows);
  const fln_layer_norm_backward_args args = {
      dy.data(), x.data(),    mean.data(), rstd.data(), header.weight ? weight.data() : nullptr,
      nullptr,   header.cols, header.cols, header.cols, header.cols,
      1,         header.rows};
  const Gradients<T> result = gradients<T>(header, args, kernel, merge, 0);
  for (const int64_t split : {header.cols / 3, header.cols - 1}) {
    if (split && !(gradients<T>(header, args, kernel, merge, split) == result)) return false;
  }
  write(result.dx);
  write(result.dweight);
  write(result.dbias);
  return true;
}

}  // namespace

int main() {
  const fln_kernels& kernels = KERNELS;
  Header header;
  while (std::fread(&header, sizeof header, 1, stdin) == 1) {
    const bool is_float = header.element == sizeof(float);
    bool good = true;
    if (header.operation == 0 && is_float) {
      good = forward<float>(header, {kernels.layer_norm_forward_f32, kernels.layer_norm_forward_sums_f32,
                                     kernels.layer_norm_forward_columns_f32});
    } else if (header.operation == 0) {
      good = forward<double>(header, {kernels.layer_norm_forward_f64, kernels.layer_norm_forward_sums_f64,
                                      kernels.layer_norm_forward_columns_f64});
    } else if (is_float) {
      good = backward<float>(header, kernels.layer_norm_backward_f32, kernels.layer_norm_backward_merge_f32);
    } else {
      good = backward<double>(header, kernels.layer_norm_backward_f64, kernels.layer_norm_backward_merge_f64);
    }
    if (!good) {
      std::fprintf(stderr, "bits depend on the columns of a part: rows %d, cols %d\n", static_cast<int>(header.rows),
                   static_cast<int>(header.cols));
      return 1;
    }
  }
  return 0;
}
