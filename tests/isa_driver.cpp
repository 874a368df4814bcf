// Runs the kernels of one ISA (the table KERNELS) on cases from standard input and writes the results to standard
// output, without Python: test_emulated.py builds it with kernels that this machine does not run, runs it under
// emulation and compares bits with AVX2.
//
// A case is 10 numbers (int64: direction, norm, element, rows, cols, has weight, has bias, round x_hat, has residual;
// double: eps), then
//   direction 0, forward:   x, residual, weight, bias; its result is y, sum, mean, rstd.
//   direction 1, backward:  x, weight, dy, ds, mean, rstd; its result is dx, dweight, dbias.
// A norm that has neither mean nor bias does without these and dbias; without a residual there are neither sum nor ds.
// Each call is made again in place and at another place in a line of the cache: that must change no bit, and touch
// nothing beside the result.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "fastln.h"

extern "C" const fln_kernels KERNELS;

namespace {

struct Header {
  int64_t direction, norm, element, rows, cols, weight, bias, round_x_hat, residual;
  double eps;
};

// Bytes of a number as it is stored, and as it is computed with.
struct Sizes {
  int64_t stored, computed;
};
constexpr Sizes SIZES[FLN_ELEMENTS] = {{4, 4}, {8, 8}, {2, 4}, {2, 4}};

bool has_mean(const Header& header) { return header.norm == FLN_LAYER_NORM; }

using Bytes = std::vector<char>;

Bytes room(int64_t count, int64_t size) { return Bytes(static_cast<size_t>(count * size)); }

Bytes read(int64_t count, int64_t size) {
  Bytes bytes = room(count, size);
  if (std::fread(bytes.data(), 1, bytes.size(), stdin) != bytes.size()) bytes.clear();
  return bytes;
}

void write(const Bytes& bytes) { std::fwrite(bytes.data(), 1, bytes.size(), stdout); }

// A copy of an array, of which the first number stands `place` bytes into a line of the cache, and what nobody may
// touch on either side.
class Moved {
 public:
  Moved(const Bytes& array, int64_t place) : size(array.size()), bytes(size + 3 * LINE, GUARD) {
    const size_t into = reinterpret_cast<uintptr_t>(bytes.data()) % LINE;
    before = LINE + (LINE - into) % LINE + static_cast<size_t>(place);
    std::memcpy(start(), array.data(), size);
  }
  void* start() { return bytes.data() + before; }

  // Whether it holds this now, and nothing else has changed.
  bool is(const Bytes& array) {
    Bytes expected(bytes.size(), GUARD);
    std::memcpy(expected.data() + before, array.data(), size);
    return bytes == expected;
  }

 private:
  static constexpr size_t LINE = 64;
  static constexpr char GUARD = 0x5a;
  size_t size, before;
  Bytes bytes;
};

// The sums of x and residual first, if there is one, then segments, then columns from the back, which must not depend
// on those before.
void by_columns(fln_forward_args args, int64_t rows, const fln_element_kernels& element,
                const fln_norm_kernels& kernels) {
  for (ptrdiff_t row = 0; args.residual && row < rows; ++row) {
    element.add(&args, row, args.cols / 3, args.cols);
    element.add(&args, row, 0, args.cols / 3);
  }
  if (args.residual) {
    args.residual = nullptr;
    args.x = args.sum;
    args.x_stride = args.sum_stride;
  }
  const ptrdiff_t segments = (args.cols + FLN_FORWARD_SEGMENT_COLS - 1) / FLN_FORWARD_SEGMENT_COLS;
  std::vector<double> sums(static_cast<size_t>(segments * FLN_FORWARD_SUMS));
  for (ptrdiff_t row = 0; row < rows; ++row) {
    for (ptrdiff_t i = segments; i-- > 0;) kernels.forward_sums(&args, row, i, sums.data() + i * FLN_FORWARD_SUMS);
    kernels.forward_columns(&args, row, sums.data(), args.cols / 3, args.cols);
    kernels.forward_columns(&args, row, sums.data(), 0, args.cols / 3);
  }
}

bool forward(const Header& header, Sizes size, const fln_element_kernels& element) {
  const fln_norm_kernels& kernels = element.norms[header.norm];
  const int64_t rows = header.rows, cols = header.cols, added = header.residual ? rows * cols : 0;
  const Bytes x = read(rows * cols, size.stored), residual = read(added, size.stored);
  const Bytes weight = read(header.weight ? cols : 0, size.computed);
  const Bytes bias = read(header.bias ? cols : 0, size.computed);
  Bytes y = room(rows * cols, size.stored), rstd = room(rows, size.computed);
  Bytes mean = room(has_mean(header) ? rows : 0, size.computed), sum = room(added, size.stored);
  fln_forward_args args = {};
  args.x = x.data();
  args.residual = header.residual ? residual.data() : nullptr;
  args.sum = sum.data();
  args.y = y.data();
  args.weight = header.weight ? weight.data() : nullptr;
  args.bias = header.bias ? bias.data() : nullptr;
  args.mean = has_mean(header) ? mean.data() : nullptr;
  args.rstd = rstd.data();
  args.x_stride = args.residual_stride = args.sum_stride = args.y_stride = args.cols = cols;
  args.eps = header.eps;
  args.stream = 1;
  args.round_x_hat = static_cast<int>(header.round_x_hat);
  kernels.forward(&args, 0, rows);
  for (const int64_t place : {size.stored, 32 - size.stored}) {
    Moved moved(x, place), stream(residual, place);
    fln_forward_args in_place = args;
    in_place.x = in_place.y = moved.start();
    if (args.residual) in_place.residual = in_place.sum = stream.start();
    kernels.forward(&in_place, 0, rows);
    if (!moved.is(y) || (args.residual && !stream.is(sum))) return false;
  }
  if (cols > FLN_FORWARD_SEGMENT_COLS) {
    Bytes again = room(rows * cols, size.stored), sum_again = room(added, size.stored);
    args.y = again.data();
    args.sum = sum_again.data();
    by_columns(args, rows, element, kernels);
    if (again != y || sum_again != sum) return false;
  }
  write(y);
  write(sum);
  write(mean);
  write(rstd);
  return true;
}

struct Gradients {
  Bytes dx, dweight, dbias;

