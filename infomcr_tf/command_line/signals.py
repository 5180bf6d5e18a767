"""SIGINT and SIGTERM: the step that is being computed is finished, then the process stops.

Files are whole, and the exit status tells which signal it was.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar, cast

Main = TypeVar("Main", bound="Callable[..., int]")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has asked the process to stop; what is needed to resume is on the disk.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def interruptible(main: Main) -> Main:
    """For the `main` of a script: SIGINT and SIGTERM end it with one line and status 130 or 143.

    Within `main` they raise `Interrupted`, wherever it is. A second SIGINT ends the process at
    once.
    """

    def raise_interrupted(number: int) -> None:
        raise Interrupted(number)

    @functools.wraps(main)
    def interruptible_main(argv: Sequence[str] | None = None, **arguments: Any) -> int:
        try:
            with _handled(raise_interrupted):
                return main(argv, **arguments)
        except KeyboardInterrupt as interrupt:
            print("\ninterrupted; give the same command again to resume", flush=True)
            number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
            return 128 + number

    return cast("Main", interruptible_main)


class PendingSignal:
    """The signal that has arrived in a block of `between_steps`, if any."""

    def __init__(self) -> None:
        self._number: int | None = None

    def __bool__(self) -> bool:
        return self._number is not None

    def set(self, number: int) -> None:
        """Remembers the signal."""
        self._number = number

    def raise_interrupted(self) -> None:
        """Raises `Interrupted` if a signal has arrived."""
        if self._number is not None:
            raise Interrupted(self._number)


@contextlib.contextmanager
def between_steps() -> Iterator[PendingSignal]:
    """The first SIGINT or SIGTERM within the block is only remembered, for the end of a step.

    A second SIGINT ends the process at once. Outside the main thread, where signals do not arrive,
    nothing changes.
    """
    pending = PendingSignal()
    with _handled(pending.set):
        yield pending


@contextlib.contextmanager
def _handled(action: Callable[[int], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A signal that is ignored, as SIGINT in a shell script's background jobs, stays so.
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {
        n: handler for n, handler in handlers.items() if handler not in (None, signal.SIG_IGN)
    }

    def handle(number: int, _: FrameType | None) -> None:
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        action(number)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
