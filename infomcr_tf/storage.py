"""Files that are written whole or not at all; JSON that holds non-finite numbers."""

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path to write; it takes the place of `path` when all is on the disk.

    The temporary file lies in the same folder and has the same ending. If the block fails it is
    removed and `path` stays as it was.

    Raises:
        OSError: where the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: not a JSON file ({error}).") from None
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise ValueError(f"{path} is not a {kind} file.")
    if content.get("version") != version:
        raise ValueError(
            f"{path} is a {kind} file of version {content.get('version')}; this version of the "
            f"package reads version {version}."
        )
    return content


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