  bool operator==(const Gradients& other) const {
    return dx == other.dx && dweight == other.dweight && dbias == other.dbias;
  }
};

// Chunk by chunk, the last one first; or, where `split` > 0, the terms of the rows first, block by block, then the
// columns before `split` and those from there on.
Gradients gradients(const Header& header, Sizes size, fln_backward_args args, const fln_element_kernels& element,
                    int64_t split) {
  const fln_norm_kernels& kernels = element.norms[header.norm];
  fln_backward_parts parts;
  element.divide(header.rows, header.cols, &parts);
  Gradients result = {room(header.rows * header.cols, size.stored), room(header.cols, size.computed),
                      room(has_mean(header) ? header.cols : 0, size.computed)};
  std::vector<double> dweight(static_cast<size_t>(parts.chunks * parts.totals), -1.0), dbias(dweight);
  std::vector<double> terms(parts.terms / sizeof(double) + 1);
  if (!args.dx) args.dx = result.dx.data();
  args.dweight = result.dweight.data();
  args.dbias = has_mean(header) ? result.dbias.data() : nullptr;
  args.dweight_totals = dweight.data();
  args.dbias_totals = dbias.data();
  args.terms = terms.data();
  if (split) {
    for (ptrdiff_t block = 0; block < parts.blocks; ++block) kernels.backward_terms(&args, block);
  }
  for (ptrdiff_t chunk = parts.chunks; chunk-- > 0;) {
    if (split) {
      kernels.backward_columns(&args, chunk, 0, split);
      kernels.backward_columns(&args, chunk, split, header.cols);
    } else {
      kernels.backward(&args, chunk);
    }
  }
  element.merge(&args);
  if (args.dx != result.dx.data()) std::memcpy(result.dx.data(), args.dx, result.dx.size());
  return result;
}

bool backward(const Header& header, Sizes size, const fln_element_kernels& element) {
  const int64_t rows = header.rows, cols = header.cols;
  const Bytes x = read(rows * cols, size.stored);
  const Bytes weight = read(header.weight ? cols : 0, size.computed);
  const Bytes dy = read(rows * cols, size.stored), ds = read(header.residual ? rows * cols : 0, size.stored);
  const Bytes mean = read(has_mean(header) ? rows : 0, size.computed), rstd = read(rows, size.computed);
  fln_backward_args args = {};
  args.dy = dy.data();
  args.ds = header.residual ? ds.data() : nullptr;
  args.x = x.data();
  args.mean = has_mean(header) ? mean.data() : nullptr;
  args.rstd = rstd.data();
  args.weight = header.weight ? weight.data() : nullptr;
  args.dy_stride = args.ds_stride = args.x_stride = args.dx_stride = args.cols = cols;
  args.rows = rows;
  args.stream = 1;
  const Gradients result = gradients(header, size, args, element, 0);
  for (const int64_t split : {cols / 3, cols - 1}) {
    if (split && !(gradients(header, size, args, element, split) == result)) return false;
  }
  for (const Bytes* const replaced : {&dy, &x, &ds}) {
    if (replaced->empty()) continue;
    Moved moved(*replaced, size.stored);
    fln_backward_args in_place = args;
    (replaced == &dy ? in_place.dy : replaced == &x ? in_place.x : in_place.ds) = in_place.dx = moved.start();
    if (!(gradients(header, size, in_place, element, 0) == result && moved.is(result.dx))) return false;
  }
  write(result.dx);
  write(result.dweight);
  write(result.dbias);
  return true;
}

}  // namespace

int main() {
  Header header;
  while (std::fread(&header, sizeof header, 1, stdin) == 1) {
    const fln_element_kernels& element = KERNELS.elements[header.element];
    const Sizes size = SIZES[header.element];
    const bool good = header.direction == 0 ? forward(header, size, element) : backward(header, size, element);
    if (!good) {
      std::fprintf(stderr, "bits depend on the columns of a call or on the place of its result: rows %d, cols %d\n",
                   static_cast<int>(header.rows), static_cast<int>(header.cols));
      return 1;
    }
  }
  return 0;
}
