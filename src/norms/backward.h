// Gradients of y = x_hat * weight + bias, x_hat = (x - mean) * rstd, with g = dy * weight:
//
//   dx      = rstd * (g - sum(g) / cols - x_hat * sum(g * x_hat) / cols)     over each row
//   dweight = sum of dy * x_hat, dbias = sum of dy                     over the rows
//
// A norm without a mean lacks the sum of g and, having no bias, dbias.
//
// Ba, Kiros and Hinton, "Layer Normalization" (2016), arXiv:1607.06450, differentiated.
//
// Two sweeps: the first finds the sums of a row (row_terms.h), the second writes dx and adds to dweight and dbias
// (gradients.h) while x and dy are still in cache. Here are the ways through the rows of a chunk, which change no bit.
#pragma once

#include "short_gradients.h"

// Rows of at most so many bytes are swept a block at a time, which hides the latency of a row's sums behind the next
// row, unless they come from far: x, dy and dx of so many bytes. Of the time pair by pair, on AVX2: float32 2000x100
// 0.91, 4000x100 0.95, 500x128 0.91, 777x200 1.0, float64 500x128 0.95, 2000x100 0.99; but float32 12000x100 1.07,
// float64 4000x100 (9.6 MB) up to 1.12.
constexpr ptrdiff_t NARROW_BYTES = 1024, TOGETHER_BYTES = 6 << 20;

// Past the cache go arrays in one piece, since reading ahead and joining the ends of rows take the next row to follow.
// Of short rows the work is more than the traffic, and below STREAM_FROM a row's head is not cut off.
template <typename Rows>
FLN_INLINE bool may_stream(const Rows& rows) {
  const fln_backward_args& a = rows.args;
  const bool one_piece = a.dx_stride == a.cols && a.x_stride == a.cols && a.dy_stride == a.cols;
  const bool is_short = a.cols <= SHORT_VECS * LANES<typename Rows::T>;
  return a.stream && one_piece && !is_short && a.cols * static_cast<ptrdiff_t>(sizeof(typename Rows::S)) >= STREAM_FROM;
}
template <typename Rows>
FLN_INLINE bool has_whole_lines(const Rows& rows) {
  return rows.cols % LINE_COLS<typename Rows::S> == 0;
}

template <typename CallOf>
struct Backward {
  using Call = CallOf;
  using S = typename Call::S;
  using T = typename Call::T;
  // Whether there is a way of its own for short rows.
  static constexpr bool HAS_SHORT = HAS_ALL_WAYS<S> && Call::DX && Call::WEIGHT;
  const Call call;

  explicit FLN_INLINE Backward(const fln_backward_args& args) : call(args) {}

  // Rows that are swept once before any of them is swept again.
  FLN_INLINE int together() const {
    const ptrdiff_t bytes = call.cols * static_cast<ptrdiff_t>(sizeof(S));
    return bytes <= NARROW_BYTES && 3 * call.args.rows * bytes <= TOGETHER_BYTES ? BLOCK_ROWS : 2;
  }

  // The first sweep, if the second one needs it.
  template <Stores HOW>
  FLN_INLINE void find_terms_of(ptrdiff_t block_row, int r, int end, BlockTerms<T>& terms) const {
    const typename Call::Rows& rows = call;
    if (Call::NEEDS_TERMS) first_sweep<is_past_cache(HOW)>(rows, block_row, r, end, terms);
  }

  // Columns [i, i + n) of a block, for the second sweep.
  template <Stores HOW>
  FLN_INLINE SecondCols<T> second_cols(WaitingRoom<T>& room, const Chunk<T>& chunk, ptrdiff_t block_row, ptrdiff_t i,
                                       ptrdiff_t n) const {
    const S* const at = call.written(block_row, i);
    return room.cols(Call::WEIGHT ? call.weight + i : nullptr, at, head_of<HOW>(at, n), totals(chunk.dweight, i),
                     totals(chunk.dbias, i), call.cols, block_row == chunk.first);
  }
  // Where the last pair of a block adds its columns from i on, or NULL: a sweep of its own over them took longer, of
  // 128x768 3 to 8 % (float32) or 7 to 10 % (float64). Not of long rows, whose totals have no room in L1 beside the
  // rows (2048x4096 float64 streamed 1.35 times as long).
  FLN_INLINE double* totals(const ColumnSums<T>& to, ptrdiff_t i) const {
    return call.in_one && to.totals ? to.totals + i : nullptr;
  }

