// What both sweeps of a call of the gradients share: where its rows are, and which gradients it asks for.
#pragma once

#include "../rows/lines.h"
#include "../rows/norm.h"
#include "parts.h"

// A row of no more registers stays in them.
constexpr int SHORT_VECS = 4;

// Columns whose sums over the rows of a block wait in cache for its end. A row of no more is swept a second time as
// soon as its pair has been swept once, while it is in L1; longer ones a block and WAITING_COLS at a time. 16 KiB: at
// 2048x4096 float32 1.06 to 1.10 times as fast as 4 or 8 KiB, at 128x768 and 32x65536 the same.
template <typename T>
constexpr ptrdiff_t WAITING_COLS = 16384 / sizeof(T);

// Where the rows are, and what g is of. Whether there is a weight is a fact of the compiled code: nobody pays for one
// that is missing.
template <typename StoredAs, typename NormOf, bool WITH_WEIGHT>
struct BackwardRows {
  using S = StoredAs;
  using Norm = NormOf;
  using T = Computed<S>;
  static constexpr bool WEIGHT = WITH_WEIGHT;

  const fln_backward_args& args;
  const ptrdiff_t cols = args.cols;
  const double inv_cols = 1.0 / static_cast<double>(cols);
  const bool in_one = cols <= WAITING_COLS<T>;
  const T* const weight = static_cast<const T*>(args.weight);
  const T* const means = static_cast<const T*>(args.mean);
  const T* const rstd = static_cast<const T*>(args.rstd);

  explicit FLN_INLINE BackwardRows(const fln_backward_args& of) : args(of) {}

  FLN_INLINE T mean(ptrdiff_t row) const { return Norm::HAS_MEAN ? means[row] : 0; }

  FLN_INLINE const S* x(ptrdiff_t row) const { return static_cast<const S*>(args.x) + row * args.x_stride; }
  FLN_INLINE const S* dy(ptrdiff_t row) const { return static_cast<const S*>(args.dy) + row * args.dy_stride; }
  FLN_INLINE const S* ds(ptrdiff_t row) const { return static_cast<const S*>(args.ds) + row * args.ds_stride; }
  FLN_INLINE S* dx(ptrdiff_t row) const { return static_cast<S*>(args.dx) + row * args.dx_stride; }
};

// Which gradients are found: a fact of the compiled code, too.
template <typename StoredAs, typename NormOf, bool WITH_DX, bool WITH_DWEIGHT, bool WITH_DBIAS, bool WITH_WEIGHT>
struct BackwardCall : BackwardRows<StoredAs, NormOf, WITH_WEIGHT> {
  using Rows = BackwardRows<StoredAs, NormOf, WITH_WEIGHT>;
  using typename Rows::Norm;
  using typename Rows::S;
  static_assert(Norm::HAS_BIAS || !WITH_DBIAS, "a norm without a bias has no gradient of it");
  static constexpr bool DX = WITH_DX, DWEIGHT = WITH_DWEIGHT, DBIAS = WITH_DBIAS;
  // Whether the second sweep needs anything of the first: of the mean, which dbias does without, or for dx.
  static constexpr bool NEEDS_TERMS = DX || (DWEIGHT && Norm::HAS_MEAN);

  // Not inherited: GCC compiles an inherited constructor for the baseline.
  explicit FLN_INLINE BackwardCall(const fln_backward_args& of) : Rows(of) {}

  // Where the second sweep writes most, or reads if it does not write.
  FLN_INLINE const S* written(ptrdiff_t row, ptrdiff_t i) const { return (DX ? this->dx(row) : this->dy(row)) + i; }
};
