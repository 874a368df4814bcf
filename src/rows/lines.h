// Stores that go past the cache: worth it where what is written would push out of the cache what is still to be read.
// They save the read of each line before it is written, too. The caller decides (args.stream), since it knows the size
// of all arrays; here is what makes it possible: whole lines only, and memory asked in time for what will be read.
#pragma once

#include "source.h"

constexpr ptrdiff_t LINE = 64, PAGE = 4096;  // bytes
template <typename S>
constexpr ptrdiff_t LINE_COLS = LINE / static_cast<ptrdiff_t>(sizeof(S));

// From this many bytes a row, the first register is cut short so that the stores that follow do not straddle cache
// lines (NumPy's arrays start 16 bytes into one): 4096x768 f32 took 1.19 times as long without, but 8192x128 backward
// 1.1 times with it. Streamed stores must not straddle (f32 forward 65536x100 1.25 times as long if not streamed).
constexpr ptrdiff_t ALIGN_FROM = 1024, STREAM_FROM = 256;

// How far ahead a sweep over arrays in memory asks for what it will read: the hardware's own prefetching was worth
// next to nothing beside streamed stores (4096x768 f32 backward 1.7 times as long without; 12 to 24 KiB alike, 6 KiB
// 1.1 times as long).
constexpr ptrdiff_t PREFETCH_BYTES = 12288;

// Whether there are stores past the cache for numbers stored as S: a native register takes at least 16 bytes then.
template <typename S>
constexpr bool CAN_STREAM = HAS_STREAMS && Piece<Computed<S>>::lanes * sizeof(S) >= 16;

// Elements from the start of p's line to p.
template <typename S>
FLN_INLINE ptrdiff_t cols_into_line(const S* p) {
  return static_cast<ptrdiff_t>(reinterpret_cast<uintptr_t>(p) % LINE / sizeof(S));
}

// The first line of `room` that is as far into its page as `place` + shift bytes. A load must not wait for a store to
// the same place of another page that is still on its way, so what is swept together keeps its distance.
template <typename T, typename S>
FLN_INLINE T* at_phase(T* room, const S* place, ptrdiff_t shift = 0) {
  const uintptr_t phase = reinterpret_cast<uintptr_t>(place) + static_cast<uintptr_t>(shift);
  return room + (phase - reinterpret_cast<uintptr_t>(room)) % PAGE / LINE * LINE_COLS<T>;
}

// Elements before the first cache line that starts in a row of n.
template <bool STREAM, typename S>
FLN_INLINE ptrdiff_t head_cols(const S* row, ptrdiff_t n) {
  if (n * static_cast<ptrdiff_t>(sizeof(S)) < (STREAM ? STREAM_FROM : ALIGN_FROM)) return 0;
  return static_cast<ptrdiff_t>(-reinterpret_cast<uintptr_t>(row) % LINE / sizeof(S));
}

// Whether n columns of a row are whole lines, and those of the rows that follow it without a gap.
template <typename S>
FLN_INLINE bool is_whole_lines(const S* row, ptrdiff_t n) {
  return n % LINE_COLS<S> == 0 && cols_into_line(row) == 0;
}

// Whether they are but for their head and their end.
template <typename S>
FLN_INLINE bool can_stream(const S* row, ptrdiff_t n) {
  return n * static_cast<ptrdiff_t>(sizeof(S)) >= STREAM_FROM || is_whole_lines(row, n);
}

template <typename S>
FLN_INLINE void prefetch_ahead(const S* from, ptrdiff_t n) {
  constexpr ptrdiff_t ahead = PREFETCH_BYTES / static_cast<ptrdiff_t>(sizeof(S));
  for (ptrdiff_t i = ahead; i < ahead + n; i += LINE_COLS<S>) __builtin_prefetch(from + i, 0, 2);
}

// A line of results on its way to memory. Numbers that are widened take several registers, and stay what they are.
template <typename S>
struct Line {
  using V = Vec<Computed<S>>;
  static constexpr ptrdiff_t COLS = LINE_COLS<S>;
  V part[COLS / V::lanes];

