// Runs the NEON kernels on cases from standard input and writes the results to standard output, without Python:
// test_neon.py builds it with a cross compiler, runs it under emulation and compares bits with another ISA.
//
// A case is 6 numbers (int64: size of an element, rows, cols, has weight, has bias; double: eps), then x, weight, bias.
// Its result is y, mean, rstd.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "fastln.h"

extern "C" const fln_kernels fln_kernels_neon;

namespace {

struct Header {
  int64_t element, rows, cols, weight, bias;
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

template <typename T>
void run(const Header& header, fln_layer_norm_forward kernel) {
  const std::vector<T> x = read<T>(header.rows * header.cols);
  const std::vector<T> weight = read<T>(header.weight ? header.cols : 0);
  const std::vector<T> bias = read<T>(header.bias ? header.cols : 0);
  std::vector<T> y(x.size()), mean(static_cast<size_t>(header.rows)), rstd(mean.size());
  const fln_layer_norm_forward_args args = {x.data(),    y.data(),    header.weight ? weight.data() : nullptr,
                                            header.bias ? bias.data() : nullptr,
                                            mean.data(), rstd.data(), header.cols,
                                            header.cols, header.cols, header.eps};
  kernel(&args, 0, header.rows);
  write(y);
  write(mean);
  write(rstd);
}

}  // namespace

int main() {
  Header header;
  while (std::fread(&header, sizeof header, 1, stdin) == 1) {
    if (header.element == sizeof(float)) {
      run<float>(header, fln_kernels_neon.layer_norm_forward_f32);
    } else {
      run<double>(header, fln_kernels_neon.layer_norm_forward_f64);
    }
  }
  return 0;
}