  // A block of rows of which two fit L1: the two sweeps follow each other pair by pair, or block by block.
  template <Stores HOW>
  FLN_INLINE void pair_by_pair(const Chunk<T>& chunk, ptrdiff_t block_row, int rows, WaitingRoom<T>& room,
                               Exit<S, HOW>& exit) const {
    BlockTerms<T> terms;
    const SecondCols<T> to = second_cols<HOW>(room, chunk, block_row, 0, call.cols);
    const int step = together();
    for (int r = 0, end; r < rows; r = end) {
      end = r + step < rows ? r + step : rows;
      find_terms_of<HOW>(block_row, r, end, terms);
      second_sweep<HOW>(call, block_row, r, end, terms, to, 0, call.cols, &exit);
    }
    add_block<Call>(chunk, rows, to, 0, call.cols);
  }

  // The second sweep over columns [first, last) of a block of any rows, whose terms are known.
  template <Stores HOW>
  FLN_INLINE void block_columns(const Chunk<T>& chunk, ptrdiff_t block_row, int rows, const BlockTerms<T>& terms,
                                ptrdiff_t first, ptrdiff_t last, WaitingRoom<T>& room) const {
    for (ptrdiff_t i = first, n; i < last; i += n) {
      n = waiting_cols(block_row, i, last);
      const SecondCols<T> to = second_cols<HOW>(room, chunk, block_row, i, n);
      if (is_streamed(HOW) && can_stream(call.dx(block_row) + i, n)) {
        second_sweep<HOW>(call, block_row, 0, rows, terms, to, i, n, nullptr);
      } else {
        constexpr Stores cached = is_added(HOW) ? Stores::ADDED : Stores::CACHED;
        second_sweep<cached>(call, block_row, 0, rows, terms, to, i, n, nullptr);
      }
      add_block<Call>(chunk, rows, to, i, n);
    }
  }
  // Columns from i on that are swept together: as many as may wait, to the end of a line if the row goes on.
  FLN_INLINE ptrdiff_t waiting_cols(ptrdiff_t block_row, ptrdiff_t i, ptrdiff_t last) const {
    if (last - i <= WAITING_COLS<T>) return last - i;
    return WAITING_COLS<T> - cols_into_line(call.written(block_row, i + WAITING_COLS<T>));
  }

  // Whether rows are stored like that only if they are no longer than what may wait.
  template <Stores HOW>
  static constexpr bool IN_ONE = HOW == Stores::STAGED || (HOW == Stores::STREAMED && !HAS_ALL_WAYS<S>);

  // Both sweeps over all columns.
  template <Stores HOW>
  __attribute__((noinline)) void sweep_chunk(const Chunk<T>& chunk) const {
    WaitingRoom<T> room;
    Exit<S, HOW> exit;
    for (ptrdiff_t block_row = chunk.first; block_row < chunk.last; block_row += BLOCK_ROWS) {
      const int rows = rows_of(chunk, block_row);
      if (IN_ONE<HOW> || call.in_one) {
        pair_by_pair<HOW>(chunk, block_row, rows, room, exit);
      } else if constexpr (!IN_ONE<HOW>) {
        BlockTerms<T> terms;
        find_terms_of<HOW>(block_row, 0, rows, terms);
        block_columns<HOW>(chunk, block_row, rows, terms, 0, call.cols, room);
      }
    }
    exit.close();
    if (is_past_cache(HOW)) stream_fence();
  }

