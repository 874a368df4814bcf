// Teams of OpenMP's threads, from outside of the runtime: how many threads the system grants, and what the environment
// leaves of the CPUs.
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

// Threads that the system refuses
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

#else  // built without OpenMP

inline int cpus_of_places() { return 0; }
inline int team_of(int, int* has_grown) noexcept { return *has_grown = 0, 1; }

#endif

}  // namespace fln_teams
