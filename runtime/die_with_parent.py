"""Becomes a child process that cannot outlive its parent. Runs as a script, on the standard library alone.

`python die_with_parent.py PARENT SIGNAL COMMAND…`, a line that child_process.py writes, asks the kernel to send SIGNAL
to this process when PARENT is gone, then becomes COMMAND. A script of its own, because code between fork and exec of a
threaded process (`preexec_fn`) may deadlock.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arm the signal, see to it that it will be heard, then become the command."""
    parent, signal_number, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        # A parent that went before the call above will send nothing any more.
        if os.getppid() != parent:
            sys.exit(1)
    # A shell starts background jobs with SIGINT ignored, and dagster answers SIGTERM with whatever SIGINT does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 the command comes from our own code


if __name__ == "__main__":
    main()
