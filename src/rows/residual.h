// The rows that are normalized where a residual comes with x: sum = x + residual, rounded to the type that is stored.
//
// The sum is a result, and a sweep reads each of its numbers two or three times. So a source that adds as it loads
// would add more than once, and be compiled for every norm. Instead a few rows are added, and normalized while they are
// in L1, or in L2 where results go past the cache.
#pragma once

#include "lines.h"
#include "moments.h"
#include "source.h"

// Of the sums that are added before any of them is normalized. Where the four arrays of a thread come from memory, rows
// up to a page are taken by fewer bytes, and the next ones are asked for before these are normalized, which leaves
// memory idle. Zen 5, one thread, of the time of 8 KiB and no asking: float32 4096x768 0.74, 32768x64 0.88, 131072x16
// 0.89; but 10000x50 in L3 1.06 (2 KiB 1.25, 16 KiB 0.98), 512x1024 1.04 (2 KiB 1.08, 16 KiB 1.01).
//
// Where results go past the cache, so many that the streams of loads are long, and the ends of a run of such stores
// few: the hardware reads ahead by itself then, and the sums stay in L2. float32, one thread, of the time of 4 KiB,
// sums past the cache as well and asking: 4096x256 0.62, 32768x128 0.63, 2048x1500 0.66, 2048x1024 0.68, 20000x300
// 0.71, 4096x768 0.85, 2048x4096 0.89, 512x16384 0.93 (64 KiB 0.92 to 1.05 times as long as 128 KiB, 256 KiB 0.97
// to 1.05; asking for the next lines as well 1.04 to 1.3). But float64 10000x50 1.25, and 4096x256 on two threads 1.2.
// L2 had 1 MiB.
constexpr ptrdiff_t ADDED_BYTES = 8192, FAR_ADDED_BYTES = 4096, FAR_SUM_BYTES = 16 << 20;
constexpr ptrdiff_t STREAMED_ADDED_BYTES = 131072;

// Sums of short rows, whose results stay in the cache but where rows are whole lines, go past it themselves: they wait
// for that in so much room. Of the time of 16 KiB and no asking: float32 131072x16 0.86, 32768x64 0.81.
constexpr ptrdiff_t STAGED_SUM_BYTES = 8192;

// n numbers of `to`, which may be x or residual. With PREFETCH memory is asked for those that will be needed next.
template <bool PREFETCH, typename S>
FLN_INLINE void add_numbers(const S* x, const S* residual, S* to, ptrdiff_t n) {
  using V = Vec<Computed<S>>;
  ptrdiff_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    if (PREFETCH && (V::lanes == LINE_COLS<S> || i % LINE_COLS<S> == 0)) {
      prefetch_ahead(x + i, LINE_COLS<S>);
      prefetch_ahead(residual + i, LINE_COLS<S>);
    }
    store_lanes<true>(V::load(x + i) + V::load(residual + i), to + i, V::lanes);
  }
  if (i == n) return;
  const V rest = load_lanes<V, false>(x + i, n - i) + load_lanes<V, false>(residual + i, n - i);
  store_lanes<false>(rest, to + i, n - i);
}

template <typename S>
struct Adding {
  const fln_forward_args& args;
  const ptrdiff_t cols = args.cols;
  // Whether rows follow each other without a gap, in all arrays: then several are as one.
  const bool in_one_piece = args.x_stride == cols && args.residual_stride == cols && args.sum_stride == cols;

  FLN_INLINE const S* x(ptrdiff_t row) const { return static_cast<const S*>(args.x) + row * args.x_stride; }
  FLN_INLINE const S* residual(ptrdiff_t row) const {
    return static_cast<const S*>(args.residual) + row * args.residual_stride;
  }
  FLN_INLINE S* sum(ptrdiff_t row) const { return static_cast<S*>(args.sum) + row * args.sum_stride; }

  // Rows that are added together.
  FLN_INLINE ptrdiff_t together(ptrdiff_t bytes) const {
    const ptrdiff_t rows = bytes / row_bytes();
    return rows > 0 ? rows : 1;
  }

  FLN_INLINE ptrdiff_t row_bytes() const { return cols * static_cast<ptrdiff_t>(sizeof(S)); }
  FLN_INLINE bool is_up_to_a_page() const { return in_one_piece && row_bytes() <= FAR_ADDED_BYTES; }

