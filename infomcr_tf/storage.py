"""Files that are written whole or not at all; JSON that holds non-finite numbers; folder locks."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # not a Unix: folders are not locked
    fcntl = None  # type: ignore[assignment]

_LOCK = ".lock"
_NON_FINITE = ("inf", "-inf", "nan")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What an attempt to lock says where somebody else has the lock; anything else: no locks here.
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


class DiskFullError(OSError):
    """A file could not be written for want of space; what was there before is as it was."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path to write; it takes the place of `path` when all is on the disk.

    The temporary file lies in the same folder and has the same ending. If the block fails it is
    removed and `path` stays as it was. Only the death of the process leaves it behind, for
    `locked` to remove.

    Raises:
        DiskFullError: where the disk, the quota or the largest size of a file does not suffice.
        OSError: where the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise DiskFullError(
                f"{path} could not be written: {os.strerror(error.errno)}. Free some space (or "
                "raise the limit) and give the same command again; what was written before is "
                "intact."
            ) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Puts the new name itself on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_content(path: Path) -> bool:
    """Whether a file in a folder is more than a lock or what a dead process left of `replacing`."""
    return path.name != _LOCK and not re.match(r"\.\d+\.tmp\.", path.name)


def _remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that died; the caller holds the folder's lock."""
    for path in folder.iterdir():
        if path.name != _LOCK and not is_content(path):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes out of `folder`, which is made if needed, for the time of the block.

    What dead processes have left half written there is removed first.

    The lock is the operating system's (`flock` on the file `.lock`): it ends with the process that
    holds it, however that ends. The file is removed at the end of the block. On a file system that
    has no locks there is a warning and no protection.

    Raises:
        BlockingIOError: where another process, or this one already, holds the lock.
        OSError: where the folder cannot be written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except RecursionError:  # pathlib makes one parent after the other
        raise OSError(f"The path {str(folder)[:60]}... has too many folders.") from None
    path = folder / _LOCK
    descriptor = _lock(path)
    try:
        _remove_leftovers(folder)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int:
    # A link in a stranger's folder must not lead to a file elsewhere.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            _flock(descriptor, path)
            if _is_at(descriptor, path):
                os.truncate(descriptor, 0)
                # For the message to others; a full disk is no reason to stop.
                with contextlib.suppress(OSError):
                    os.write(
                        descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode()
                    )
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still there: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _flock(descriptor: int, path: Path) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "this system has no `flock`")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            raise BlockingIOError(
                f"{path.parent} is in use by {holder}. Wait for it, stop it, or choose another "
                "folder."
            ) from None
        warnings.warn(
            f"{path.parent} cannot be locked ({error}): see to it that no other process uses it.",
            stacklevel=5,
        )


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `rows` to `path`, whole or not at all.

    The header has the names of all rows, in the order of their first appearance; a row without one
    has an empty cell.

    Raises:
        OSError: where the folder cannot be written to.
    """
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes `content` to `path` so that a reader sees the old file or the new one, never a part.

    Non-finite numbers become the strings "inf", "-inf" and "nan", which `float` reads back: JSON
    itself has no words for them.

    Raises:
        OSError: where the folder cannot be written to.
    """
    text = json.dumps(_to_json(content), indent=1, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike, *, kind: str, version: int) -> dict[str, Any]:
    """Reads a file of `write_json` and checks what it is.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is damaged, is not of this `kind`, or of another `version`.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or made to do harm
        raise ValueError(f"{path} is damaged: not a JSON file ({error}).") from None
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise ValueError(f"{path} is not a {kind} file.")
    if content.get("version") != version:
        raise ValueError(
            f"{path} is a {kind} file of version {content.get('version')}; this version of the "
            f"package reads version {version}."
        )
    return content


def to_float(value: Any) -> float:
    """The number that a JSON value stands for: itself, or one of "inf", "-inf" and "nan".

    Raises:
        TypeError: if it is no number.
        ValueError: if it is another text.
    """
    if isinstance(value, bool) or (isinstance(value, str) and value not in _NON_FINITE):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _to_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, np.generic):
        return _to_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
