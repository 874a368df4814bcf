// Checks the register layer of one ISA (src/registers) by itself, each operation on each kind of register against the
// same in plain C++, at each n of what takes the first n lanes. test_registers.py builds it for each ISA: ISA_HEADER is
// the header, ISA_FEATURES (if any) what its region is compiled for. It prints what fails, and how much was checked.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "target.h"

static long checked = 0, failed = 0;

static void check(bool good, const char* what, int lanes, size_t size, ptrdiff_t n) {
  ++checked;
  if (good) return;
  ++failed;
  std::printf("%s, %d lanes of %d bytes, n = %d\n", what, lanes, static_cast<int>(size), static_cast<int>(n));
}

// The end of memory: what is touched past `end` ends the process.
static char* end_of_memory() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* const pages = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED || mprotect(static_cast<char*>(pages) + page, page, PROT_NONE) != 0) std::abort();
  return static_cast<char*>(pages) + page;
}

// Numbers of many magnitudes and both signs, always the same ones.
static double number() {
  static uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  const double fraction = static_cast<double>(state >> 11) * 0x1p-53 - 0.5;
  return std::ldexp(fraction, static_cast<int>(state >> 5 & 15) - 8);
}

#ifdef ISA_FEATURES
FLN_TARGET_BEGIN(ISA_FEATURES)
#endif
namespace {
#include ISA_HEADER
#include "registers/lanes.h"
#include "registers/per_row.h"
#include "registers/totals.h"

template <typename T>
bool same(const T* a, const T* b, ptrdiff_t n) {
  return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(T)) == 0;
}

template <typename T>
void fill(T* p, ptrdiff_t n) {
  for (ptrdiff_t i = 0; i < n; ++i) p[i] = static_cast<T>(number());
}

// a * b + c as fma() rounds it here.
template <typename T>
T fma_of(T a, T b, T c) {
  if (HAS_FMA) return std::fma(a, b, c);
  const volatile T product = a * b;
  return product + c;
}

// Lane i plus lane i + half, until one is left.
template <typename T>
T sum_of(const T* p, ptrdiff_t n) {
  T lane[64];
  for (ptrdiff_t i = 0; i < n; ++i) lane[i] = p[i];
  for (ptrdiff_t half = n / 2; half > 0; half /= 2) {
    for (ptrdiff_t i = 0; i < half; ++i) lane[i] = lane[i] + lane[i + half];
  }
  return lane[0];
}

// One kind of register V, and 5 of them in memory.
template <typename V>
struct Registers {
  using T = typename V::value_type;
  static constexpr int lanes = V::lanes;
  alignas(64) T a[lanes], b[lanes], c[lanes], d[lanes], expected[lanes], found[lanes];

  void expect(V result, const char* what, ptrdiff_t n = lanes) {
    result.store(found);
    check(same(found, expected, lanes), what, lanes, sizeof(T), n);
  }

  void arithmetic() {
    const V x = V::load(a), y = V::load(b), z = V::load(c);
    for (int i = 0; i < lanes; ++i) expected[i] = a[i] + b[i];
    expect(x + y, "+");
    for (int i = 0; i < lanes; ++i) expected[i] = a[i] - b[i];
    expect(x - y, "-");
    for (int i = 0; i < lanes; ++i) expected[i] = a[i] * b[i];
    expect(x * y, "*");
    for (int i = 0; i < lanes; ++i) expected[i] = fma_of(a[i], b[i], c[i]);
    expect(fma(x, y, z), "fma");
    for (int i = 0; i < lanes; ++i) expected[i] = b[0];
    expect(V::splat(b[0]), "splat");
    const T sum = x.sum(), sum_expected = sum_of(a, lanes);
    check(same(&sum, &sum_expected, 1), "sum", lanes, sizeof(T), lanes);
    T sums[4], sums_expected[4] = {sum_of(a, lanes), sum_of(b, lanes), sum_of(c, lanes), sum_of(d, lanes)};
    sums_of_4(x, y, z, V::load(d), sums);
    check(same(sums, sums_expected, 4), "sums_of_4", lanes, sizeof(T), 4);
  }

