// Vec<T>: the virtual register of every kernel, 64 bytes on every ISA (16 float lanes, 8 double lanes).
#pragma once

#include "doubled.h"

template <typename H, int LANES, bool DONE = (H::lanes == LANES)>
struct Grown {
  using type = typename Grown<Doubled<H>, LANES>::type;
};
template <typename H, int LANES>
struct Grown<H, LANES, true> {
  using type = H;
};

template <typename T>
constexpr int LANES = 64 / static_cast<int>(sizeof(T));

// COUNT virtual registers side by side, as one.
template <typename T, int COUNT>
using Vecs = typename Grown<typename NativeOf<T>::type, COUNT * LANES<T>>::type;

template <typename T>
using Vec = Vecs<T, 1>;

// A piece of the virtual register, the native one or as many as make 4 lanes: where a loop keeps so much that there is
// no room for virtual ones.
template <typename T>
using Piece =
    typename Grown<typename NativeOf<T>::type, (NativeOf<T>::type::lanes > 4 ? NativeOf<T>::type::lanes : 4)>::type;

// Sums of registers: neighbours first, the same tree for as many registers as there are.
template <typename T, int COUNT>
FLN_INLINE Vec<T> fold(Vecs<T, COUNT> a) {
  if constexpr (COUNT == 1) {
    return a;
  } else {
    return fold<T, COUNT / 2>(a.low) + fold<T, COUNT / 2>(a.high);
  }
}

template <int COUNT, typename V>
FLN_INLINE V fold(const V* a) {
  static_assert(COUNT >= 1 && COUNT <= 4, "one step");
  if constexpr (COUNT == 1) return a[0];
  if constexpr (COUNT == 2) return a[0] + a[1];
  if constexpr (COUNT == 3) return (a[0] + a[1]) + a[2];
  if constexpr (COUNT == 4) return (a[0] + a[1]) + (a[2] + a[3]);
}
