// Runs the kernels of recurrence (src/cells) on the registers of one ISA, without Python: products of many shapes,
// taken in ways that must not change a bit, and for each cell three steps and their gradients. test_cells.py builds it
// for each ISA with an fma. It prints which ways differ, and a checksum of all results for each type.
#include <cstdio>
#include <vector>

#include "fastln.h"
#include "target.h"

#ifdef ISA_FEATURES
FLN_TARGET_BEGIN(ISA_FEATURES)
#endif
namespace {
#include ISA_HEADER
#include "kernels.h"

template <typename T>
constexpr fln_recurrence_kernels RECURRENCE = recurrence_kernels<T>();
}  // namespace
#ifdef ISA_FEATURES
FLN_TARGET_END
#endif

namespace {

int failed = 0;

void check(bool good, const char* what, ptrdiff_t a, ptrdiff_t b, ptrdiff_t c) {
  if (good) return;
  ++failed;
  std::printf("%s: %d %d %d\n", what, static_cast<int>(a), static_cast<int>(b), static_cast<int>(c));
}

// Numbers around 0, always the same ones.
template <typename T>
std::vector<T> numbers(ptrdiff_t count, uint64_t state) {
  std::vector<T> all(static_cast<size_t>(count));
  for (T& number : all) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    number = static_cast<T>(static_cast<double>(state >> 40) * 0x1p-23 - 1);
  }
  return all;
}

struct Checksum {
  uint64_t bits = 14695981039346656037u;

  template <typename T>
  void add(const std::vector<T>& all) {
    for (T number : all) {
      uint64_t word = 0;
      std::memcpy(&word, &number, sizeof number);
      bits = (bits ^ word) * 1099511628211u;
    }
  }
};

// Places of rows `stride` numbers apart, in the order from the last to the first if `turned`.
template <typename P, typename T>
std::vector<P> places(T* start, ptrdiff_t rows, ptrdiff_t stride) {
  std::vector<P> all;
  for (ptrdiff_t r = 0; r < rows; ++r) all.push_back(start + r * stride);
  return all;
}

// Panels, aligned as they must be.
template <typename T>
struct Panels {
  std::vector<T> room;
  T* start;
  ptrdiff_t count;

  Panels(ptrdiff_t depth, ptrdiff_t cols) {
    const size_t lanes = FLN_PANEL_BYTES / sizeof(T);
    count = (cols + static_cast<ptrdiff_t>(lanes) - 1) / static_cast<ptrdiff_t>(lanes);
    room.assign(static_cast<size_t>(depth * count + 1) * lanes, static_cast<T>(HUGE_VAL));
    start = room.data();
    while (reinterpret_cast<uintptr_t>(start) % FLN_PANEL_BYTES != 0) ++start;
  }
};

// a (rows, depth) times the columns b (cols, depth).
template <typename T>
struct Product {
  ptrdiff_t rows, depth, cols;
  std::vector<T> a, b;
  Panels<T> panels;

  Product(ptrdiff_t r, ptrdiff_t d, ptrdiff_t c)
      : rows(r), depth(d), cols(c), a(numbers<T>(r * d, 1)), b(numbers<T>(c * d, 2)), panels(d, c) {
    RECURRENCE<T>.pack_columns(b.data(), depth, cols, panels.start, 0, panels.count);
  }

  // Rows from `first` on, panels from and to `middle` apart.
  void run(std::vector<T>& out, ptrdiff_t first, ptrdiff_t count, ptrdiff_t middle, int adds = 0) {
    const auto from = places<const void*>(a.data() + first * depth, count, depth);
    const auto to = places<void*>(out.data() + first * cols, count, cols);
    const fln_product_args args = {from.data(), to.data(), panels.start, 1, count, depth, cols, adds};
    RECURRENCE<T>.product(&args, middle, panels.count);
    RECURRENCE<T>.product(&args, 0, middle);
  }

