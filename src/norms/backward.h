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

template <typename CallOf>
struct Backward {
  using Call = CallOf;
  using S = typename Call::S;
  using T = typename Call::T;
  const Call call;

  // Rows that are swept once before any of them is swept again.
  FLN_INLINE int together() const {
    const ptrdiff_t bytes = call.cols * static_cast<ptrdiff_t>(sizeof(S));
    return bytes <= NARROW_BYTES && 3 * call.args.rows * bytes <= TOGETHER_BYTES ? BLOCK_ROWS : 2;
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
      first_sweep<HOW != Stores::CACHED>(call, block_row, r, end, terms);
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
      if (HOW == Stores::STREAMED && can_stream(call.dx(block_row) + i, n)) {
        second_sweep<HOW>(call, block_row, 0, rows, terms, to, i, n, nullptr);
      } else {
        second_sweep<Stores::CACHED>(call, block_row, 0, rows, terms, to, i, n, nullptr);
      }
      add_block<Call>(chunk, rows, to, i, n);
    }
  }
  // Columns from i on that are swept together: as many as may wait, to the end of a line if the row goes on.
  FLN_INLINE ptrdiff_t waiting_cols(ptrdiff_t block_row, ptrdiff_t i, ptrdiff_t last) const {
    if (last - i <= WAITING_COLS<T>) return last - i;
    return WAITING_COLS<T> - cols_into_line(call.written(block_row, i + WAITING_COLS<T>));
  }

  // Both sweeps over all columns.
  template <Stores HOW>
  __attribute__((noinline)) void sweep_chunk(const Chunk<T>& chunk) const {
    WaitingRoom<T> room;
    Exit<S, HOW> exit;
    for (ptrdiff_t block_row = chunk.first; block_row < chunk.last; block_row += BLOCK_ROWS) {
      const int rows = rows_of(chunk, block_row);
      if (HOW == Stores::STAGED || call.in_one) {
        pair_by_pair<HOW>(chunk, block_row, rows, room, exit);
      } else if constexpr (HOW != Stores::STAGED) {
        BlockTerms<T> terms;
        first_sweep<HOW != Stores::CACHED>(call, block_row, 0, rows, terms);
        block_columns<HOW>(chunk, block_row, rows, terms, 0, call.cols, room);
      }
    }
    exit.close();
    if (HOW != Stores::CACHED) stream_fence();
  }

  // The second sweep over some columns, from the terms of all blocks.
  template <Stores HOW>
  __attribute__((noinline)) void sweep_columns(const Chunk<T>& chunk, ptrdiff_t first, ptrdiff_t last) const {
    WaitingRoom<T> room;
    const auto* const terms = static_cast<const BlockTerms<T>*>(call.args.terms);
    for (ptrdiff_t block_row = chunk.first; block_row < chunk.last; block_row += BLOCK_ROWS) {
      block_columns<HOW>(chunk, block_row, rows_of(chunk, block_row), terms[block_row / BLOCK_ROWS], first, last, room);
    }
    if (HOW != Stores::CACHED) stream_fence();
  }

  static FLN_INLINE int rows_of(const Chunk<T>& chunk, ptrdiff_t block_row) {
    const ptrdiff_t left = chunk.last - block_row;
    return static_cast<int>(left < BLOCK_ROWS ? left : BLOCK_ROWS);
  }

  // Past the cache go arrays in one piece, since reading ahead and joining the ends of rows take the next row to
  // follow. Of short rows the work is more than the traffic.
  FLN_INLINE bool may_stream() const {
    const fln_backward_args& a = call.args;
    const bool one_piece = a.dx_stride == a.cols && a.x_stride == a.cols && a.dy_stride == a.cols;
    return a.stream && one_piece && a.cols > SHORT_VECS * LANES<T>;
  }
  FLN_INLINE bool has_whole_lines() const { return call.cols % LANES<S> == 0; }

  void run(const Chunk<T>& chunk) const {
    // The others take the general way to the same bits.
    if constexpr (Call::DX && (Call::DWEIGHT == Call::DBIAS || !Call::Norm::HAS_BIAS)) {
      if (call.cols <= LANES<T>) return short_gradients<1>(call, chunk);
      if (call.cols <= 2 * LANES<T>) return short_gradients<2>(call, chunk);
      if (call.cols <= 3 * LANES<T>) return short_gradients<3>(call, chunk);
      if (call.cols <= 4 * LANES<T>) return short_gradients<4>(call, chunk);
    }
    if constexpr (Call::DX) {
      if (may_stream() && has_whole_lines()) return sweep_chunk<Stores::STREAMED>(chunk);
      if (may_stream() && call.in_one) return sweep_chunk<Stores::STAGED>(chunk);
    }
    sweep_chunk<Stores::CACHED>(chunk);
  }

  void run_columns(const Chunk<T>& chunk, ptrdiff_t first, ptrdiff_t last) const {
    if constexpr (Call::DX) {
      if (may_stream() && has_whole_lines()) return sweep_columns<Stores::STREAMED>(chunk, first, last);
    }
    sweep_columns<Stores::CACHED>(chunk, first, last);
  }

  void run_terms(ptrdiff_t block) const {
    BlockTerms<T>& terms = static_cast<BlockTerms<T>*>(call.args.terms)[block];
    const ptrdiff_t block_row = block * BLOCK_ROWS, left = call.args.rows - block_row;
    const int rows = static_cast<int>(left < BLOCK_ROWS ? left : BLOCK_ROWS);
    if (may_stream() && has_whole_lines()) {
      first_sweep<true>(call, block_row, 0, rows, terms);
    } else {
      first_sweep<false>(call, block_row, 0, rows, terms);
    }
  }
};

