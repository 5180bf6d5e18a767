"""How far long work is: a bar in terminals and notebooks, a line now and then in logs and pipes."""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

_SECONDS_BETWEEN_LINES = 30.0


def duration(seconds: float) -> str:
    """A duration in words: "8 s", "12 min", "3.5 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def progress_bar(total: int | None, *, title: str, done: int = 0, shown: bool = True) -> Any:
    """A context manager with `update()`, to be called after each of `total` items.

    In a terminal and in a notebook it is a bar. Elsewhere a bar would fill a file with control
    characters: there it is a line after the second item, with the time that the others will
    take, and one every half minute. All of it goes to standard error.

    Args:
        total: items in all; None where nobody knows: a log then gets a line every half minute.
        title: what they are.
        done: items that were finished earlier.
        shown: False for nothing at all.
    """
    if shown and not sys.stderr.isatty() and not _in_notebook():
        return _Lines(total, title, done)
    with warnings.catch_warnings():
        # tqdm calls this module experimental, and warns where a notebook has no widgets.
        warnings.simplefilter("ignore")
        from tqdm.autonotebook import tqdm
    return tqdm(total=total, initial=done, desc=title, disable=not shown)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})


class _Lines:
    """The same interface for logs."""

    def __init__(self, total: int | None, title: str, done: int) -> None:
        self._total, self._title, self._done = total, title, done
        self._start = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._last_line = self._start if total is None else -float("inf")

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """Counts items that have been finished."""
        self._done += count
        now = time.monotonic()
        if self._total is None:
            if now - self._last_line >= _SECONDS_BETWEEN_LINES:
                self._last_line = now
                self._print(f"{self._done}, {duration(now - self._start)}")
            return
        left = self._total - self._done
        if self._first is None:  # it took the tracing, too: the others are quicker
            self._first = now, self._done
            if left:
                return
        if left and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        rest = "finished"
        if left:
            since, after = self._first
            rest = f"about {duration((now - since) / (self._done - after) * left)} left"
        self._print(f"{self._done} of {self._total}, {duration(now - self._start)}, {rest}")

    def set_postfix(self, **_: object) -> None:
        """What a bar shows beside itself; a line does not."""

    def _print(self, text: str) -> None:
        print(f"{self._title}: {text}", file=sys.stderr, flush=True)