  void check_all(Checksum& checksum) {
    const size_t size = static_cast<size_t>(rows * cols);
    std::vector<T> all(size), apart(size), columns(size), twice(size);
    run(all, 0, rows, 0);
    for (ptrdiff_t r = 0; r < rows; ++r) run(apart, r, 1, panels.count / 2);
    check(all == apart, "rows one by one", rows, depth, cols);
    // The rows of a as columns of another array, the matrix packed by its rows.
    std::vector<T> turned(a.size()), by_rows(b.size());
    for (ptrdiff_t k = 0; k < depth; ++k) {
      for (ptrdiff_t r = 0; r < rows; ++r)
        turned[static_cast<size_t>(k * rows + r)] = a[static_cast<size_t>(r * depth + k)];
      for (ptrdiff_t c = 0; c < cols; ++c)
        by_rows[static_cast<size_t>(k * cols + c)] = b[static_cast<size_t>(c * depth + k)];
    }
    Panels<T> others(depth, cols);
    RECURRENCE<T>.pack_rows(places<const void*>(by_rows.data(), depth, cols).data(), depth, cols, others.start, 0,
                            others.count);
    const auto from = places<const void*>(turned.data(), rows, 1);
    const auto to = places<void*>(columns.data(), rows, cols);
    const fln_product_args args = {from.data(), to.data(), others.start, rows, rows, depth, cols, 0};
    RECURRENCE<T>.product(&args, 0, others.count);
    check(all == columns, "by columns", rows, depth, cols);
    run(twice, 0, rows, 0, 1);
    check(all == twice, "added to zeros", rows, depth, cols);
    for (size_t i = 0; i < size; ++i) {
      long double sum = 0, most = 0;
      for (ptrdiff_t k = 0; k < depth; ++k) {
        const long double term =
            static_cast<long double>(
                a[i / static_cast<size_t>(cols) * static_cast<size_t>(depth) + static_cast<size_t>(k)]) *
            b[i % static_cast<size_t>(cols) * static_cast<size_t>(depth) + static_cast<size_t>(k)];
        sum += term;
        most += std::fabs(term);
      }
      const long double bound = static_cast<long double>(std::numeric_limits<T>::epsilon()) * 16 * (most + 1);
      check(std::fabs(all[i] - sum) <= bound, "accuracy", rows, depth, cols);
    }
    checksum.add(all);
  }
};

// Three steps of a cell over a batch of BATCH, of which the second concerns two sequences and the third one, and the
// gradients of all of them.
template <typename T>
struct Cell {
  static constexpr ptrdiff_t BATCH = 3, STEPS = 3, ROWS = 6;
  fln_cell which;
  ptrdiff_t hidden, gates;
  std::vector<T> h, c, y, gx, gh, kept, inner, stats, bias, weight, room;
  ptrdiff_t order[BATCH] = {2, 0, 1};
  std::vector<T> h0, c0;

  Cell(fln_cell cell, ptrdiff_t units) : which(cell), hidden(units) {
    gates = (cell == FLN_RNN ? 1 : cell == FLN_LSTM ? 4 : 3) * hidden;
    h0 = h = numbers<T>(BATCH * hidden, 3);
    c0 = c = numbers<T>(BATCH * hidden, 4);
    y = numbers<T>(STEPS * BATCH * hidden, 5);
    gx = numbers<T>(ROWS * gates, 6);
    gh = numbers<T>(ROWS * gates, 7);
    kept = numbers<T>(ROWS * gates, 8);
    inner = numbers<T>(ROWS * hidden, 9);
    stats = numbers<T>(2 * FLN_CELL_NORMS * ROWS, 10);
    bias = numbers<T>(gates, 11);
    weight = numbers<T>(2 * gates, 12);
    room.assign(static_cast<size_t>(RECURRENCE<T>.cells[cell].room(hidden)), static_cast<T>(HUGE_VAL));
  }