  // What the functions of the gates need beside that.
  void choices() {
    const V x = V::load(a), y = V::load(b);
    for (int i = 0; i < lanes; ++i) expected[i] = a[i] / b[i];
    expect(x / y, "/");
    for (int i = 0; i < lanes; ++i) expected[i] = a[i] > b[i] ? a[i] : b[i];
    expect(larger(x, y), "larger");
    for (int i = 0; i < lanes; ++i) expected[i] = a[i] < b[i] ? a[i] : b[i];
    expect(lesser(x, y), "lesser");
    for (int i = 0; i < lanes; ++i) expected[i] = std::fabs(a[i]);
    expect(absolute(x), "absolute");
    for (int i = 0; i < lanes; ++i) expected[i] = std::copysign(a[i], b[i]);
    expect(with_sign_of(absolute(x), y), "with_sign_of");
    // Of a NaN in either, the second one; of 0 and -0 too.
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (int i = 0; i < lanes; ++i) expected[i] = a[i];
    expect(larger(V::splat(nan), x), "larger than NaN");
    expect(lesser(V::splat(nan), x), "less than NaN");
    for (int i = 0; i < lanes; ++i) expected[i] = nan;
    expect(larger(x, V::splat(nan)), "NaN, the larger");
    expect(lesser(x, V::splat(nan)), "NaN, the lesser");
    for (int i = 0; i < lanes; ++i) expected[i] = -static_cast<T>(0);
    expect(larger(V::splat(0), V::load(expected)), "0 and -0");
    // The last bits of a sum with so large a number are an integer.
    const T integers = std::ldexp(static_cast<T>(3), std::numeric_limits<T>::digits - 2);
    const int bias = std::numeric_limits<T>::max_exponent - 1;
    for (int i = 0; i < lanes; ++i) {
      const int power = (i * 97) % (2 * bias) + 1 - bias;
      found[i] = integers + static_cast<T>(bias + power);
      expected[i] = std::ldexp(static_cast<T>(1), power);
    }
    expect(as_exponent(V::load(found)), "as_exponent");
  }

  // Whole registers in memory, and their first n lanes at its very end.
  void memory(char* end) {
    V::load(a).store(found);
    check(same(found, a, lanes), "load, store", lanes, sizeof(T), lanes);
    V::load(b).stream(found);
    stream_fence();
    check(same(found, b, lanes), "stream", lanes, sizeof(T), lanes);
    for (ptrdiff_t n = 0; n <= lanes; ++n) {
      T* const last = reinterpret_cast<T*>(end) - n;
      for (ptrdiff_t i = 0; i < n; ++i) last[i] = a[i];
      first_lanes(last, n);
      load_ends_of(last, n);
    }
  }

  void first_lanes(T* last, ptrdiff_t n) {
    for (int i = 0; i < lanes; ++i) expected[i] = i < n ? a[i] : b[i];
    expect(V::load_first(last, n, V::load(b)), "load_first", n);
    for (int i = 0; i < lanes; ++i) expected[i] = i < n ? a[i] : 0;
    expect(load_lanes<V, false>(last, n), "load_lanes", n);
    const T before = static_cast<T>(7);
    last[-1] = before;
    V::load(c).store_first(last, n);
    check(same(last, c, n) && same(last - 1, &before, 1), "store_first at the end", lanes, sizeof(T), n);
    for (int i = 0; i < lanes; ++i) expected[i] = found[i] = a[i];
    for (ptrdiff_t i = 0; i < n; ++i) expected[i] = d[i];
    V::load(d).store_first(found, n);
    check(same(found, expected, lanes), "store_first", lanes, sizeof(T), n);
    for (ptrdiff_t i = 0; i < n; ++i) last[i] = a[i];
  }

  // Each of n numbers is in some lane, and goes back to where it was.
  void load_ends_of(T* last, ptrdiff_t n) {
    T copy[lanes];
    for (ptrdiff_t i = 0; i < n; ++i) copy[i] = last[i];
    const V both = load_ends(last, n, V::load(b));
    for (ptrdiff_t i = 0; i < n; ++i) last[i] = 0;
    store_ends(both, last, n);
    check(same(last, copy, n), "load_ends, store_ends", lanes, sizeof(T), n);
  }

  void all(char* end) {
    for (int round = 0; round < 8; ++round) {
      fill(a, lanes);
      fill(b, lanes);
      fill(c, lanes);
      fill(d, lanes);
      arithmetic();
      choices();
      memory(end);
    }
  }
};