  static FLN_INLINE Line load(const S* p) {
    Line line;
    for (ptrdiff_t i = 0; i < COLS; i += V::lanes) line.part[i / V::lanes] = V::load(p + i);
    return line;
  }
  FLN_INLINE void store(S* p) const {
    for (ptrdiff_t i = 0; i < COLS; i += V::lanes) part[i / V::lanes].store(p + i);
  }
  FLN_INLINE void stream(S* p) const {
    for (ptrdiff_t i = 0; i < COLS; i += V::lanes) part[i / V::lanes].stream(p + i);
  }
  // Its first n numbers, fewer than all.
  FLN_INLINE void store_first(S* p, ptrdiff_t n) const {
    if constexpr (COLS == V::lanes) {
      part[0].store_first(p, n);
    } else {
      for (ptrdiff_t i = 0; i < n; i += V::lanes) {
        store_some(part[i / V::lanes], p + i, n - i < V::lanes ? n - i : V::lanes);
      }
    }
  }
};

// Lines that the end of a row and the start of the next one share. Stored in two pieces, each would wait for the
// line to come from memory (f32 backward 4096x768 1.3 times as long, 8192x256 twice), so they meet here first.
// Rows come in groups of at most MOST_ROWS: line q is the one before row q of the group.
template <typename S>
class Seams {
 public:
  static constexpr int MOST_ROWS = 4;

  // Where the first `head` columns of row q go, and where its last ones go. Rows are a line apart, but for the end of
  // the last one.
  FLN_INLINE S* start(int q, ptrdiff_t head) { return lines[q] + (LINE_COLS<S> - head); }
  FLN_INLINE S* end(int q, int rows) { return lines[q + 1 < rows ? q + 1 : 0]; }

  // The starts are there: the line before the first row is whole, unless that row is the first of all.
  FLN_INLINE void close_before(S* row, ptrdiff_t head) {
    if (open) {
      Line<S>::load(lines[0]).stream(open);
    } else {
      Line<S>::load(start(0, head)).store_first(row, head);
    }
  }

  // The end of row q is there, n columns for the line at `to`: whole if the next row is of the same group.
  FLN_INLINE void put_end(int q, int rows, S* to, ptrdiff_t n) {
    if (q + 1 < rows) {
      Line<S>::load(lines[q + 1]).stream(to);
    } else {
      open = to;
      filled = n;
    }
  }

  // After the last row, or before one that is written by other means.
  FLN_INLINE void close() {
    if (open) Line<S>::load(lines[0]).store_first(open, filled);
    open = nullptr;
  }

 private:
  alignas(LINE) S lines[MOST_ROWS + 1][LINE_COLS<S>];  // one more: a load of the start of a line goes past it
  S* open = nullptr;                                   // the line that waits in lines[0] for the start of the next row
  ptrdiff_t filled = 0;                                // columns of it
};

// Where ROWS rows are written, from some column on.
template <typename S, int ROWS>
struct Places {
  S* at[ROWS];

  FLN_INLINE S* row(ptrdiff_t r) const { return at[r]; }
  FLN_INLINE Places from(ptrdiff_t n) const {
    Places rest;
    for (int r = 0; r < ROWS; ++r) rest.at[r] = at[r] + n;
    return rest;
  }
};

// n columns from i on, fewer than a line, to `places`: by registers, of which a line of widened numbers has several.
template <int ROWS, typename Sweep, typename S>
FLN_INLINE void sweep_some(const Sweep& sweep, const Places<S, ROWS>& places, ptrdiff_t i, ptrdiff_t n) {
  constexpr ptrdiff_t lanes = LANES<Computed<S>>;
  if constexpr (lanes == LINE_COLS<S>) {
    sweep.some(places, i, n);
  } else {
    for (ptrdiff_t k = 0; k < n; k += lanes) sweep.some(places.from(k), i + k, n - k < lanes ? n - k : lanes);
  }
}