  fln_cell_parameters parameters(int option) const {
    const void *w = weight.data(), *b = weight.data() + gates;
    return {bias.data(), {w, w, w}, {b, b, b}, hidden, 1e-5, option, option};
  }
  fln_cell_rows rows(ptrdiff_t first) {
    fln_cell_rows at = {};
    at.gx = gx.data() + first * gates;
    at.gh = gh.data() + first * gates;
    at.gates = kept.data() + first * gates;
    at.inner = inner.data() + first * hidden;
    for (int k = 0; k < FLN_CELL_NORMS; ++k) {
      at.mean[k] = stats.data() + 2 * k * ROWS + first;
      at.rstd[k] = stats.data() + (2 * k + 1) * ROWS + first;
    }
    return at;
  }

  void run(int option, Checksum& checksum) {
    const ptrdiff_t first[STEPS + 1] = {0, 3, 5, 6};
    for (int step = 0; step < STEPS; ++step) {
      fln_step_args args = {parameters(option), rows(first[step]), order,  h.data(),
                            c.data(),           nullptr,           hidden, room.data()};
      args.y = y.data() + step * BATCH * hidden;
      for (ptrdiff_t r = first[step + 1] - first[step]; r-- > 0;) RECURRENCE<T>.cells[which].step(&args, r, r + 1);
    }
    for (const auto* results : {&h, &c, &y, &kept, &inner, &stats}) checksum.add(*results);
    std::vector<T> dh = numbers<T>(BATCH * hidden, 13), dc = numbers<T>(BATCH * hidden, 14);
    const std::vector<T> dy = numbers<T>(STEPS * BATCH * hidden, 15);
    std::vector<T> dih(gx.size()), dhh(gx.size()), dgh(gx.size()), dinner(inner.size());
    for (int step = STEPS; step-- > 0;) {
      fln_step_gradient_args args = {};
      args.cell = parameters(option);
      args.rows = rows(first[step]);
      args.order = order;
      args.y = y.data() + step * BATCH * hidden;
      if (step > 0) {
        args.before_y = y.data() + (step - 1) * BATCH * hidden;
        args.before_inner = inner.data() + first[step - 1] * hidden;
        args.before_rows = first[step] - first[step - 1];
      }
      args.h0 = h0.data();
      args.c0 = c0.data();
      args.dy = dy.data() + step * BATCH * hidden;
      args.y_stride = args.dy_stride = hidden;
      args.dh = dh.data();
      args.dc = dc.data();
      args.dih = dih.data() + first[step] * gates;
      args.dhh = dhh.data() + first[step] * gates;
      args.dgh = dgh.data() + first[step] * gates;
      args.dinner = dinner.data() + first[step] * hidden;
      args.stride = gates;
      args.room = room.data();
      RECURRENCE<T>.cells[which].step_gradients(&args, 0, first[step + 1] - first[step]);
    }
    for (const auto* results : {&dh, &dc, &dih, &dhh, &dgh, &dinner}) checksum.add(*results);
  }
};

template <typename T>
void check_type(const char* name) {
  Checksum checksum;
  const ptrdiff_t lanes = FLN_PANEL_BYTES / static_cast<ptrdiff_t>(sizeof(T));
  Product<T>(1, 1, 1).check_all(checksum);
  Product<T>(2, 255, 3 * lanes).check_all(checksum);
  Product<T>(3, 256, 4 * lanes + 1).check_all(checksum);
  Product<T>(8, 257, 7 * lanes).check_all(checksum);
  Product<T>(13, 520, 6 * lanes - 1).check_all(checksum);
  for (fln_cell cell : {FLN_RNN, FLN_LSTM, FLN_GRU}) {
    for (ptrdiff_t hidden : {1, 7, 90}) Cell<T>(cell, hidden).run(hidden == 7, checksum);
  }
  std::printf("%s %016llx\n", name, static_cast<unsigned long long>(checksum.bits));
}

}  // namespace

int main() {
  check_type<float>("float32");
  check_type<double>("float64");
  return failed != 0;
}
