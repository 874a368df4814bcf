"""How many threads a call may have, and the only place that asks the OpenMP runtime anything.

Nothing here sets a count in the runtime (omp_set_num_threads would leak into every other user of it): each parallel
loop names its own. Limits that others set there, threadpoolctl's or PyTorch's, are honoured.
"""

import contextlib
import contextvars
import operator
import os

from cpython.contextvars cimport get_value
from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_CheckExact

from fastln._core.describe import describe

cdef extern from "forks.h" nogil:
    const int FLN_OPENMP
    int omp_get_max_threads()
    int omp_get_num_procs()
    int omp_get_thread_limit()
    int omp_in_parallel()

cdef extern from "forks.h" namespace "fln_teams" nogil:
    int cpus_of_places()
    int grant "fln_teams::team_of"(int, bint*) noexcept
    bint may_have_led() noexcept
    void forget_teams() noexcept
    bint is_first_thread() noexcept

# The most threads that a call gets, whatever is asked for, for each CPU that the process may use. A second one on a CPU
# gains nothing here; eight leave room for settings that were made for a larger machine, and for tests.
cdef int MOST_THREADS_PER_CPU = 8

cdef int _most = min(MOST_THREADS_PER_CPU * omp_get_num_procs(), omp_get_thread_limit())
cdef int _chosen = 0  # by set_num_threads; 0: nobody did
cdef int _default = 0  # found on first use
cdef str _default_reason = ""
# What the OpenMP runtime says where nobody has limited it.
cdef int _unlimited = omp_get_max_threads() if os.environ.get("OMP_NUM_THREADS") else omp_get_num_procs()

# What this process is. A child that was forked (and not replaced by another program) may have inherited a team whose
# threads are gone.
cdef enum:
    HAS_OWN_TEAMS  # no child, or one that has inherited none
    UNJUDGED  # a child, and its first thread, which alone can tell, has not asked yet
    ORPHAN  # a child whose first thread has led a team in the parent: everything in it runs serially
cdef int _kind = HAS_OWN_TEAMS

# The scopes of `threads` that a thread or task is in: (number of threads, the scopes outside), None outside of all.
_scoped = contextvars.ContextVar("fastln.threads", default=None)


def openmp_version() -> int:
    """The OpenMP version this build was compiled with as yyyymm, 0 without OpenMP."""
    return FLN_OPENMP


def get_num_threads() -> int:
    """Number of threads that a large call made here would use.

    Returns
    -------
    int
        What `threads` or `set_num_threads` said, else OMP_NUM_THREADS if that is set, else the CPUs that this process
        may use (affinity and cgroup quota). Never more than a limit set in the OpenMP runtime (by threadpoolctl, say),
        than OMP_THREAD_LIMIT, or than 8 for each CPU that this process may use. The call runs on fewer where the system
        refuses to start so many. 1 in a build without OpenMP, and in a child process that was forked, not started anew,
        by a thread that had run in parallel with this library or another one on the same OpenMP runtime.

    Examples
    --------
    >>> import fastln
    >>> with fastln.threads(1):
    ...     fastln.get_num_threads()
    1
    """
    return limit_of(0)


def set_num_threads(num_threads: int) -> None:
    """Set the number of threads of large calls, for the whole process.

    Parameters
    ----------
    num_threads : int
        At least 1. The results have the same bits whatever it is. More than `get_num_threads` allows counts as that
        many: in a forked child where that is 1, calls stay serial whatever is set.

    Raises
    ------
    TypeError
        If num_threads is not an int.
    ValueError
        If it is less than 1.

    Examples
    --------
    >>> import fastln
    >>> fastln.set_num_threads(1)
    >>> fastln.get_num_threads()
    1
    """
    global _chosen
    _chosen = counted_threads(num_threads)


def threads(num_threads: int):
    """Context manager: the number of threads of large calls within, in this thread or task.

    One object may be entered any number of times, nested too.

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

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x = np.random.default_rng(0).standard_normal((4096, 768))
    >>> with fastln.threads(1):
    ...     alone = fastln.layer_norm(x)
    >>> np.array_equal(alone, fastln.layer_norm(x))
    True
    """
    return _ThreadsScope(counted_threads(num_threads))


