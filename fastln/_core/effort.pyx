# cython: cdivision=True
"""How much effort a call gets: how many threads, whether the GIL is kept, whether its result goes past the cache.

What is remembered of earlier calls (`waking`, `stores`) is shared by all threads of the process, which decide without
the GIL. A flag guards it, and who finds it taken does not wait: that call decides as if nothing were known, and is not
told. It is held for some 50 ns, by calls of 256 KiB and more. So nobody waits for a thread that a fork left behind.
"""

import os

from fastln._core.describe import describe
from fastln._core.stores cimport goes_past, tell
from fastln._core.threads cimport in_parallel, team_of
from fastln._core.waking cimport Waking

cdef extern from *:
    """
    #include <atomic>
    #include <chrono>
    #include <cmath>
    static double fln_clock(void) {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
    static std::atomic_flag fln_history = ATOMIC_FLAG_INIT;
    static bool fln_try_lock_history(void) { return !fln_history.test_and_set(std::memory_order_acquire); }
    static void fln_unlock_history(void) { fln_history.clear(std::memory_order_release); }
    // When the last call that might have got threads ended, and the last that did. Each thread has its own team.
    static thread_local double fln_last_call = -HUGE_VAL;
    static thread_local double fln_last_region = -HUGE_VAL;
    """
    double fln_clock() noexcept nogil
    bint try_lock_history "fln_try_lock_history"() noexcept nogil
    void unlock_history "fln_unlock_history"() noexcept nogil
    double last_call "fln_last_call"
    double last_region "fln_last_region"

# Below this many bytes read and written, a call stays on the calling thread: one thread takes 5 us for 256 KiB, 1.3
# times as long as two that are awake, and 1.8 times for 0.8 MB (128x768). From there on `Waking` decides.
DEFAULT_MIN_PARALLEL_BYTES = 256 * 1024

# The last-level cache where its size is not known.
DEFAULT_CACHE_BYTES = 32 * 1024 * 1024

# Nothing smaller than this part of the last-level cache gains from going past it.
cdef Py_ssize_t TRIED_SHARE = 8

FORWARD = Tuning(direction=0, arrays=2, parallel_factor=1, stream_share=1)

# Gradients of fewer rows than two chunks are no faster on two threads (64x768 float32, 0.6 MB, 0.97 times as fast;
# 128x768 1.7 times): so four times min_parallel_bytes. Before anything is known of a shape, dx goes past the cache from
# a quarter of stream_bytes on: with 32 MB of L3 that took 0.97 of the time at 1024x768 float32 (9 MB), 0.8 at 512x1024
# float64 (13 MB), 0.35 to 0.5 at 2560x768 (24 MB).
BACKWARD = Tuning(direction=1, arrays=3, parallel_factor=4, stream_share=4)

# With a residual the forward pass takes as long for as many bytes, and the gradients of as many rows need more.
ADD_FORWARD = Tuning(direction=2, arrays=4, parallel_factor=1, stream_share=1)
ADD_BACKWARD = Tuning(direction=3, arrays=4, parallel_factor=5, stream_share=4)

# Threads of a sequence wait for each other twice a step. One step of LSTM, batch 1, on one thread and on two that are
# near each other or far: 64 units (32768 products) 0.71, 0.58, 1.38 us; 96 units (73728) 1.37, 1.01, 1.98 us; 128 units
# (131072) 2.3, 1.47, 2.4 us.
cdef double MIN_PARALLEL_PRODUCTS = 98304

min_parallel_bytes = DEFAULT_MIN_PARALLEL_BYTES
stream_bytes = 0
# The same if nobody has set another, perhaps that very size: the size of the last-level cache.
cdef Py_ssize_t _cache_bytes = 0
cdef bint _stream_bytes_were_set = False

cdef Waking _waking = Waking()


cdef bint is_parallel_size(const Tuning* tuning, Py_ssize_t size) noexcept nogil:
    return size // tuning.parallel_factor >= min_parallel_bytes


cdef bint is_tried_size(Py_ssize_t size) noexcept nogil:
    """Whether calls of it are tried both ways: not if it is small, or somebody set the limit."""
    return size >= _cache_bytes // TRIED_SHARE and not _stream_bytes_were_set


cdef void begin_small(Effort* effort) noexcept nogil:
    effort.threads = effort.limit = 1
    effort.stream = effort.is_timed = effort.is_tried = False


cdef void begin(
    Effort* effort, const Tuning* tuning, const Shape* shape, Py_ssize_t parts, int limit, bint may_stream
) noexcept nogil:
    begin_small(effort)
    effort.shape = shape[0]
    effort.shape.direction = tuning.direction
    effort.busy = 0
    effort.parts = max(parts, 1)
    if limit > 1 and parts > 1 and is_parallel_size(tuning, shape.size) and not in_parallel():
        effort.limit = <int> min(limit, parts)
    effort.is_tried = may_stream and is_tried_size(shape.size)
    effort.is_timed = effort.limit > 1 or effort.is_tried
    if effort.is_timed:
        effort.began = now()
    if effort.limit > 1:
        choose_threads(effort)
    effort.shape.threads = effort.threads
    # Into pages that the system has yet to clear, stores past the cache gain little or lose: float32 results that the
    # caller kept took 0.9 to 1.06 of the time forward (3 to 32 MB), 0.85 to 1.6 backward; 2048x4096 had 0.91 of a
    # rival's speed that way and 1.04 with ordinary stores. But malloc may give pages anew that were used before, where
    # it is 0.25 to 0.85 of the time forward. So nothing is taken for granted of results that were allocated for the
    # call, and what is measured of them is kept apart.
    effort.stream = (
        may_stream and shape.size >= stream_bytes // tuning.stream_share
        and (_stream_bytes_were_set or not shape.is_fresh)
    )
    if effort.is_tried:
        choose_way(effort)