// The nearest number of 16 bits, by comparing distances. Past the largest, the next step would be 2^limit.
template <typename S>
S nearest(float a, int limit) {
  const double size = std::fabs(static_cast<double>(a));
  int low = 0, high = 0x7fff;  // bits of numbers >= 0, which are in the order of these
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    S s;
    s.bits = static_cast<uint16_t>(middle);
    (static_cast<double>(static_cast<float>(s)) <= size ? low : high) = middle;  // NaN is not
  }
  S below, above;
  below.bits = static_cast<uint16_t>(low);
  above.bits = static_cast<uint16_t>(low + 1);
  const double next = static_cast<float>(above), step = std::isinf(next) ? std::ldexp(1.0, limit) : next;
  const double down = size - static_cast<float>(below), up = step - size;
  const bool is_up = !std::isinf(static_cast<float>(below)) && (up < down || (up == down && low % 2 == 1));
  S result = is_up ? above : below;
  if (std::signbit(a)) result.bits = static_cast<uint16_t>(result.bits | 0x8000);
  return result;
}

// One number of 16 bits, from its fields.
template <typename S, int FRACTION, int BIAS>
double value_of(int bits) {
  const int fraction = bits & ((1 << FRACTION) - 1), exponent = (bits & 0x7fff) >> FRACTION;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - BIAS - FRACTION);
  if (exponent == 2 * BIAS + 1) return fraction == 0 ? sign * HUGE_VAL : std::nan("");
  return sign * std::ldexp((1 << FRACTION) + fraction, exponent - BIAS - FRACTION);
}

// Numbers between two of 16 bits: the middle of them (place 0), or the floats below and above that.
template <typename S, typename V>
void rounded_between(const S* from, int place, int limit) {
  constexpr int lanes = V::lanes;
  S found[lanes];
  float between[lanes];
  for (int i = 0; i < lanes; ++i) {
    S next = from[i];
    next.bits = static_cast<uint16_t>(next.bits + 1);
    const double a = static_cast<float>(from[i]), b = static_cast<float>(next);
    const double end = std::ldexp(b < 0 ? -1.0 : 1.0, limit);
    const float middle = static_cast<float>((a + (std::isinf(b) ? end : b)) / 2);
    between[i] = place == 0 ? middle : std::nextafter(middle, place < 0 ? -HUGE_VALF : HUGE_VALF);
    if (!std::isfinite(a) || (next.bits & 0x7fff) == 0) between[i] = static_cast<float>(from[i]);
  }
  V::load(between).store(found);
  for (int i = 0; i < lanes; ++i) {
    const float a = between[i];
    const S one = static_cast<S>(a);
    if (std::isnan(a)) {
      check(std::isnan(static_cast<float>(one)) && std::isnan(static_cast<float>(found[i])), "NaN rounded", lanes, 2,
            i);
    } else {
      const S expected = nearest<S>(a, limit);
      check(one.bits == expected.bits && found[i].bits == expected.bits, "rounded", lanes, sizeof(S), from[i].bits);
    }
  }
}

// Every number of 16 bits widened, one at a time and in registers; each of them, the middle to the next one and the
// floats beside that, rounded.
template <typename S, int FRACTION, int BIAS, typename V>
void every_half() {
  constexpr int lanes = V::lanes;
  S from[lanes], found[lanes];
  float wide[lanes];
  for (int bits = 0; bits < 1 << 16; bits += lanes) {
    for (int i = 0; i < lanes; ++i) from[i].bits = static_cast<uint16_t>(bits + i);
    V::load(from).store(wide);
    for (int i = 0; i < lanes; ++i) {
      const double expected = value_of<S, FRACTION, BIAS>(bits + i), one = static_cast<float>(from[i]);
      const double all = static_cast<double>(wide[i]);
      const bool same_value = std::isnan(expected) ? std::isnan(one) && std::isnan(all) : one == expected && all == one;
      check(same_value && std::signbit(wide[i]) == (bits + i >= 0x8000), "widened", lanes, sizeof(S), bits + i);
    }
    V::load(wide).store(found);
    for (int i = 0; i < lanes; ++i) {
      const bool nan = std::isnan(wide[i]);
      const bool good = nan ? std::isnan(static_cast<float>(found[i])) : found[i].bits == from[i].bits;
      check(good, "there and back", lanes, sizeof(S), bits + i);
    }
    for (int place = -1; place <= 1; ++place) rounded_between<S, V>(from, place, BIAS + 1);
  }
}