  // The second sweep over some columns, from the terms of all blocks.
  template <Stores HOW>
  __attribute__((noinline)) void sweep_columns(const Chunk<T>& chunk, ptrdiff_t first, ptrdiff_t last) const {
    WaitingRoom<T> room;
    const auto* const terms = static_cast<const BlockTerms<T>*>(call.args.terms);
    for (ptrdiff_t block_row = chunk.first; block_row < chunk.last; block_row += BLOCK_ROWS) {
      block_columns<HOW>(chunk, block_row, rows_of(chunk, block_row), terms[block_row / BLOCK_ROWS], first, last, room);
    }
    if (is_past_cache(HOW)) stream_fence();
  }

  static FLN_INLINE int rows_of(const Chunk<T>& chunk, ptrdiff_t block_row) {
    const ptrdiff_t left = chunk.last - block_row;
    return static_cast<int>(left < BLOCK_ROWS ? left : BLOCK_ROWS);
  }

  // Rows of at most SHORT_VECS registers; the calls without this way take the general one to the same bits.
  template <bool ADDED>
  FLN_INLINE void short_rows(const Chunk<T>& chunk) const {
    if (call.cols <= LANES<T>) return short_gradients<1, ADDED>(call, chunk);
    if (call.cols <= 2 * LANES<T>) return short_gradients<2, ADDED>(call, chunk);
    if (call.cols <= 3 * LANES<T>) return short_gradients<3, ADDED>(call, chunk);
    short_gradients<SHORT_VECS, ADDED>(call, chunk);
  }

  // With ds to add longer rows have ways of their own, so that it costs the others nothing: two of them.
  void with_ds(const Chunk<T>& chunk) const {
    if constexpr (CAN_STREAM<S> && HAS_ALL_WAYS<S>) {
      if (may_stream(call) && has_whole_lines(call)) return sweep_chunk<Stores::ADDED_STREAMED>(chunk);
    }
    sweep_chunk<Stores::ADDED>(chunk);
  }

  void run(const Chunk<T>& chunk) const {
    if constexpr (HAS_SHORT) {
      if (call.cols <= SHORT_VECS * LANES<T>) {
        return call.args.ds ? short_rows<true>(chunk) : short_rows<false>(chunk);
      }
    }
    if constexpr (Call::DX) {
      if (call.args.ds) return with_ds(chunk);
    }
    if constexpr (Call::DX && CAN_STREAM<S>) {
      const bool fits = !IN_ONE<Stores::STREAMED> || call.in_one;
      if (may_stream(call) && has_whole_lines(call) && fits) return sweep_chunk<Stores::STREAMED>(chunk);
      if constexpr (HAS_ALL_WAYS<S>) {
        if (may_stream(call) && call.in_one) return sweep_chunk<Stores::STAGED>(chunk);
      }
    }
    sweep_chunk<Stores::CACHED>(chunk);
  }

  void columns_with_ds(const Chunk<T>& chunk, ptrdiff_t first, ptrdiff_t last) const {
    if constexpr (CAN_STREAM<S> && HAS_ALL_WAYS<S>) {
      if (may_stream(call) && has_whole_lines(call)) {
        return sweep_columns<Stores::ADDED_STREAMED>(chunk, first, last);
      }
    }
    sweep_columns<Stores::ADDED>(chunk, first, last);
  }

  void run_columns(const Chunk<T>& chunk, ptrdiff_t first, ptrdiff_t last) const {
    if constexpr (Call::DX) {
      if (call.args.ds) return columns_with_ds(chunk, first, last);
    }
    if constexpr (Call::DX && CAN_STREAM<S> && !IN_ONE<Stores::STREAMED>) {
      if (may_stream(call) && has_whole_lines(call)) return sweep_columns<Stores::STREAMED>(chunk, first, last);
    }
    sweep_columns<Stores::CACHED>(chunk, first, last);
  }
};

