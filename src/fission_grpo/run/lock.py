"""One writer for each folder: whoever writes into one holds its lock, and a second one is refused by name.

The lock is the kernel's (`flock`) on the file `.lock` in the folder. It is gone with the process that holds it, however
that ends, so that a lock which was left behind is none: the next one takes the file over. What the file says (process,
host, since when) is for the refusal alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fission_grpo.errors import ConfigError
from fission_grpo.files import remove_halves

LOCK = ".lock"
"""Its name in the folder."""
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that know no locks."""


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Be the only one that writes into a folder, which is made; halves of files that a crash left there are removed.

    A folder that was made for it and stays empty goes again. On a file system without locks a warning says that nobody
    is kept out.

    Raises:
        ConfigError: another process writes into it; it is named. Or the folder cannot be made.
    """
    new = not folder.exists()
    try:
        with _holding(folder):
            remove_halves(folder)
            yield
    finally:
        if new:
            with suppress(OSError):  # it holds something by now
                folder.rmdir()


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}; choose another --output") from error
    if file is None:
        raise ConfigError(f"{folder} is being written by {_owner(path)}; wait for it, or choose another --output")
    with file:
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: see `_locked`


def _locked(path: Path) -> IO[str] | None:
    """The lock file, held; None if somebody else holds it.

    Who had it before removes it: a file that has lost its name by the time it is held locks nobody out, and the one
    that bears the name now is tried.
    """
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                file.close()
                raise
            warnings.warn(f"{path}: this file system has no locks; start nothing else in this folder", stacklevel=4)
            return file
        file.close()


def _owner(path: Path) -> str:
    """Who holds a lock, as far as the file says."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        since = max(0.0, time.time() - float(note["since"]))
        return f"process {int(note['pid'])} of {note['host']}, which began {since:.0f} s ago"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written it yet
        return "another process"