// One sweep over n columns of ROWS rows, written to `to`: the `head` columns before the first whole line, whole lines,
// and the end. With STREAM whole lines go past the cache, and what is not whole goes by way of `seams`, if they are
// there: the rows follow each other in memory then. What is done says Sweep: whole<STREAM>(i) the columns of a register
// from i on, some(places, i, n) no more of them, to other places; prefetch(i) asks for a line of what will be read.
template <int ROWS, bool PREFETCH, bool STREAM, typename Sweep, typename To, typename S>
FLN_INLINE void sweep_columns(const Sweep& sweep, const To& to, ptrdiff_t head, ptrdiff_t n, Seams<S>* seams) {
  constexpr ptrdiff_t line = LINE_COLS<S>, lanes = LANES<Computed<S>>;
  Places<S, ROWS> places;
  if (head > 0) {
    for (int q = 0; q < ROWS; ++q) places.at[q] = STREAM && seams ? seams->start(q, head) : to.row(q);
    sweep_some<ROWS>(sweep, places, 0, head);
    if (STREAM && seams) seams->close_before(to.row(0), head);
  }
  const ptrdiff_t lines_end = n - (n - head) % line;
  ptrdiff_t i = head;
  for (; i < lines_end; i += lanes) {
    if constexpr (PREFETCH) {
      if (lanes == line || (i - head) % line == 0) sweep.prefetch(i);
    }
    sweep.template whole<STREAM>(i);
  }
  if (i == n) return;
  if constexpr (PREFETCH) sweep.prefetch(i);  // and the line of the next row's head
  for (int q = 0; q < ROWS; ++q) places.at[q] = STREAM && seams ? seams->end(q, ROWS) : to.row(q) + i;
  sweep_some<ROWS>(sweep, places, i, n - i);
  for (int q = 0; STREAM && seams && q < ROWS; ++q) seams->put_end(q, ROWS, to.row(q) + i, n - i);
}

// Rows that follow each other without a gap, but of which each starts elsewhere in a line: they are put together here,
// as they will stand in memory, and leave in whole lines. It costs a store and a load more than Seams do, 8 to 15 % of
// the time, but needs no row to start like the others (backward float64 65536x100 0.45 of the time of ordinary stores,
// float32 0.75, float32 4096x760 0.55, 2048x4090 0.66).
template <typename S, ptrdiff_t MOST_COLS>
class Stage {
 public:
  // Where the next n <= MOST_COLS columns of the result are put instead of `to`.
  FLN_INLINE S* room_for(S* to, ptrdiff_t n) {
    if (!line) {
      begin = end = cols_into_line(to);
      line = to - begin;
      lines = at_phase(room, line);
    }
    S* const at = lines + end;
    end += n;
    return at;
  }

  // Stores all whole lines.
  FLN_INLINE void flush() {
    ptrdiff_t k = 0;
    if (begin > 0 && end >= LINE_COLS<S>) {  // the line in which the first row starts
      Line<S>::load(lines + begin).store_first(line + begin, LINE_COLS<S> - begin);
      begin = 0;
      k = LINE_COLS<S>;
    }
    for (; k + LINE_COLS<S> <= end; k += LINE_COLS<S>) Line<S>::load(lines + k).stream(line + k);
    line += k;
    end -= k;
    const Line<S> rest = Line<S>::load(lines + k);
    lines = at_phase(room, line);
    rest.store(lines);
  }

  // After the last row: what is left, less than a line.
  FLN_INLINE void close() {
    if (line) Line<S>::load(lines + begin).store_first(line + begin, end - begin);
    line = nullptr;
  }

 private:
  // Lines stand as far into a page as they will, see at_phase; behind MOST_COLS, a line that waits, and what loads of
  // whole lines take past the end.
  alignas(LINE) S room[PAGE / sizeof(S) + MOST_COLS + 3 * LINE_COLS<S>];
  S* lines = nullptr;
  S* line = nullptr;             // where they will stand
  ptrdiff_t begin = 0, end = 0;  // what of them is filled
};