// work(kernel) with the kernel of the gradients that are asked for. Beside dx, dweight and dbias are found together and
// with a weight, so that there are few kernels; without dx, dbias alone needs neither x nor the first sweep, but of
// numbers that are widened, which always have a weight, it is found beside dweight.
template <typename S, typename Norm, typename Work>
FLN_INLINE void with_gradients(const fln_backward_args& args, Work work) {
  constexpr bool ALWAYS = !HAS_ALL_WAYS<S>;
  if (args.dx) {
    if (args.dweight || args.dbias)
      return work(Backward<BackwardCall<S, Norm, true, true, Norm::HAS_BIAS, true>>{args});
    if (ALWAYS || args.weight) return work(Backward<BackwardCall<S, Norm, true, false, false, true>>{args});
    return work(Backward<BackwardCall<S, Norm, true, false, false, ALWAYS>>{args});
  }
  if (args.dweight || (ALWAYS && args.dbias)) {
    return work(Backward<BackwardCall<S, Norm, false, true, Norm::HAS_BIAS, ALWAYS>>{args});
  }
  if constexpr (Norm::HAS_BIAS && !ALWAYS) {
    if (args.dbias) work(Backward<BackwardCall<S, Norm, false, false, true, false>>{args});
  }
}

struct ChunkOfRows {
  ptrdiff_t chunk;
  template <typename Kernel>
  FLN_INLINE void operator()(const Kernel& kernel) const {
    kernel.run(Chunk<typename Kernel::T>::of(kernel.call.args, chunk));
  }
};

template <typename S, typename Norm>
void backward(const fln_backward_args* args, ptrdiff_t chunk);

// Without a weight: ones stand in for it, so that there are kernels of short rows with one only. dy * 1 is dy.
template <typename S, typename Norm>
__attribute__((noinline)) void backward_of_short_rows(fln_backward_args args, ptrdiff_t chunk) {
  using T = Computed<S>;
  T ones[SHORT_VECS * LANES<T>];
  for (T& one : ones) one = 1;
  args.weight = ones;
  backward<S, Norm>(&args, chunk);
}

struct ChunkOfColumns {
  ptrdiff_t chunk, first, last;
  template <typename Kernel>
  FLN_INLINE void operator()(const Kernel& kernel) const {
    kernel.run_columns(Chunk<typename Kernel::T>::of(kernel.call.args, chunk), first, last);
  }
};

template <typename S, typename Norm>
void backward(const fln_backward_args* args, ptrdiff_t chunk) {
  if constexpr (HAS_ALL_WAYS<S>) {
    if (args->cols <= SHORT_VECS * LANES<S> && args->dx && !args->weight) {
      return backward_of_short_rows<S, Norm>(*args, chunk);
    }
  }
  with_gradients<S, Norm>(*args, ChunkOfRows{chunk});
}

template <typename S, typename Norm, bool WEIGHT>
FLN_INLINE void block_terms(const BackwardRows<S, Norm, WEIGHT>& rows, ptrdiff_t block) {
  auto& terms = static_cast<BlockTerms<Computed<S>>*>(rows.args.terms)[block];
  const ptrdiff_t block_row = block * BLOCK_ROWS, left = rows.args.rows - block_row;
  const int count = static_cast<int>(left < BLOCK_ROWS ? left : BLOCK_ROWS);
  if constexpr (CAN_STREAM<S> && HAS_ALL_WAYS<S>) {
    if (may_stream(rows) && has_whole_lines(rows)) return first_sweep<true>(rows, block_row, 0, count, terms);
  }
  first_sweep<false>(rows, block_row, 0, count, terms);
}
template <typename S, typename Norm>
void backward_terms(const fln_backward_args* args, ptrdiff_t block) {
  constexpr bool ALWAYS = !HAS_ALL_WAYS<S>;
  if (ALWAYS || (args->dx && args->weight)) return block_terms(BackwardRows<S, Norm, true>(*args), block);
  block_terms(BackwardRows<S, Norm, ALWAYS>(*args), block);
}

template <typename S, typename Norm>
void backward_columns(const fln_backward_args* args, ptrdiff_t chunk, ptrdiff_t first, ptrdiff_t last) {
  with_gradients<S, Norm>(*args, ChunkOfColumns{chunk, first, last});
}