// work(kernel) with the kernel of the gradients that are asked for, and of the weight if it is there and dx depends on
// it.
template <typename S, typename Norm, bool DX, bool WEIGHT, typename Work>
FLN_INLINE void with_sums(const fln_backward_args& args, Work work) {
  if constexpr (Norm::HAS_BIAS) {
    if (args.dbias && args.dweight) return work(Backward<BackwardCall<S, Norm, DX, true, true, WEIGHT>>{{args}});
    if (args.dbias) return work(Backward<BackwardCall<S, Norm, DX, false, true, WEIGHT>>{{args}});
  }
  if (args.dweight) {
    work(Backward<BackwardCall<S, Norm, DX, true, false, WEIGHT>>{{args}});
  } else if constexpr (DX) {
    work(Backward<BackwardCall<S, Norm, DX, false, false, WEIGHT>>{{args}});
  }
}
template <typename S, typename Norm, typename Work>
FLN_INLINE void with_gradients(const fln_backward_args& args, Work work) {
  if (!args.dx) {
    with_sums<S, Norm, false, false>(args, work);
  } else if (args.weight) {
    with_sums<S, Norm, true, true>(args, work);
  } else {
    with_sums<S, Norm, true, false>(args, work);
  }
}

struct ChunkOfRows {
  ptrdiff_t chunk;
  template <typename Kernel>
  FLN_INLINE void operator()(const Kernel& kernel) const {
    kernel.run(Chunk<typename Kernel::T>::of(kernel.call.args, chunk));
  }
};

struct ChunkOfColumns {
  ptrdiff_t chunk, first, last;
  template <typename Kernel>
  FLN_INLINE void operator()(const Kernel& kernel) const {
    kernel.run_columns(Chunk<typename Kernel::T>::of(kernel.call.args, chunk), first, last);
  }
};

template <typename S, typename Norm>
void backward(const fln_backward_args* args, ptrdiff_t chunk) {
  with_gradients<S, Norm>(*args, ChunkOfRows{chunk});
}

// Terms are found as if all gradients were asked for, those of dx and dweight being the same.
template <typename S, typename Norm>
void backward_terms(const fln_backward_args* args, ptrdiff_t block) {
  if (args->dx && args->weight) {
    Backward<BackwardCall<S, Norm, true, true, Norm::HAS_BIAS, true>>{{*args}}.run_terms(block);
  } else {
    Backward<BackwardCall<S, Norm, true, true, Norm::HAS_BIAS, false>>{{*args}}.run_terms(block);
  }
}

template <typename S, typename Norm>
void backward_columns(const fln_backward_args* args, ptrdiff_t chunk, ptrdiff_t first, ptrdiff_t last) {
  with_gradients<S, Norm>(*args, ChunkOfColumns{chunk, first, last});
}
