// y = (x - mean) * rstd * weight + bias over each row, rstd = 1 / sqrt(var + eps); of RMS norm y = x * rstd * weight.
// Ba, Kiros and Hinton, "Layer Normalization" (2016), arXiv:1607.06450, equation 4.
#pragma once

#include "../rows/range.h"
#include "../rows/residual.h"
#include "../rows/scale.h"

// Rows are taken in groups where they are short, so that the work per row counts, or so long that weight and bias would
// push them out of L1, and by two in between where they are near. One row after the other is one stream of loads and
// one of stores, which is what counts where they come from memory. Measured (one thread): on Zen 4 groups of 4 against
// single rows, times of a copy, float32: 131072x16 3.6 against 7.3, 256x8192 2.1 against 2.35, 4096x768 2.3
// against 1.1, 256x4096 2.8 against 2.4; pairs 128x768 1.39 against 1.62, 4096x768 2.9 against 1.1. On Zen 3, of the
// time of the others: pairs 16x400 float32 0.89, 16x384 float64 0.92, but rows of whole pages 1.02 to 1.12; groups of 4
// where 65536x100 float64 is not streamed 2.1, 12000x100 1.7, but 4096x100 0.68, 20000x100 float32 0.77.
constexpr size_t GROUPS_UP_TO = 1024, PAIRS_BELOW = 4096, GROUPS_FROM = 32768;  // bytes a row
constexpr size_t NEAR_BYTES = 2 << 20, FAR_BYTES = 16 << 20;                    // of the x and y of a thread

// So many short rows at a time, where the ISA gains by it (MANY_UP_TO): the roots and divisions of all of them come one
// after another, behind other work, and it is known whether rows are cut short. Zen 3, of the time of groups of 4:
// 1024x16 float32 0.69 (8 rows at a time 0.74), 1024x8 float64 0.58, 1000x40 float32 0.73 (16 at a time 0.84), 65536x32
// from memory 0.86 to 1.02 (16 at a time 1.02 to 1.16), streamed 0.67.
template <typename T, int VECS>
constexpr int MANY_ROWS = VECS > 1 ? 8 : LANES<T>;

// Where a segment leaves the shift among its FLN_FORWARD_SUMS numbers: after the two totals.
constexpr int SHIFT_PLACE = 2 * LANES<double>;
static_assert(FLN_FORWARD_SUMS == SHIFT_PLACE + 1, "as the caller allocates");

template <typename S, typename Norm, bool WEIGHT, bool BIAS>
struct Forward {
  using T = Computed<S>;
  const fln_forward_args& args;
  const ptrdiff_t cols = args.cols;
  const double inv_cols = 1.0 / static_cast<double>(cols);
  const Affine<S, WEIGHT, BIAS> affine = {static_cast<const T*>(args.weight), static_cast<const T*>(args.bias),
                                          args.round_x_hat != 0};

  // From a row on.
  FLN_INLINE Stored<S> x(ptrdiff_t row) const {
    return {static_cast<const S*>(args.x) + row * args.x_stride, args.x_stride};
  }
  FLN_INLINE Written<S> y(ptrdiff_t row) const {
    return {static_cast<S*>(args.y) + row * args.y_stride, args.y_stride};
  }
  FLN_INLINE T* mean(ptrdiff_t row) const {
    return Norm::HAS_MEAN && args.mean ? static_cast<T*>(args.mean) + row : nullptr;
  }
  FLN_INLINE T* rstd(ptrdiff_t row) const { return args.rstd ? static_cast<T*>(args.rstd) + row : nullptr; }

  template <int ROWS>
  FLN_INLINE RowScales<Norm, T, ROWS> scales_of(ptrdiff_t row, const Moments<Norm, T, ROWS>& m) const {
    const RowScales<Norm, T, ROWS> scales = RowScales<Norm, T, ROWS>::of(m, args.eps);
    write_stats(row, m, scales);
    return scales;
  }
  template <int ROWS>
  FLN_INLINE void write_stats(ptrdiff_t row, const Moments<Norm, T, ROWS>& m,
                              const RowScales<Norm, T, ROWS>& scales) const {
    if (mean(row)) write(m.mean(), mean(row));
    if (args.rstd) {
      for (int r = 0; r < ROWS; ++r) rstd(row)[r] = scales.rstd[r];
    }
  }

