// The threads of a team wait for each other within their parallel region, twice a step of a sequence. OpenMP has a
// barrier, for which Cython has no word; this one is an own one since who waits long gives its CPU to the thread that
// it waits for. Two threads on Zen 5, LSTM with 16 units, two waits a step: 0.32 to 0.9 us, with OpenMP's 1.05; while
// other processes had one of two CPUs, with 48 to 128 units, 20 to 80 us instead of 8 ms.
#pragma once

#include <atomic>

#ifdef _OPENMP
#include <omp.h>
#include <sched.h>
#endif

namespace fln_teams {

// Threads of the region that the calling thread is in, which may be fewer than were asked for.
inline int team_size() noexcept {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

// One for each region, all zeros at first.
struct Barrier {
  alignas(64) std::atomic<int> arrived;
  alignas(64) std::atomic<unsigned> passed;  // how often all have arrived
};

#ifdef _OPENMP

// So often a thread looks whether the others are here before it gives its CPU away, some microseconds. With 1000, steps
// on a busy machine took twice as long.
constexpr int SPINS = 100;

inline void pause_briefly() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Until all `threads` are here. What each has written before is seen by the others afterwards.
inline void wait_at(Barrier* barrier, int threads) noexcept {
  if (threads == 1) return;
  const unsigned passed = barrier->passed.load(std::memory_order_relaxed);
  if (barrier->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    barrier->arrived.store(0, std::memory_order_relaxed);
    barrier->passed.store(passed + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; barrier->passed.load(std::memory_order_acquire) == passed; ++spins) {
    spins < SPINS ? pause_briefly() : static_cast<void>(sched_yield());
  }
}

#else  // built without OpenMP

inline void wait_at(Barrier*, int) noexcept {}

#endif

}  // namespace fln_teams