  // Whether sums should and can go past the cache. One that replaces x or residual is in the cache already.
  FLN_INLINE bool is_staged() const {
    return args.stream && in_one_piece && is_short() && args.sum != args.x && args.sum != args.residual;
  }
  // Whether y goes past the cache: of longer rows, as Forward does it.
  FLN_INLINE bool are_results_streamed() const {
    if (!CAN_STREAM<S> || is_short()) return false;
    return args.stream && in_one_piece && can_stream(static_cast<const S*>(args.y), cols);
  }
  FLN_INLINE bool is_short() const { return cols <= STEP<Computed<S>>; }

  // Asks memory for FAR_ADDED_BYTES, from a row on.
  FLN_INLINE void ask_for(ptrdiff_t row) const {
    for (ptrdiff_t i = 0; i < FAR_ADDED_BYTES / static_cast<ptrdiff_t>(sizeof(S)); i += LINE_COLS<S>) {
      __builtin_prefetch(x(row) + i);
      __builtin_prefetch(residual(row) + i);
    }
  }

  // `count` rows from one on, to where `to` says, which is where sums are or rows without a gap.
  template <bool PREFETCH>
  FLN_INLINE void rows(ptrdiff_t row, ptrdiff_t count, S* to) const {
    if (in_one_piece) return add_numbers<PREFETCH>(x(row), residual(row), to, count * cols);
    for (ptrdiff_t r = row; r < row + count; ++r) add_numbers<false>(x(r), residual(r), sum(r), cols);
  }
};

template <typename S>
void add(const fln_forward_args* args, ptrdiff_t row, ptrdiff_t first, ptrdiff_t last) {
  const Adding<S> adding = {*args};
  add_numbers<false>(adding.x(row) + first, adding.residual(row) + first, adding.sum(row) + first, last - first);
}

// The call from a row on, of rows that have been added: what stands at `sums` takes the place of x.
template <typename S>
fln_forward_args of_sums(const fln_forward_args& args, ptrdiff_t row, const S* sums, ptrdiff_t stride) {
  using T = Computed<S>;
  fln_forward_args rest = args;
  rest.residual = nullptr;
  rest.x = sums;
  rest.x_stride = stride;
  rest.y = static_cast<S*>(args.y) + row * args.y_stride;
  if (args.mean) rest.mean = static_cast<T*>(args.mean) + row;
  if (args.rstd) rest.rstd = static_cast<T*>(args.rstd) + row;
  return rest;
}

// Rows first <= row < last: added, and normalized by `kernel`, a few at a time.
using ForwardKernel = void (*)(const fln_forward_args* args, ptrdiff_t first, ptrdiff_t last);

template <typename S>
__attribute__((noinline)) void forward_staged(const Adding<S>& adding, ForwardKernel kernel, ptrdiff_t row,
                                              ptrdiff_t last) {
  Stage<S, STAGED_SUM_BYTES / static_cast<ptrdiff_t>(sizeof(S))> stage;
  const ptrdiff_t step = adding.together(STAGED_SUM_BYTES);
  for (ptrdiff_t count; row < last; row += count) {
    count = row + step < last ? step : last - row;
    S* const to = stage.room_for(adding.sum(row), count * adding.cols);
    adding.template rows<true>(row, count, to);
    if (row + count < last) adding.ask_for(row + count);
    const fln_forward_args added = of_sums<S>(adding.args, row, to, adding.cols);
    kernel(&added, 0, count);
    stage.flush();
  }
  stage.close();
  stream_fence();
}

template <typename S>
__attribute__((noinline)) void forward_of_sums(const fln_forward_args& args, ForwardKernel kernel, ptrdiff_t row,
                                               ptrdiff_t last) {
  const Adding<S> adding = {args};
  if constexpr (CAN_STREAM<S>) {
    if (adding.is_staged()) return forward_staged(adding, kernel, row, last);
  }
  const bool is_streamed = adding.are_results_streamed();
  const bool is_far = !is_streamed && adding.is_up_to_a_page() && 4 * adding.row_bytes() * (last - row) > FAR_SUM_BYTES;
  const ptrdiff_t step = adding.together(is_streamed ? STREAMED_ADDED_BYTES : is_far ? FAR_ADDED_BYTES : ADDED_BYTES);
  for (ptrdiff_t count; row < last; row += count) {
    count = row + step < last ? step : last - row;
    adding.template rows<false>(row, count, adding.sum(row));
    if (is_far && row + count < last) adding.ask_for(row + count);
    const fln_forward_args added = of_sums<S>(args, row, adding.sum(row), args.sum_stride);
    kernel(&added, 0, count);
  }
}
