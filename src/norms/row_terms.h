// The first sweep of the gradients: what the second one needs of each row (BlockTerms).
//
//   z = (x - mean) * rstd, g = dy * weight          offset = -sum(z) / cols            x_hat = z + offset
//   mean_g = sum(g) / cols              mean_gx = sum(g * x_hat) / cols = (sum(g * z) + offset * sum(g)) / cols
//
// The saved mean is rounded to T, so z differs from x_hat by a constant, which is found here too. Without a mean z is
// x_hat, and mean_gx is all that is needed.
#pragma once

#include "../rows/sums.h"
#include "backward_call.h"

// Registers of a row that are summed as a tree.
constexpr int TREE = 8;
template <typename T>
constexpr ptrdiff_t TREE_COLS = TREE * LANES<T>;

// The sums over a row: of z and g, if there is a mean, and of g * z.
enum { Z, G };
template <typename Norm>
constexpr int TERM_SUMS = Norm::HAS_MEAN ? 3 : 1;
template <typename Norm>
constexpr int GZ = TERM_SUMS<Norm> - 1;
template <typename Norm, typename V>
using TermSums = Sums<V, TERM_SUMS<Norm>>;

// Over one register or two.
template <typename Norm, int COUNT, typename V>
FLN_INLINE TermSums<Norm, V> leaf_sums(const V* z, const V* g) {
  const V gz = COUNT == 1 ? g[0] * z[0] : fma(g[COUNT - 1], z[COUNT - 1], g[0] * z[0]);
  if constexpr (!Norm::HAS_MEAN) return {{gz}};
  if constexpr (Norm::HAS_MEAN && COUNT == 1) return {{z[0], g[0], gz}};
  if constexpr (Norm::HAS_MEAN && COUNT == 2) return {{z[0] + z[1], g[0] + g[1], gz}};
}

// The leaves of a row's trees, in registers R, which are virtual ones or pieces of them.
template <typename Rows, typename R>
struct TermLeaves {
  using V = R;
  using S = typename Rows::S;
  using T = typename Rows::T;
  using Norm = typename Rows::Norm;
  using Sum = TermSums<Norm, V>;
  static constexpr ptrdiff_t lanes = LANES<T>;
  Stored<S> dy, x;
  const T* weight;  // or NULL
  T mean, rstd;

  FLN_INLINE auto half() const { return TermLeaves<Rows, decltype(V::low)>{dy, x, weight, mean, rstd}; }

  FLN_INLINE Sum one(ptrdiff_t i, ptrdiff_t n) const {
    V z, g;
    load<false>(i, n, z, g);
    return leaf_sums<Norm, 1>(&z, &g);
  }
  template <bool ALL>
  FLN_INLINE Sum two(ptrdiff_t i, ptrdiff_t n) const {
    V z[2], g[2];
    load<true>(i, lanes, z[0], g[0]);
    load<ALL>(i + lanes, n, z[1], g[1]);
    return leaf_sums<Norm, 2>(z, g);
  }

  // z and g of one register of columns. Lanes past the end of the row are 0.
  template <bool ALL>
  FLN_INLINE void load(ptrdiff_t i, ptrdiff_t n, V& z, V& g) const {
    const V means = V::splat(mean);
    z = centered<Norm>(ALL ? x.template load<V>(i) : x.load_first(i, n, means), means) * V::splat(rstd);
    g = dy.template lanes<V, ALL>(i, n);
    if (Rows::WEIGHT) g = g * load_lanes<V, ALL>(weight + i, n);
  }
};

// A block of a long row, summed as a tree. With PREFETCH, x is asked for ahead of it.
template <typename Rows, bool PREFETCH>
struct Tree {
  using T = typename Rows::T;
  static constexpr ptrdiff_t COLS = TREE_COLS<T>;
  static constexpr bool WHOLE_APART = true;
  const TermLeaves<Rows, Vec<T>>& row;
  bool in_one;

  FLN_INLINE TermSums<typename Rows::Norm, Vec<T>> whole(ptrdiff_t i) const {
    if (PREFETCH && in_one) prefetch_ahead(row.x.start + i, COLS);
    return tree_by_pieces<TREE>(row, i);
  }
  FLN_INLINE TermSums<typename Rows::Norm, Vec<T>> first(ptrdiff_t i, ptrdiff_t n) const {
    if (PREFETCH && in_one) prefetch_ahead(row.x.start + i, n);
    return tree_first<TREE>(row, i, n);
  }
};

// From the sums over lanes of a row, the `r`-th of its block. The three sums of these share most of their work.
template <typename Rows, typename V, typename T = typename Rows::T>
FLN_INLINE void write_terms(const Rows& rows, const TermSums<typename Rows::Norm, V>& lanes, BlockTerms<T>& terms,
                            int r) {
  using Norm = typename Rows::Norm;
  using A = typename V::value_type;
  const A inv = static_cast<A>(rows.inv_cols);
  const V& gz = lanes.of[GZ<Norm>];
  if constexpr (Norm::HAS_MEAN) {
    A sums[4];
    sums_of_4(lanes.of[Z], lanes.of[G], gz, gz, sums);
    const A offset = -(sums[Z] * inv);
    terms.offset[r] = static_cast<T>(offset);
    terms.mean_g[r] = static_cast<T>(sums[G] * inv);
    terms.mean_gx[r] = static_cast<T>((sums[GZ<Norm>] + offset * sums[G]) * inv);
  } else {
    terms.mean_gx[r] = static_cast<T>(gz.sum() * inv);
  }
}

template <bool PREFETCH, typename Rows, typename T = typename Rows::T>
FLN_INLINE void find_terms(const Rows& rows, ptrdiff_t row, BlockTerms<T>& terms, int r) {
  const TermLeaves<Rows, Vec<T>> leaves = {
      {rows.dy(row), 0}, {rows.x(row), 0}, rows.weight, rows.mean(row), rows.rstd[row]};
  const ptrdiff_t cols = rows.cols;
  if (cols <= TREE_COLS<T>) {  // no more than T's precision is needed
    if (PREFETCH) prefetch_ahead(leaves.x.start, cols);
    return write_terms(rows, tree_first<TREE>(leaves, 0, cols), terms, r);
  }
  auto totals = Totals<T, TERM_SUMS<typename Rows::Norm>>::zero();
  add_blocks(totals, Tree<Rows, PREFETCH>{leaves, rows.in_one}, 0, cols);
  write_terms(rows, totals.folded(), terms, r);
}

// Over rows [r, end) of the block that starts at row `block_row`; the same for all gradients that may be asked for.
template <bool PREFETCH, typename S, typename Norm, bool WEIGHT>
__attribute__((noinline)) void first_sweep(const BackwardRows<S, Norm, WEIGHT>& rows, ptrdiff_t block_row, int r,
                                           int end, BlockTerms<Computed<S>>& terms) {
  for (; r < end; ++r) find_terms<PREFETCH>(rows, block_row + r, terms, r);
}