// NaN whose payload is in digits that are cut off, or would carry into the exponent.
template <typename S, typename V>
void not_a_number() {
  const uint32_t kinds[] = {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu};
  for (uint32_t bits : kinds) {
    S found[V::lanes];
    V::splat(float_of(bits)).store(found);
    check(std::isnan(static_cast<float>(found[0])), "NaN in registers", V::lanes, sizeof(S), 0);
    check(std::isnan(static_cast<float>(S(float_of(bits)))), "NaN", 1, sizeof(S), 0);
  }
}

// The first n lanes of a register at the end of memory, as numbers of 16 bits.
template <typename S, typename V>
void first_halves(char* end) {
  constexpr int lanes = V::lanes;
  float a[lanes], b[lanes], found[lanes];
  fill(a, lanes);
  fill(b, lanes);
  alignas(64) S all[lanes];
  V::load(a).stream(all);
  stream_fence();
  for (int i = 0; i < lanes; ++i) {
    check(all[i].bits == static_cast<S>(a[i]).bits, "halves streamed", lanes, sizeof(S), i);
  }
  for (ptrdiff_t n = 0; n <= lanes; ++n) {
    S* const last = reinterpret_cast<S*>(end) - n;
    const S before = static_cast<S>(7.0f);
    last[-1] = before;
    V::load(a).store_first(last, n);
    V::load_first(last, n, V::load(b)).store(found);
    bool good = last[-1].bits == before.bits;
    for (int i = 0; i < lanes; ++i) good = good && found[i] == (i < n ? static_cast<float>(all[i]) : b[i]);
    check(good, "first halves", lanes, sizeof(S), n);
  }
}

template <typename V>
void halves(char* end) {
  every_half<F16, 10, 15, V>();
  every_half<BF16, 7, 127, V>();
  not_a_number<F16, V>();
  not_a_number<BF16, V>();
  first_halves<F16, V>(end);
  first_halves<BF16, V>(end);
}

template <typename T>
void all_registers(char* end) {
  Registers<typename NativeOf<T>::type>().all(end);
  Registers<Piece<T>>().all(end);
  Registers<Vec<T>>().all(end);
  Registers<Vecs<T, 2>>().all(end);
  Registers<Vecs<T, 4>>().all(end);
}

// What only double has: division, root, an exact residual, comparison; of one row or several at a time.
template <int ROWS>
struct PerRowChecks {
  using P = PerRow<ROWS>;
  double a[ROWS], b[ROWS], c[ROWS], expected[ROWS];
  P x, y, z;

  void expect(P result, const char* what) {
    double found[ROWS];
    write(result, found);
    check(same(found, expected, ROWS), what, ROWS, sizeof(double), ROWS);
  }

  void all() {
    fill(a, ROWS);
    fill(b, ROWS);
    fill(c, ROWS);
    read(x, a);
    read(y, b);
    read(z, c);
    arithmetic();
    comparison();
    floats();
  }

  void arithmetic() {
    for (int i = 0; i < ROWS; ++i) expected[i] = a[i] + b[i];
    expect(x + y, "rows +");
    for (int i = 0; i < ROWS; ++i) expected[i] = a[i] - b[i];
    expect(x - y, "rows -");
    for (int i = 0; i < ROWS; ++i) expected[i] = a[i] * b[i];
    expect(x * y, "rows *");
    for (int i = 0; i < ROWS; ++i) expected[i] = a[i] / b[i];
    expect(x / y, "rows /");
    for (int i = 0; i < ROWS; ++i) expected[i] = std::sqrt(a[i] * a[i]);
    expect(sqrt(x * x), "rows sqrt");
    for (int i = 0; i < ROWS; ++i) expected[i] = std::fma(a[i], b[i], c[i]);
    expect(fused(x, y, z), "rows fused");
  }

  // One row that is less, or not a number, decides for all.
  void comparison() {
    check(all_le(x, x), "rows all_le, equal", ROWS, sizeof(double), ROWS);
    for (int i = 0; i < ROWS; ++i) {
      double less[ROWS];
      for (int k = 0; k < ROWS; ++k) less[k] = k == i ? std::nextafter(a[k], -1e9) : a[k];
      P other;
      read(other, less);
      check(!all_le(x, other) && all_le(other, x), "rows all_le, one less", ROWS, sizeof(double), i);
      less[i] = std::numeric_limits<double>::quiet_NaN();
      read(other, less);
      check(!all_le(x, other) && !all_le(other, x), "rows all_le, one NaN", ROWS, sizeof(double), i);
    }
  }