  // A row that may be anything.
  template <typename Row>
  __attribute__((noinline)) void any_row(ptrdiff_t row) const {
    const Moments<Norm, T, 1> m = centered_moments<Row>(x(row), cols, inv_cols);
    const bool in_range = m.is_in_range();
    if (!in_range && !is_flat<Norm>(x(row), cols)) {
      return rescaled_row<Row>(x(row), y(row).start, cols, inv_cols, args.eps, affine, mean(row), rstd(row));
    }
    RowScales<Norm, T, 1> scales = scales_of(row, m);
    // x_hat of a flat row is 0, even where 1 / sqrt(eps) is past the range of T. With eps = 0 it is 0 * Inf.
    if (!in_range && args.eps > 0) scales.rstd[0] = 0;
    normalize<1, false>(x(row), y(row), cols, scales, affine);
  }

  // ROWS rows at a time, as far as they go; returns the first row that is left. While one group is normalized, the
  // next one's sums are under way: the latency of its reductions, root and division is hidden behind that. Of short
  // rows, the shift is found one group earlier still, so that nothing in an iteration waits for anything else in it.
  // Without `ahead`, each group is taken to its end before anything of the next is read: for long rows that come from
  // memory, where that breaks the stream of loads (2048x1024 float32 0.86 of the time).
  // A group is taken together if its rows are as rows mostly are, else one by one; the bits are the same.
  // Of more than GROUP rows, which are short ones, what is found for each is passed on through memory: a load puts a
  // number in all lanes for nothing, taking it out of a register costs a shuffle.
  template <typename Row, int ROWS, bool STREAM>
  __attribute__((noinline)) ptrdiff_t groups(ptrdiff_t row, ptrdiff_t last, bool ahead, Seams<S>& seams) const {
    RowScales<Norm, T, ROWS> scales;
    Moments<Norm, T, ROWS> m, next;
    ptrdiff_t ready = -1;  // the group that `scales` belongs to
    if (ahead && row + ROWS <= last) find_shift<Row>(next, x(row), cols, inv_cols);
    for (; row + ROWS <= last; row += ROWS) {
      if (ahead) {
        for (int r = 0; r < ROWS; ++r) m.shift[r] = next.shift[r];
        if constexpr (ROWS > GROUP && Norm::HAS_MEAN) keep_in_memory(m.shift);
      } else {
        find_shift<Row>(m, x(row), cols, inv_cols);
      }
      const bool more = ahead && row + 2 * ROWS <= last;
      if (Row::is_short && more) find_shift<Row>(next, x(row + ROWS), cols, inv_cols);
      find_moments<Row>(m, x(row), cols, inv_cols);
      if (Row::is_short && ready >= 0) normalize_group<Row, STREAM>(ready, scales, seams);
      if (m.is_centered() & m.is_in_range()) {
        scales = scales_of(row, m);
        if constexpr (ROWS > GROUP) keep_in_memory(scales);
        ready = row;
      } else {
        if (STREAM) seams.close();
        for (int r = 0; r < ROWS; ++r) any_row<typename Row::Any>(row + r);
        ready = -1;
      }
      if (Row::is_short) continue;
      if (more) find_shift<Row>(next, x(row + ROWS), cols, inv_cols);
      if (ready >= 0) normalize_group<Row, STREAM>(ready, scales, seams);
    }
    if (Row::is_short && ready >= 0) normalize_group<Row, STREAM>(ready, scales, seams);
    return row;
  }

  template <typename Row, bool STREAM, int ROWS>
  FLN_INLINE void normalize_group(ptrdiff_t row, const RowScales<Norm, T, ROWS>& scales, Seams<S>& seams) const {
    if constexpr (ROWS > GROUP) {
      normalize_short<Row, STREAM>(x(row), y(row), cols, scales, affine);
    } else {
      normalize<ROWS, STREAM>(x(row), y(row), cols, scales, affine, &seams);
    }
  }

  template <int VECS, bool WHOLE, bool STREAM>
  FLN_INLINE ptrdiff_t many_short_rows(ptrdiff_t row, ptrdiff_t last, Seams<S>& seams) const {
    if constexpr (VECS <= MANY_UP_TO<T, WHOLE>) {
      if (row + MANY_ROWS<T, VECS> <= last) {
        row = groups<ShortRow<T, Norm, VECS, WHOLE>, MANY_ROWS<T, VECS>, STREAM>(row, last, true, seams);
      }
    }
    return row;
  }