cdef void choose_threads(Effort* effort) noexcept nogil:
    cdef bint is_worth = min_parallel_bytes == 0, has_grown = False
    effort.gap, effort.pause = effort.began - last_call, effort.began - last_region
    if not is_worth and try_lock_history():
        is_worth = _waking.is_worth(effort.shape.size, effort.limit, effort.gap, effort.pause)
        unlock_history()
    if not is_worth:
        return
    effort.threads = team_of(effort.limit, &has_grown)
    if has_grown:  # neither the start of threads nor their being awake now says what it costs to wake them
        effort.began = now()
        effort.gap = effort.pause = 0


cdef int threads_of_sequence(Py_ssize_t size, double products, int limit) noexcept nogil:
    cdef bint has_grown = False
    if limit < 2 or size < min_parallel_bytes or in_parallel():
        return 1
    if products < MIN_PARALLEL_PRODUCTS and min_parallel_bytes > 0:
        return 1
    return team_of(limit, &has_grown)


cdef void choose_way(Effort* effort) noexcept nogil:
    """Past the cache or not, of those that find out."""
    if try_lock_history():
        effort.stream = goes_past(&effort.shape, effort.stream)
        unlock_history()
    else:
        effort.is_tried = False


cdef void end(const Effort* effort) noexcept nogil:
    if not effort.is_timed:
        return
    if effort.limit > 1:
        set_last(effort.ended, effort.threads > 1)
    if not try_lock_history():
        return
    cdef double seconds = effort.ended - effort.began
    if effort.is_tried:
        tell(&effort.shape, effort.stream, seconds)
    if effort.threads > 1:
        _waking.ran_together(effort.threads, effort.parts, seconds, effort.busy, effort.pause)
    elif effort.limit > 1 and effort.shape.size > 0:
        _waking.ran_alone(effort.shape.size, effort.limit, seconds, effort.gap, effort.pause)
    unlock_history()


cdef void set_last(double ended, bint on_several_threads) noexcept nogil:
    global last_call, last_region
    last_call = ended
    if on_several_threads:
        last_region = ended


cdef double now() noexcept nogil:
    return fln_clock()


# From Python


def set_min_parallel_bytes(size: int) -> int:
    """Set the size in bytes below which a call stays serial (FASTLN_MIN_PARALLEL_BYTES); returns the former one.

    Larger calls stay serial too while waking the threads has cost more than they save; 0 excepts none.
    """
    global min_parallel_bytes
    cdef Py_ssize_t former = min_parallel_bytes
    min_parallel_bytes = size
    return former


def get_min_parallel_bytes() -> int:
    """The size in bytes, read and written, below which a call stays serial."""
    return min_parallel_bytes


def set_stream_bytes(size: int | None) -> int | None:
    """Set the size in bytes from which results go past the cache (FASTLN_STREAM_BYTES); returns the former one.

    None stands for that of the last-level cache, as at the start: then calls around it find out by themselves.
    """
    global stream_bytes, _stream_bytes_were_set
    former = stream_bytes if _stream_bytes_were_set else None
    stream_bytes = _cache_bytes if size is None else size
    _stream_bytes_were_set = size is not None
    return former


def get_stream_bytes() -> int:
    """The size in bytes, read and written, from which results go past the cache."""
    return stream_bytes


def next_choice(direction, threads, rows, cols, size, least):
    """Whether the next call of a shape goes past the cache, which it does from `least` bytes on if nothing is known."""
    cdef Shape shape = Shape(direction, threads, rows, cols, size, False)
    cdef bint usual = size >= least
    return bool(goes_past(&shape, usual)) if is_tried_size(size) else bool(usual)


def tell_seconds(direction, threads, rows, cols, size, past, seconds):
    """What that call took, in seconds."""
    cdef Shape shape = Shape(direction, threads, rows, cols, size, False)
    if is_tried_size(size):
        tell(&shape, past, seconds)


def _find_cache_bytes():
    """The last-level cache."""
    sizes = [_read_cache_size(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size") for level in range(4)]
    return max(sizes) or DEFAULT_CACHE_BYTES


def _read_cache_size(path):
    """Bytes from a file that says `32768K`; 0 where there is none. (sysconf may name the caches of all sockets.)"""
    try:
        with open(path) as file:
            text = file.read().strip()
    except OSError:
        return 0
    return int(text[:-1]) * 1024 if text.endswith("K") and text[:-1].isdigit() else 0


def _bytes_from_environment(name):
    """The size that an environment variable names, None if it is not set."""
    value = os.environ.get(name)
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise ImportError(f"{name} must be a number of bytes below 10**18, got {describe(value)}")
    return min(int(value), 1 << 56)


def _configure_from_environment():
    global _cache_bytes
    _cache_bytes = _find_cache_bytes()
    least = _bytes_from_environment("FASTLN_MIN_PARALLEL_BYTES")
    if least is not None:
        set_min_parallel_bytes(least)
    set_stream_bytes(_bytes_from_environment("FASTLN_STREAM_BYTES"))


def _unlock_history():
    unlock_history()


_configure_from_environment()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_history)
