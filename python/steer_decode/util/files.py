"""Files read and written whole.

Whatever the system says, the sentence names the file.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import SteerError
from .interruption import held

# What a path may raise: the system's own, a null character or half a surrogate in it, a user
# without a home, a loop of links or a thousand folders within each other.
PATH_ERRORS = (OSError, ValueError, RuntimeError)
MOST_BYTES = 2**30


def reason(error: BaseException) -> str:
    """What an error about a file says, without the file."""
    strerror = getattr(error, "strerror", None)
    return str(strerror or error).partition("\n")[0] or type(error).__name__


def check_file(path: str | Path, what: str = "") -> None:
    """Refuse what cannot be mapped into memory.

    A folder, a device or a pipe is no file.

    Raises:
        SteerError: likewise where it is not there.
    """
    name = f"{what} {str(path)!r}".strip()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SteerError(f"cannot read {name}: it is no file")
    except SteerError:
        raise
    except PATH_ERRORS as error:
        raise SteerError(f"cannot read {name}: {reason(error)}") from error


def read_bytes(path: str | Path, what: str = "") -> bytes:
    """All of a file.

    Args:
        path: a file, a pipe, or /dev/null, which is empty; another device has no end.
        what: it is to be, as in "trace"; for the message.

    Raises:
        SteerError: it cannot be read, is a device or a folder, or larger than 1 GiB.
    """
    name = f"{what} {str(path)!r}".strip()
    try:
        with open(path, "rb") as file:
            kind = os.fstat(file.fileno()).st_mode
            nothing = stat.S_ISCHR(kind) and os.path.samefile(path, os.devnull)
            if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or nothing):
                raise SteerError(f"cannot read {name}: it is no file")
            data = file.read(MOST_BYTES + 1)
    except SteerError:
        raise
    except PATH_ERRORS as error:
        raise SteerError(f"cannot read {name}: {reason(error)}") from error
    if len(data) > MOST_BYTES:
        raise SteerError(f"cannot read {name}: it is larger than 1 GiB")
    return data


def read_text(path: str | Path, what: str = "") -> str:
    """Read a UTF-8 file, without a byte order mark.

    Lines end in "\\n", whatever ended them.

    Raises:
        SteerError: as :func:`read_bytes`, or it is not UTF-8.
    """
    text = decoded(read_bytes(path, what), path)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decoded(data: bytes, path: str | Path) -> str:
    """``data`` of the file ``path`` as text.

    Raises:
        SteerError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SteerError(f"{str(path)!r} is not UTF-8 text, from line {line} on") from error


def user_path(name: str) -> Path:
    """A path as a user types it.

    ``~`` and ``~name`` are included.

    Raises:
        SteerError: there is no such user, or a character that no path has.
    """
    try:
        path = Path(name).expanduser()
        os.fsencode(path)
        if "\0" in name:
            raise ValueError("a null character is in it")
    except PATH_ERRORS as error:
        raise SteerError(f"{name!r} is no name of a file: {reason(error)}") from error
    return path


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work.

    The folder that it is to lie in is made.

    Raises:
        SteerError: it cannot be written; the message names it.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory")
        final = _resolved(path)
        if final.exists() and not final.is_file():
            return  # a device or a pipe, beside which nothing is to be made
        os.makedirs(final.parent, exist_ok=True)
        with tempfile.TemporaryFile(dir=final.parent):
            pass
        with suppress(FileNotFoundError):
            os.stat(final)  # of a name that is too long the folder says nothing
    except PATH_ERRORS as error:
        raise SteerError(f"cannot write {str(path)!r}: {reason(error)}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody sees a part.

    A reader sees the old one or the new one. A link stays, and its target is written; what is no
    file (``/dev/stdout``) is written as it is.

    Raises:
        SteerError: it cannot be written; the message names it. The old file is then as it was.
    """
    with replacing(path) as place:
        place.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which later replaces ``path``.

    It lies beside ``path`` and has the same suffix. A block that fails leaves ``path`` as it was
    and nothing beside it. Ctrl-C waits for the end of the block.

    Raises:
        SteerError: as :func:`write_whole`.
    """
    try:
        final = _resolved(path)
        if final.exists() and not final.is_file():
            yield final
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own length: that of ``path`` may be as long as names can be.
        temporary = final.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp{_suffix(final)}")
        with held():
            try:
                yield temporary
                temporary.replace(final)
            finally:
                temporary.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except (OSError, UnicodeEncodeError) as error:
        raise SteerError(f"cannot write {str(path)!r}: {reason(error)}") from error


def lock(file: IO[Any], told: str) -> None:
    """Keep other processes from a file until it is closed.

    The end of this process closes it too.

    Args:
        file: open for writing.
        told: the sentence where another process has it.

    Raises:
        SteerError: another process has it.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock

        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise SteerError(told) from None
    except (ImportError, OSError):
        pass  # a system, or a file system, without such locks


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (RuntimeError, ValueError) as error:  # a loop of links; a null character
        raise OSError(0, reason(error)) from error


def _suffix(path: Path) -> str:
    return path.suffix if len(path.suffix) < 16 else ""