  void floats() {
    float narrow[ROWS], narrowed[ROWS];
    fill(narrow, ROWS);
    P wide;
    read(wide, narrow);
    for (int i = 0; i < ROWS; ++i) expected[i] = narrow[i];
    expect(wide, "rows read from float");
    write(z, narrowed);
    for (int i = 0; i < ROWS; ++i) narrow[i] = static_cast<float>(c[i]);
    check(same(narrowed, narrow, ROWS), "rows written to float", ROWS, sizeof(float), ROWS);
  }
};

// float in double, and halves of a register added up.
void widening() {
  alignas(64) float a[16];
  double found[16], expected[16];
  fill(a, 16);
  widen(Vec<float>::load(a)).store(found);
  for (int i = 0; i < 16; ++i) expected[i] = a[i];
  check(same(found, expected, 16), "widen", 16, sizeof(float), 16);
  widen_folded(Vec<float>::load(a)).store(found);
  for (int i = 0; i < 8; ++i) expected[i] = static_cast<double>(a[i] + a[i + 8]);
  check(same(found, expected, 8), "widen_folded", 16, sizeof(float), 8);
  double b[8];
  fill(b, 8);
  fold_halves(Vec<double>::load(b)).store(found);
  for (int i = 0; i < 4; ++i) expected[i] = b[i] + b[i + 4];
  check(same(found, expected, 4), "fold_halves", 8, sizeof(double), 4);
}

// fold() of 1 to 4 registers, in either form.
template <typename T, int COUNT>
void folding() {
  T a[4 * LANES<T>], found[LANES<T>], expected[LANES<T>];
  fill(a, COUNT * LANES<T>);
  Vec<T> registers[COUNT];
  for (int k = 0; k < COUNT; ++k) registers[k] = Vec<T>::load(a + k * LANES<T>);
  for (int i = 0; i < LANES<T>; ++i) {
    const T* const p = a + i;
    const T low = COUNT > 1 ? p[0] + p[LANES<T>] : p[0];
    const T high = COUNT > 3 ? p[2 * LANES<T>] + p[3 * LANES<T>] : p[2 * LANES<T>];
    expected[i] = COUNT > 2 ? low + high : low;
  }
  fold<COUNT>(registers).store(found);
  check(same(found, expected, LANES<T>), "fold of registers", LANES<T>, sizeof(T), COUNT);
  if constexpr (COUNT != 3) {
    fold<T, COUNT>(Vecs<T, COUNT>::load(a)).store(found);
    check(same(found, expected, LANES<T>), "fold", COUNT * LANES<T>, sizeof(T), COUNT);
  }
}

// A total loses nothing that a sum in T's precision would.
template <typename T>
void totals() {
  Vec<T> large = Vec<T>::splat(1), small = Vec<T>::splat(std::numeric_limits<T>::epsilon() / 8);
  auto sums = Totals<T, 2>::of({{large, small}});
  for (int i = 0; i < 1000; ++i) sums.add({{small, large}});
  double stored[Totals<T, 2>::SIZE];
  sums.store(stored);
  auto again = Totals<T, 2>::zero();
  again.add(Totals<T, 2>::load(stored));
  const auto folded = again.folded();
  const double eps = static_cast<double>(std::numeric_limits<T>::epsilon()), lanes = LANES<T>;
  const double first = static_cast<double>(folded.of[0].sum()), second = static_cast<double>(folded.of[1].sum());
  check(std::fabs(first / lanes - (1 + 125 * eps)) <= eps, "total of many small ones", LANES<T>, sizeof(T), 1000);
  check(std::fabs(second / lanes - 1000) <= 500 * eps, "total of many large ones", LANES<T>, sizeof(T), 1000);
}

void everything() {
  char* const end = end_of_memory();
  all_registers<float>(end);
  all_registers<double>(end);
  halves<NativeOf<float>::type>(end);
  halves<Vec<float>>(end);
  PerRowChecks<1>().all();
  PerRowChecks<2>().all();
  PerRowChecks<4>().all();
  PerRowChecks<8>().all();
  widening();
  folding<float, 1>(), folding<float, 2>(), folding<float, 3>(), folding<float, 4>();
  folding<double, 1>(), folding<double, 2>(), folding<double, 3>(), folding<double, 4>();
  totals<float>();
  totals<double>();
}
}  // namespace
#ifdef ISA_FEATURES
FLN_TARGET_END
#endif

int main() {
  everything();
  std::printf("%ld checks, %ld failed\n", checked, failed);
  return failed > 0;
}