  template <typename Row, bool STREAM = false>
  FLN_INLINE void rows(ptrdiff_t row, ptrdiff_t last) const {
    const size_t size = static_cast<size_t>(cols) * sizeof(S);
    const size_t all = 2 * size * static_cast<size_t>(last - row);
    const bool ahead = Row::is_short || STREAM || all <= NEAR_BYTES;
    Seams<S> seams;
    if (STREAM ? size <= GROUPS_UP_TO && cols % LINE_COLS<S> == 0
               : Row::is_short || (all <= FAR_BYTES && size <= GROUPS_UP_TO) || size >= GROUPS_FROM) {
      if constexpr (Row::is_short) {
        if (cols == Row::VECS * LANES<T>) {
          row = many_short_rows<Row::VECS, true, STREAM>(row, last, seams);
        } else if constexpr (!STREAM && HAS_ALL_WAYS<S>) {
          row = many_short_rows<Row::VECS, false, false>(row, last, seams);
        }
      }
      row = groups<Row, GROUP, STREAM>(row, last, ahead, seams);
    } else if constexpr (!STREAM && !Row::is_short) {
      if (row + 2 <= last && all <= NEAR_BYTES && size < PAIRS_BELOW) {
        row = groups<Row, 2, STREAM>(row, last, ahead, seams);
      }
    }
    groups<Row, 1, STREAM>(row, last, ahead, seams);
    if (STREAM) {
      seams.close();
      stream_fence();
    }
  }

  // Streaming reads ahead and joins the ends of rows: for arrays in one piece.
  FLN_INLINE bool wants_stream(ptrdiff_t first) const {
    return args.stream && args.x_stride == cols && args.y_stride == cols && can_stream(y(first).start, cols);
  }

  // What a segment of a long row adds to its sums, and the shift, since x may be gone when the sums are used (y == x).
  void find_sums(ptrdiff_t row, ptrdiff_t segment, double* sums) const {
    const ptrdiff_t first = segment * SEGMENT_COLS, left = cols - first;
    Moments<Norm, T, 1> m;
    find_shift<LongRow<T, Norm>>(m, x(row), cols, inv_cols);
    LongRow<T, Norm>::segment(x(row).from(first), left < SEGMENT_COLS ? left : SEGMENT_COLS, m.shift[0]).store(sums);
    sums[SHIFT_PLACE] = m.shift[0];
  }

  // Columns [first, last) of a long row, from the sums of its segments. A row that is not as rows mostly are is done
  // whole by the caller of its first columns.
  void some_columns(ptrdiff_t row, const double* sums, ptrdiff_t first, ptrdiff_t last) const {
    const Moments<Norm, T, 1> m = moments_of(sums);
    if (!(m.is_centered() & m.is_in_range())) {
      if (first == 0) any_row<LongRow<T, Norm>>(row);
      return;
    }
    const RowScales<Norm, T, 1> scales = RowScales<Norm, T, 1>::of(m, args.eps);
    if (first == 0) write_stats(row, m, scales);
    if constexpr (CAN_STREAM<S>) {
      const bool can = can_stream(y(row).start + first, last - first);
      if (can && wants_stream(row)) return columns<true>(row, first, last, scales);
    }
    columns<false>(row, first, last, scales);
  }
  FLN_INLINE Moments<Norm, T, 1> moments_of(const double* sums) const {
    using RowTotals = typename LongRow<T, Norm>::RowTotals;
    RowTotals totals = RowTotals::load(sums);
    for (ptrdiff_t i = SEGMENT_COLS; i < cols; i += SEGMENT_COLS) {
      totals.add(RowTotals::load(sums + i / SEGMENT_COLS * FLN_FORWARD_SUMS));
    }
    const auto lanes = totals.folded();
    double row_sums[MOMENT_SUMS<Norm>][1];
    for (int k = 0; k < MOMENT_SUMS<Norm>; ++k) row_sums[k][0] = lanes.of[k].sum();
    Moments<Norm, T, 1> m;
    m.shift[0] = static_cast<T>(sums[SHIFT_PLACE]);
    m.set(row_sums, inv_cols);
    return m;
  }
  template <bool STREAM>
  FLN_INLINE void columns(ptrdiff_t row, ptrdiff_t first, ptrdiff_t last, const RowScales<Norm, T, 1>& scales) const {
    Seams<S> seams;
    const Written<S> to = {y(row).start + first, 0};
    normalize<1, STREAM>(x(row).from(first), to, last - first, scales, affine.from(first), &seams);
    if (STREAM) {
      seams.close();
      stream_fence();
    }
  }

