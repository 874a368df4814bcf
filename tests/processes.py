"""Waiting for forked children. It imports nothing of fastln: some of its users do that in the child first."""

import os
import signal
import time


def wait_for(child, seconds=10):
    """The exit status of a child, or why there is none: one that hangs is ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"
