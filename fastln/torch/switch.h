// Whether the kernels take calls at all, who has called them, and what became of the calls. All of it is read and
// written by any thread, without a lock and without the GIL.
#pragma once

#include <atomic>
#include <cstdint>

namespace fastln_torch {

enum Operator { NATIVE_LAYER_NORM, NATIVE_LAYER_NORM_BACKWARD, FUSED_RMS_NORM, FUSED_RMS_NORM_BACKWARD, OPERATORS };

// What became of a call: taken, or why PyTorch's own kernel was called instead.
enum Outcome { TAKEN, DTYPE, MIXED_DTYPES, LAYOUT, EMPTY, ARGUMENTS, MEMORY, SWITCHED_OFF, OUTCOMES };

struct Switch {
  std::atomic<bool> is_on{false};
  std::atomic<int64_t> inside{0};  // calls that are in a kernel now
  std::atomic<int64_t> counts[OPERATORS][OUTCOMES] = {};
  // Of the threads that have called since the kernels were registered: the first, and whether there are others.
  std::atomic<uintptr_t> first_thread{0};
  std::atomic<bool> has_others{false};
};

inline Switch state;

inline uintptr_t this_thread() noexcept {
  static thread_local char mark;
  return reinterpret_cast<uintptr_t>(&mark);
}

// A call, from its entry into a kernel to its end.
class Inside {
 public:
  Inside() noexcept {
    state.inside.fetch_add(1);
    const uintptr_t self = this_thread();
    uintptr_t first = state.first_thread.load(std::memory_order_relaxed);
    if (first == 0 && state.first_thread.compare_exchange_strong(first, self)) return;
    if (first != self) state.has_others.store(true);
  }
  ~Inside() { state.inside.fetch_sub(1); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

inline void count(Operator which, Outcome outcome) noexcept {
  state.counts[which][outcome].fetch_add(1, std::memory_order_relaxed);
}

inline int64_t calls_so_far(int which, int outcome) noexcept { return state.counts[which][outcome].load(); }

inline void turn(bool is_on) noexcept { state.is_on.store(is_on); }

// Whether nobody is in a kernel, and nobody but the calling thread has been in one.
inline bool are_callers_gone() noexcept {
  const uintptr_t first = state.first_thread.load();
  return state.inside.load() == 0 && !state.has_others.load() && (first == 0 || first == this_thread());
}

inline void forget_callers() noexcept {
  state.first_thread.store(0);
  state.has_others.store(false);
}

}  // namespace fastln_torch
