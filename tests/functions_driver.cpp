// Checks the functions of the gates (src/cells/functions.h) on the registers of one ISA: in double against long double,
// then every STRIDE-th float, and a little about each power of two, against those in double. test_functions.py builds
// it for each ISA, as registers_driver.cpp is built. It prints the largest errors in ulp, and a checksum of all bits.
#include <cstdio>
#include <cstdlib>

#include "target.h"

#ifdef ISA_FEATURES
FLN_TARGET_BEGIN(ISA_FEATURES)
#endif
namespace {
#include ISA_HEADER
#include "cells/functions.h"

struct Found {
  double tanh = 0, sigmoid = 0;  // the largest errors
  uint64_t bits = 0;

  template <typename T>
  void add(T tanh_of_it, T sigmoid_of_it) {
    uint64_t word[2] = {};
    std::memcpy(word, &tanh_of_it, sizeof tanh_of_it);
    std::memcpy(word + 1, &sigmoid_of_it, sizeof sigmoid_of_it);
    bits = (bits ^ word[0]) * 1099511628211u;
    bits = (bits ^ word[1]) * 1099511628211u;
  }
};

// How far a is from what is exact, in units of the last place of that; NaN and Inf are right or infinitely wrong.
template <typename T, typename Exact>
double ulps(T a, Exact exact) {
  if (std::isnan(exact) || std::isnan(a)) return std::isnan(exact) && std::isnan(a) ? 0 : HUGE_VAL;
  const int least = std::numeric_limits<T>::min_exponent - 1;
  const int exponent = exact == 0 || std::ilogb(exact) < least ? least : std::ilogb(exact);
  return static_cast<double>(std::fabs(std::ldexp(a - exact, std::numeric_limits<T>::digits - 1 - exponent)));
}

void keep_largest(double& largest, double error) {
  if (error > largest) largest = error;
}

void check_doubles(const double* x, Found& found) {
  using V = Piece<double>;
  double tanhs[V::lanes], sigmoids[V::lanes];
  tanh(V::load(x)).store(tanhs);
  sigmoid(V::load(x)).store(sigmoids);
  for (int i = 0; i < V::lanes; ++i) {
    const long double exact = x[i];
    keep_largest(found.tanh, ulps(tanhs[i], std::tanh(exact)));
    keep_largest(found.sigmoid, ulps(sigmoids[i], 1 / (1 + std::exp(-exact))));
    found.add(tanhs[i], sigmoids[i]);
  }
}

// Of the float whose bits are `first`, and those that follow it.
void check_floats(uint32_t first, uint32_t step, Found& found) {
  using V = Piece<float>;
  using W = decltype(widen(V()));
  float x[V::lanes], tanhs[V::lanes], sigmoids[V::lanes];
  double exact[2][V::lanes];
  for (int i = 0; i < V::lanes; ++i) {
    const uint32_t bits = first + static_cast<uint32_t>(i) * step;
    std::memcpy(x + i, &bits, sizeof bits);
  }
  const W wide = widen(V::load(x));
  tanh(V::load(x)).store(tanhs);
  sigmoid(V::load(x)).store(sigmoids);
  tanh(wide).store(exact[0]);
  sigmoid(wide).store(exact[1]);
  for (int i = 0; i < V::lanes; ++i) {
    if (std::isnan(tanhs[i])) tanhs[i] = sigmoids[i] = std::isnan(x[i]) && std::isnan(sigmoids[i]) ? 0.0f : HUGE_VALF;
    if (!std::isnan(x[i])) {
      keep_largest(found.tanh, ulps(tanhs[i], exact[0][i]));
      keep_largest(found.sigmoid, ulps(sigmoids[i], exact[1][i]));
    }
    if (std::signbit(tanhs[i]) != std::signbit(x[i]) && !std::isnan(x[i])) found.tanh = HUGE_VAL;
    found.add(tanhs[i], sigmoids[i]);
  }
}

void report(const char* type, const Found& found) {
  std::printf("%s %.3f %.3f %016llx\n", type, found.tanh, found.sigmoid, static_cast<unsigned long long>(found.bits));
}

void check_all(uint64_t stride) {
  Found doubles, floats;
  double x[16];
  uint64_t state = 1;
  for (int round = 0; round < 20000; ++round) {  // of all magnitudes from 2^-40 to 2^11
    for (double& number : x) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      number = std::ldexp(static_cast<double>(state >> 11) * 0x1p-52 - 1, static_cast<int>(state % 52) - 40);
    }
    for (int i = 0; i < 16; i += Piece<double>::lanes) check_doubles(x + i, doubles);
  }
  report("float64", doubles);
  const uint64_t lanes = 16;  // of the widest register: all ISAs meet the same numbers in the same order
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += stride * lanes) {
    for (uint64_t i = 0; i < lanes; i += Piece<float>::lanes) {
      check_floats(static_cast<uint32_t>(bits + i * stride), static_cast<uint32_t>(stride), floats);
    }
  }
  for (uint64_t power = 0; power < 512; ++power) {
    for (uint64_t i = 0; i < lanes; i += Piece<float>::lanes) {
      check_floats(static_cast<uint32_t>((power << 23) - lanes / 2 + i), 1, floats);
    }
  }
  report("float32", floats);
}
}  // namespace
#ifdef ISA_FEATURES
FLN_TARGET_END
#endif

int main(int count, char** arguments) {
  check_all(count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1);
  return 0;
}