  // Short rows are streamed if they are whole lines (131072x16 float64 0.9 of the time, 65536x64 float32 0.84): the cut
  // at a line's end would make two registers out of few (65536x64 twice as long).
  template <typename Row>
  FLN_INLINE void rows_as_they_lie(ptrdiff_t first, ptrdiff_t last) const {
    if constexpr (CAN_STREAM<S> && (HAS_ALL_WAYS<S> || !Row::is_short)) {
      const bool can = !Row::is_short || is_whole_lines(y(first).start, cols);
      if (can && wants_stream(first)) return rows<Row, true>(first, last);
    }
    rows<Row>(first, last);
  }

  FLN_INLINE void long_rows(ptrdiff_t first, ptrdiff_t last) const { rows_as_they_lie<LongRow<T, Norm>>(first, last); }

  // Of rows of one register the work is more than the traffic (262144x16 float32 1.05 times as long if streamed).
  FLN_INLINE void short_rows(ptrdiff_t first, ptrdiff_t last) const {
    switch ((cols + LANES<T> - 1) / LANES<T>) {
      case 1:
        return rows<ShortRow<T, Norm, 1>>(first, last);
      case 2:
        return rows_as_they_lie<ShortRow<T, Norm, 2>>(first, last);
      case 3:
        return rows_as_they_lie<ShortRow<T, Norm, 3>>(first, last);
      default:
        return rows_as_they_lie<ShortRow<T, Norm, 4>>(first, last);
    }
  }
};

// work(kernel) with the kernel for long rows of the parameters that are there. There is none for a bias without a
// weight; of numbers that are widened, all parameters are there.
template <typename S, typename Norm, typename Work>
FLN_INLINE void with_parameters(const fln_forward_args& args, Work work) {
  if constexpr (HAS_ALL_WAYS<S>) {
    if (!args.weight) return work(Forward<S, Norm, false, false>{args});
    if (Norm::HAS_BIAS && !args.bias) return work(Forward<S, Norm, true, false>{args});
  }
  work(Forward<S, Norm, true, Norm::HAS_BIAS>{args});
}

template <typename S, typename Norm>
void forward(const fln_forward_args* args, ptrdiff_t first, ptrdiff_t last);

// Short rows have kernels for all parameters only, since they have many: of what is missing, something stands in that
// changes no bit. x_hat * 1 is x_hat, and what -0 is added to stays as it is, 0 and -0 too.
template <typename S, typename Norm>
__attribute__((noinline)) void short_rows_with_stand_ins(fln_forward_args args, ptrdiff_t first, ptrdiff_t last) {
  using T = Computed<S>;
  T ones[STEP<T>], zeros[STEP<T>];
  for (ptrdiff_t i = 0; i < STEP<T>; ++i) ones[i] = 1, zeros[i] = -static_cast<T>(0);
  if (!args.weight) args.weight = ones;
  if (!args.bias) args.bias = zeros;
  forward<S, Norm>(&args, first, last);
}

struct LongRows {
  ptrdiff_t first, last;
  template <typename Kernel>
  FLN_INLINE void operator()(Kernel kernel) const {
    kernel.long_rows(first, last);
  }
};

struct SomeColumns {
  ptrdiff_t row;
  const double* sums;
  ptrdiff_t first, last;
  template <typename Kernel>
  FLN_INLINE void operator()(Kernel kernel) const {
    kernel.some_columns(row, sums, first, last);
  }
};

template <typename S, typename Norm>
void forward(const fln_forward_args* args, ptrdiff_t first, ptrdiff_t last) {
  if (args->residual) return forward_of_sums<S>(*args, forward<S, Norm>, first, last);
  if (args->cols > STEP<Computed<S>>) return with_parameters<S, Norm>(*args, LongRows{first, last});
  if constexpr (HAS_ALL_WAYS<S>) {
    if (!args->weight || (Norm::HAS_BIAS && !args->bias)) return short_rows_with_stand_ins<S, Norm>(*args, first, last);
  }
  Forward<S, Norm, true, Norm::HAS_BIAS>{*args}.short_rows(first, last);
}

template <typename S, typename Norm>
void forward_sums(const fln_forward_args* args, ptrdiff_t row, ptrdiff_t segment, double* sums) {
  Forward<S, Norm, false, false>{*args}.find_sums(row, segment, sums);
}

template <typename S, typename Norm>
void forward_columns(const fln_forward_args* args, ptrdiff_t row, const double* sums, ptrdiff_t first, ptrdiff_t last) {
  with_parameters<S, Norm>(*args, SomeColumns{row, sums, first, last});
}
