// Teams of OpenMP's threads, from outside of the runtime: how many threads the system grants, what the environment
// leaves of the CPUs, and whether a forked process has inherited a team whose threads are gone.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <set>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#define FLN_OPENMP _OPENMP
#else
#define FLN_OPENMP 0
static int omp_get_max_threads() { return 1; }
static int omp_get_num_procs() { return 1; }
static int omp_get_thread_limit() { return INT_MAX; }
static int omp_in_parallel() { return 0; }
#endif

#if FLN_OPENMP && defined(__linux__)
#include <signal.h>
#include <sys/syscall.h>
#if defined(__x86_64__) || defined(__aarch64__)
#define FLN_SEES_THREAD_STORAGE 1
#include <link.h>
#endif
#endif

namespace fln_teams {

#if FLN_OPENMP

// CPUs in the places to which the runtime binds its threads (OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY); 0 where it
// binds none. It pins the thread that loads it as well, whose own affinity then says nothing of the process.
inline int cpus_of_places() {
#if FLN_OPENMP >= 201511
  std::set<int> cpus;
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> some(std::max(omp_get_place_num_procs(place), 1));
    omp_get_place_proc_ids(place, some.data());
    cpus.insert(some.begin(), some.begin() + omp_get_place_num_procs(place));
  }
  return static_cast<int>(cpus.size());
#else
  return 0;
#endif
}

// ---- Threads that the system refuses
//
// A runtime that is refused a thread ends the process. So before a team grows, as many threads are started outside of
// it, all alive at the same time, and ended; then it grows at once, by a region that does nothing else. From then on
// the team tells when it shrinks: a member's thread-local storage is destroyed with its thread, whoever ended it.

// Another process may take the last thread between the trial and the growth, so the trial takes more than it needs.
constexpr int TO_SPARE = 1;

// After a refusal, the next trial waits so long. A trial and the growth of a team to 2 to 16 threads took 1 to 11 ms on
// 2 busy CPUs, so trials take no more than 1 in 100 of the time.
constexpr double RETRY_SECONDS = 1;

struct Team {
  std::atomic<int> alive{1};  // at least so many of its threads are

  void lower(int to) {
    int now = alive.load();
    while (now > to && !alive.compare_exchange_weak(now, to)) {
    }
  }
};

// What a thread of a team knows of it.
struct Member {
  std::shared_ptr<Team> team;
  int number = 0;

  ~Member() {
    if (team) team->lower(number);
  }
};

// What the thread that leads a team knows of it.
struct Leader {
  std::shared_ptr<Team> team;
  int granted = INT_MAX;  // by the last trial that was refused some
  double retry_at = 0;
};

inline thread_local Member member;
inline thread_local Leader leader;

// Whether a team is about to grow. One at a time: the threads of another's trial may be those that the system would
// have granted to this one. Who finds it set does not wait, and keeps the team that there is.
inline std::atomic_flag growing = ATOMIC_FLAG_INIT;

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The size of the stacks that the runtime will ask for, in bytes; 0: it will not say.
inline size_t stack_size() {
  for (const char* name : {"OMP_STACKSIZE", "GOMP_STACKSIZE"}) {
    const char* text = std::getenv(name);
    if (text == nullptr) continue;
    char* end;
    const unsigned long long number = std::strtoull(text, &end, 10);
    while (*end == ' ') ++end;
    const char* units = "bBkKmMgG";
    const char* unit = *end == '\0' ? units + 2 : std::strchr(units, *end);
    if (end != text && unit != nullptr) return static_cast<size_t>(number) << 10 * ((unit - units) / 2);
  }
  return 0;
}

struct Trial {
  pthread_mutex_t gate;
  std::vector<pthread_t> threads;
  std::vector<long> ids;  // as the system knows them; 0 where it does not say
};

struct Trying {
  Trial* trial;
  size_t number;
};

