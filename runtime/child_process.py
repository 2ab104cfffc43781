"""Child processes: how they end with the process that started them, and what their exit codes mean."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKPOINT_HELD = 75
"""Exit code of a router that finds another one at work on its checkpoint (EX_TEMPFAIL of sysexits.h)."""

LAUNCHER = Path(__file__).with_name("die_with_parent.py")


def bound_command(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """The command, to be started by this process, such that the kernel ends it when this process is gone.

    Linux sends the signal when the *thread* that forked ends, not the process: start it from a thread that lives as
    long as the process does. Elsewhere than on Linux the command runs as it is, and may survive us.

    Args:
        command: absolute path of the executable, and its arguments.
        death_signal: what the kernel sends it.
    """
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(death_signal)), *command]
