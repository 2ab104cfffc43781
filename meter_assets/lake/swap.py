"""Two folders change places in one step of the file system."""

import ctypes
import errno
import os
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL)


def exchange(one: Path, other: Path) -> None:
    """Each gets the other's name; at no moment is either of them missing.

    Linux does it in one step (renameat2). Elsewhere, and on the few file systems without it (NFS), there is a moment
    without `other` between two renames.

    Args:
        one: a folder on the same file system as `other`.
        other: the folder that others may be reading.

    Raises:
        OSError: the file system refuses.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        _in_two_steps(one, other)
        return
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in UNSUPPORTED:
        raise OSError(code, os.strerror(code), str(other))
    _in_two_steps(one, other)


def _in_two_steps(one: Path, other: Path) -> None:
    aside = one.with_name(f"{one.name}.aside")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
