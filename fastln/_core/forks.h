// Whether a forked process has inherited a team of OpenMP's threads: a runtime keeps a team for the thread that led it.
// A child has that thread alone, and libgomp waits for the others for ever.
#pragma once

#include "teams.h"

#if FLN_OPENMP && defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#define FLN_SEES_THREAD_STORAGE 1
#include <link.h>
#endif

namespace fln_teams {

#if FLN_OPENMP

#ifdef FLN_SEES_THREAD_STORAGE

// What the runtime keeps for the calling thread is in its thread-local storage.
struct Storage {
  const void* code;  // of the runtime, by which it is found
  const unsigned char* data;
  size_t size;
};

struct TlsIndex {
  unsigned long module, offset;
};
extern "C" void* __tls_get_addr(TlsIndex*);

inline int visit_object(dl_phdr_info* info, size_t, void* argument) {
  Storage* storage = static_cast<Storage*>(argument);
  bool is_runtime = false;
  size_t size = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    const uintptr_t code = reinterpret_cast<uintptr_t>(storage->code);
    is_runtime = is_runtime || (segment.p_type == PT_LOAD && code - begin < segment.p_memsz);
    if (segment.p_type == PT_TLS) size = segment.p_memsz;
  }
  if (!is_runtime) return 0;
  if (info->dlpi_tls_modid != 0) {
    TlsIndex index{static_cast<unsigned long>(info->dlpi_tls_modid), 0};
    storage->data = static_cast<const unsigned char*>(__tls_get_addr(&index));
    storage->size = size;
  }
  return 1;
}

// A copy; empty where it is not found.
inline std::vector<unsigned char> copy_of_storage() {
  Storage storage{reinterpret_cast<const void*>(&omp_get_num_procs), nullptr, 0};
  dl_iterate_phdr(visit_object, &storage);
  if (storage.data == nullptr) return {};
  return {storage.data, storage.data + storage.size};
}

struct Example {
  std::vector<unsigned char> before, after;
};

// A new thread leads a team of its own alone.
inline void* lead_a_team(void* argument) {
  Example* example = static_cast<Example*>(argument);
  try {
    example->before = copy_of_storage();
#pragma omp parallel num_threads(1)
    {
      std::atomic_signal_fence(std::memory_order_seq_cst);
    }
    example->after = copy_of_storage();
  } catch (...) {
    example->after.clear();
  }
  return nullptr;
}

inline std::vector<uint64_t> words_of(const std::vector<unsigned char>& bytes) {
  std::vector<uint64_t> words(bytes.size() / sizeof(uint64_t));
  if (!words.empty()) std::memcpy(words.data(), bytes.data(), words.size() * sizeof(uint64_t));
  return words;
}

// From here on a number is taken for an address that an allocation gave; the runtime's counts are smaller.
constexpr uint64_t ADDRESSES = uint64_t{1} << 38;

// Whether the calling thread may have led a team. Nothing is known of what is where in the storage: a new thread shows
// in which words there are addresses once a team is made. Where the calling thread has none there, it has led none.
inline bool may_have_led() noexcept {
  try {
    const std::vector<unsigned char> bytes = copy_of_storage();
    if (bytes.empty()) return true;
    if (std::all_of(bytes.begin(), bytes.end(), [](unsigned char byte) { return byte == 0; })) return false;
    Example example;
    pthread_t thread;
    if (pthread_create(&thread, nullptr, lead_a_team, &example) != 0) return true;
    pthread_join(thread, nullptr);
    if (example.before.size() != bytes.size() || example.after.size() != bytes.size()) return true;
    const auto own = words_of(bytes), before = words_of(example.before), after = words_of(example.after);
    bool is_known = false;
    for (size_t i = 0; i < own.size(); ++i) {
      if (before[i] != 0 || after[i] < ADDRESSES) continue;
      is_known = true;
      if (own[i] != 0) return true;
    }
    return !is_known;
  } catch (...) {
    return true;
  }
}

#else

// Where the storage is not seen, what this library did is all that is known.
inline bool may_have_led() noexcept { return leader.team != nullptr; }

#endif

// For a child right after the fork: the teams of its parent's threads are not its own.
inline void forget_teams() noexcept {
  leader = Leader{};
  growing.clear();
}

// Whether the calling thread is the first of its process: in a child, the one that forked.
inline bool is_first_thread() noexcept {
#if defined(__linux__)
  return syscall(SYS_gettid) == getpid();
#else
  return true;
#endif
}

#else  // built without OpenMP

inline bool may_have_led() noexcept { return false; }
inline void forget_teams() noexcept {}
inline bool is_first_thread() noexcept { return true; }

#endif

}  // namespace fln_teams
