"""How many threads a call may have, and the only place that asks the OpenMP runtime anything.

Nothing here sets a count in the runtime (omp_set_num_threads would leak into every other user of it): each parallel
loop names its own. Limits that others set there, threadpoolctl's or PyTorch's, are honoured.
"""

import contextlib
import contextvars
import operator
import os

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define FLN_OPENMP _OPENMP
    #else
    #define FLN_OPENMP 0
    static int omp_get_max_threads(void) { return 1; }
    static int omp_get_num_procs(void) { return 1; }
    static int omp_in_parallel(void) { return 0; }
    #endif
    """
    const int FLN_OPENMP
    int omp_get_max_threads() nogil
    int omp_get_num_procs() nogil
    int omp_in_parallel() noexcept nogil

cdef int _chosen = 0  # by set_num_threads; 0: nobody did
cdef int _default = 0  # found on first use
cdef str _default_reason = ""
# What the OpenMP runtime says where nobody has limited it.
cdef int _unlimited = omp_get_max_threads() if os.environ.get("OMP_NUM_THREADS") else omp_get_num_procs()
cdef bint _ran_parallel = False
cdef bint _forked_after_parallel = False

_scoped = contextvars.ContextVar("fastln.threads", default=0)


def openmp_version() -> int:
    """The OpenMP version this build was compiled with as yyyymm, 0 without OpenMP."""
    return FLN_OPENMP


def get_num_threads() -> int:
    """Number of threads that a large call made here would use.

    Returns
    -------
    int
        What `threads` or `set_num_threads` said, else OMP_NUM_THREADS if that is set, else the CPUs that this process
        may use (affinity and cgroup quota). Never more than a limit set in the OpenMP runtime (by threadpoolctl, say).
        1 in a build without OpenMP, and in a child process forked after this library had used several threads.
    """
    return thread_limit(None)


def set_num_threads(num_threads: int) -> None:
    """Set the number of threads of large calls, for the whole process.

    Parameters
    ----------
    num_threads : int
        At least 1. The results have the same bits whatever it is.

    Raises
    ------
    TypeError
        If num_threads is not an int.
    ValueError
        If it is less than 1.
    """
    global _chosen
    if num_threads is None:
        raise TypeError("num_threads must be an int >= 1, got None")
    _chosen = asked_threads(num_threads)


def threads(num_threads: int):
    """Context manager: the number of threads of large calls within, in this thread or task.

    Parameters
    ----------
    num_threads : int
        At least 1.

    Raises
    ------
    TypeError
        If num_threads is not an int.
    ValueError
        If it is less than 1.
    """
    if num_threads is None:
        raise TypeError("num_threads must be an int >= 1, got None")
    return _threads_scope(asked_threads(num_threads))


@contextlib.contextmanager
def _threads_scope(num_threads):
    token = _scoped.set(num_threads)
    try:
        yield
    finally:
        _scoped.reset(token)


def threads_reason() -> str:
    """Why get_num_threads() is what it is."""
    if not FLN_OPENMP:
        return "built without OpenMP"
    if _forked_after_parallel:
        return "forked after a parallel call"
    asked, reason = _asked()
    if _runtime_limit() < asked:
        return "limit set in the OpenMP runtime"
    return reason


def cgroup_quota() -> float | None:
    """The CPU quota of this process's control group in CPUs (cgroup v2 or v1), None where there is none."""
    quotas = [
        *(_read_quota(os.path.join(path, "cpu.max")) for path in _cgroup_folders("", "/sys/fs/cgroup")),
        *(
            _read_quota(os.path.join(path, "cpu.cfs_quota_us"), os.path.join(path, "cpu.cfs_period_us"))
            for path in _cgroup_folders("cpu", "/sys/fs/cgroup/cpu")
        ),
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _read_quota(*paths):
    """CPUs from files that hold a quota and a period; None where they are missing or say there is no limit."""
    words = []
    try:
        for path in paths:
            with open(path) as file:
                words += file.read().split()
        quota, period = int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _cgroup_folders(controller, root):
    """Folders of this process's control group and those above it, up to the root that a container sees."""
    folders = []
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controller in controllers.split(","):
                # A quota on any group above counts too.
                while path not in ("", "/"):
                    folders.append(root + path)
                    path = os.path.dirname(path)
    return [*folders, root]


def _find_default():
    """The default thread count and the reason for it."""
    if os.environ.get("OMP_NUM_THREADS"):
        return _unlimited, "OMP_NUM_THREADS"
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cpus = os.cpu_count() or 1
    quota = cgroup_quota()
    if quota is not None and quota < cpus:
        return max(1, int(quota)), "cgroup quota"
    return cpus, "CPUs this process may run on"


cdef tuple _asked():
    global _default, _default_reason
    scoped = _scoped.get()
    if scoped:
        return scoped, "threads()"
    if _chosen:
        return _chosen, "set_num_threads()"
    if not _default:
        _default, _default_reason = _find_default()
    return _default, _default_reason


cdef int limit_of(int asked) except -1:
    if not FLN_OPENMP or _forked_after_parallel:
        return 1
    return asked if asked > 0 else min(_asked()[0], _runtime_limit())


cdef int thread_limit(object num_threads) except -1:
    return limit_of(asked_threads(num_threads))


cdef int _runtime_limit():
    """The limit that somebody else has set in the OpenMP runtime for this thread; very many if there is none."""
    cdef int runtime = omp_get_max_threads()
    return runtime if runtime != _unlimited else 1 << 16


cdef int asked_threads(object num_threads) except -1:
    if num_threads is None:
        return 0
    if isinstance(num_threads, bool) or not hasattr(type(num_threads), "__index__"):
        raise TypeError(f"num_threads must be an int >= 1, got {num_threads!r}")
    count = operator.index(num_threads)
    if count < 1:
        raise ValueError(f"num_threads must be an int >= 1, got {num_threads!r}")
    return min(count, 1 << 16)


cdef bint in_parallel() noexcept nogil:
    return omp_in_parallel()


cdef int team_of(int count, bint* has_grown) noexcept nogil:
    global _ran_parallel
    _ran_parallel = True
    has_grown[0] = False
    return count


def _after_fork_in_child():
    """libgomp's threads do not survive a fork, and a parallel loop in the child would wait for them for ever."""
    global _forked_after_parallel
    if _ran_parallel:
        _forked_after_parallel = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
