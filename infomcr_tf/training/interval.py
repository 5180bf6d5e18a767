"""How often the state of a training run is saved."""

from __future__ import annotations

import re
import time


class Interval:
    """How long to train before the state is saved again.

    Args:
        text: a number of steps, "200", or of seconds, "300s".

    Raises:
        ValueError: if `text` is neither.
    """

    def __init__(self, text: str) -> None:
        found = re.fullmatch(r"([0-9]{1,9})(s?)", text)
        if not found or int(found[1]) < 1:
            raise ValueError(
                "`--save-every` must be a number of steps, such as 200, or of seconds, such as "
                f"300s. Received: {text!r}"
            )
        self._amount = int(found[1])
        self._in_seconds = bool(found[2])
        self.begin()

    def begin(self) -> None:
        """Starts counting again: the state has just been saved."""
        self._steps = 0
        self._since = time.monotonic()

    def step(self) -> bool:
        """Counts a step; whether it is time to save."""
        self._steps += 1
        elapsed = time.monotonic() - self._since if self._in_seconds else self._steps
        return elapsed >= self._amount