inline void* wait_at_gate(void* argument) {
  const Trying* self = static_cast<Trying*>(argument);
#ifdef SYS_gettid
  self->trial->ids[self->number] = syscall(SYS_gettid);
#endif
  pthread_mutex_lock(&self->trial->gate);
  pthread_mutex_unlock(&self->trial->gate);
  return nullptr;
}

// A thread that has been joined counts for the system's limits until its id is free, some microseconds later.
inline void wait_until_gone(const std::vector<long>& ids) {
#ifdef SYS_tgkill
  const double end = seconds() + 0.1;
  for (long id : ids) {
    while (id != 0 && syscall(SYS_tgkill, getpid(), id, 0) == 0 && seconds() < end) {
      const timespec pause{0, 20000};
      nanosleep(&pause, nullptr);
    }
  }
#else
  static_cast<void>(ids);
#endif
}

// How many of so many more threads the system grants to live at the same time, with what the runtime needs for them.
inline int try_threads(int count) {
  static const size_t stack = stack_size();
  Trial trial{PTHREAD_MUTEX_INITIALIZER, {}, std::vector<long>(count)};
  trial.threads.reserve(count);
  std::vector<Trying> starts(count);
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return 0;
  if (stack != 0) pthread_attr_setstacksize(&attributes, stack);
  pthread_mutex_lock(&trial.gate);
  for (int i = 0; i < count; ++i) {
    starts[i] = {&trial, static_cast<size_t>(i)};
    pthread_t thread;
    if (pthread_create(&thread, &attributes, wait_at_gate, &starts[i]) != 0) break;
    trial.threads.push_back(thread);
  }
  const int started = static_cast<int>(trial.threads.size());
  // libgomp allocates some hundred bytes a thread, and ends the process too where it cannot.
  void* bookkeeping = std::malloc(size_t{4096} * (count + 16));
  std::free(bookkeeping);
  pthread_mutex_unlock(&trial.gate);
  for (pthread_t thread : trial.threads) pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  wait_until_gone(trial.ids);
  return bookkeeping == nullptr ? 0 : started;
}

// A new team of the calling thread, or its old one grown: the number of threads that came.
inline int assemble(int count) {
  const auto team = std::make_shared<Team>();
  int came = 1;
#pragma omp parallel num_threads(count)
  {
    if (omp_get_thread_num() == 0) {
      came = omp_get_num_threads();
    } else {
      member.team = team;
      member.number = omp_get_thread_num();
    }
  }
  team->alive = came;
  leader.team = team;
  return came;
}

inline int grow(int alive, int count) {
  if (growing.test_and_set(std::memory_order_acquire)) return alive;
  const int wanted = count - alive;
  int granted = alive;
  try {
    granted += std::clamp(try_threads(wanted + TO_SPARE) - TO_SPARE, 0, wanted);
    if (granted > alive) granted = assemble(granted);
  } catch (...) {  // no memory
    granted = alive;
  }
  growing.clear(std::memory_order_release);
  if (granted < count) {
    leader.granted = granted;
    leader.retry_at = seconds() + RETRY_SECONDS;
  }
  return granted;
}

// Makes sure of a team of up to `count` threads, the calling one among them, right before its parallel loop. Returns
// how many the loop may have, and whether that took any time.
inline int team_of(int count, int* has_grown) noexcept {
  const int alive = leader.team ? leader.team->alive.load() : 1;
  if (count > alive && count > leader.granted && seconds() < leader.retry_at) {
    count = std::max(leader.granted, alive);
  }
  *has_grown = count > alive;
  if (*has_grown) return grow(alive, count);
  if (count > 1 && count < alive) leader.team->lower(count);  // the runtime ends those that a smaller team leaves out
  return count;
}

// ---- Forks
//
// A runtime keeps a team for the thread that led it. A child has that thread alone, and libgomp waits for the others
// for ever.

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

inline int cpus_of_places() { return 0; }
inline int team_of(int, int* has_grown) noexcept { return *has_grown = 0, 1; }
inline bool may_have_led() noexcept { return false; }
inline void forget_teams() noexcept {}
inline bool is_first_thread() noexcept { return true; }

#endif

}  // namespace fln_teams