class _ThreadsScope(contextlib.ContextDecorator):
    """The limit for as long as it is entered: any number of times, nested too, in any threads and tasks."""

    def __init__(self, num_threads):
        self._num_threads = num_threads

    def __enter__(self):
        _scoped.set((self._num_threads, get_value(_scoped)))

    def __exit__(self, *error):
        scope = get_value(_scoped)
        if scope is not None:  # else it was entered elsewhere, where it still holds
            _scoped.set(scope[1])


def threads_reason() -> str:
    """Why get_num_threads() is what it is."""
    if not FLN_OPENMP:
        return "built without OpenMP"
    limit = limit_of(0)
    if _kind == ORPHAN:
        return "forked after a parallel call"
    asked, reason = _asked()
    if limit == asked:
        return reason
    if limit < _most:
        return "limit set in the OpenMP runtime"
    return "OMP_THREAD_LIMIT" if limit == omp_get_thread_limit() else f"{MOST_THREADS_PER_CPU} per CPU are the most"


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
    cpus = min(cpus_of_places(), omp_get_num_procs())
    if not cpus:
        try:
            cpus = len(os.sched_getaffinity(0))
        except AttributeError:  # not on Linux
            cpus = os.cpu_count() or 1
    quota = cgroup_quota()
    if quota is not None and quota < cpus:
        return max(1, int(quota)), "cgroup quota"
    return cpus, "CPUs this process may run on"


cdef tuple _asked():
    """What was asked for outside of the call, in a scope or for the process, and by whom."""
    scoped = get_value(_scoped)
    if scoped is not None:
        return scoped[0], "threads()"
    if _chosen:
        return _chosen, "set_num_threads()"
    return default_threads(), _default_reason


cdef int default_threads() except -1:
    global _default, _default_reason
    if not _default:
        _default, _default_reason = _find_default()
    return _default


cpdef int asked_threads(object num_threads) except -1:
    cdef long count
    cdef int overflow = 0
    if num_threads is None:
        return 0
    count_as_int = num_threads
    if not PyLong_CheckExact(num_threads):
        count_as_int = _index_of(num_threads)
    count = PyLong_AsLongAndOverflow(count_as_int, &overflow)
    if overflow > 0:
        return _most
    if overflow < 0 or count < 1:
        raise ValueError(f"num_threads must be an int >= 1, got {describe(num_threads)}")
    return <int> min(count, _most)


cdef object _index_of(object num_threads):
    try:
        if not isinstance(num_threads, bool):
            return operator.index(num_threads)
    except TypeError:
        pass
    raise TypeError(f"num_threads must be an int >= 1, got {describe(num_threads)}")


cdef int counted_threads(object num_threads) except -1:
    """asked_threads of what must not be None."""
    if num_threads is None:
        raise TypeError("num_threads must be an int >= 1, got None")
    return asked_threads(num_threads)


cdef int limit_of(int asked) except -1:
    if is_serial():
        return 1
    return asked or limited(_asked()[0])


cdef int limit_without_gil() noexcept nogil:
    return 1 if is_serial() else limited(_chosen or _default)


cdef bint is_serial() noexcept nogil:
    """Whether every call runs on one thread, whatever is asked for."""
    return not FLN_OPENMP or _kind != HAS_OWN_TEAMS and is_orphan()


cdef int limited(int asked) noexcept nogil:
    """So many threads, or as many as are allowed. A limit that somebody else set in the runtime is this thread's."""
    cdef int runtime = omp_get_max_threads()
    return min(asked, _most, runtime if runtime != _unlimited else _most)


cdef bint in_parallel() noexcept nogil:
    return omp_in_parallel()


cdef int team_of(int count, bint* has_grown) noexcept nogil:
    return grant(count, has_grown)


cdef bint is_orphan() noexcept nogil:
    global _kind
    if _kind == UNJUDGED and is_first_thread():
        _kind = ORPHAN if may_have_led() else HAS_OWN_TEAMS
    return _kind == ORPHAN


def _after_fork_in_child():
    global _kind
    forget_teams()
    if _kind != ORPHAN:
        _kind = UNJUDGED
        is_orphan()


def _was_forked():
    """Whether this process was forked and still runs the program that it had then; known on Linux alone."""
    try:
        with open("/proc/self/stat") as file:
            flags = int(file.read().rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & 0x40)  # PF_FORKNOEXEC


if FLN_OPENMP:
    if _was_forked():
        _kind = UNJUDGED
        is_orphan()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork_in_child)
