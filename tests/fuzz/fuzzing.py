"""What all fuzzing shares: hostile values, the contract that every case must keep, the count."""

import contextlib
import fractions
import functools
import math
import os
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import infomcr_tf

PACKAGE = Path(infomcr_tf.__file__).parent
COUNTS = Counter()  # checked cases, by test

# --- Values that no argument expects, or almost --------------------------------

INTEGERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    st.sampled_from([np.int8(3), np.int64(2), np.uint8(0), np.int32(-1)]),
)
NUMBERS = st.one_of(
    INTEGERS,
    st.floats(width=64),
    st.sampled_from([np.float32(0.5), np.float64("nan"), np.float16(1), fractions.Fraction(1, 3)]),
)
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["", "ä/…\n", "‮", "\ud800", "a" * 300]))
OTHERS = st.one_of(
    st.none(),
    st.booleans(),
    st.complex_numbers(),
    st.binary(max_size=4),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.sampled_from([np.bool_(True), (), ..., object(), int, np.array(3), np.array([0.5]), len]),
)
ANYTHING = st.one_of(NUMBERS, TEXTS, OTHERS)


def near(choices):
    """Known names, misspelt ones, and anything."""
    choices = list(choices)
    misspelt = st.sampled_from([name + "x" for name in choices if isinstance(name, str)])
    return st.one_of(st.sampled_from(choices), misspelt, ANYTHING)


def changed(valid, replacements, at_most=2):
    """`valid` arguments, of which up to `at_most` are replaced by draws of `replacements`."""

    @st.composite
    def draw(draw):
        names = draw(st.lists(st.sampled_from(sorted(replacements)), max_size=at_most, unique=True))
        return {**valid, **{name: draw(replacements[name]) for name in names}}

    return draw()


# --- The contract --------------------------------------------------------------


class Refused(Exception):  # noqa: N818
    """An argument was refused as it should be."""


@contextlib.contextmanager
def contract(allowed=(ValueError, TypeError)):
    """Raises `Refused` for a clear error; any other exception goes through and fails the test.

    An error is clear if the package itself raised it, in one line that names what is meant.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", UserWarning)
        try:
            yield
        except allowed as error:
            check_message(error)
            raise Refused from error


def check_message(error):
    message = str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} from {last.filename}:{last.lineno}: {message[:500]}"
    assert Path(last.filename).is_relative_to(PACKAGE), f"not the package's own error: {where}"
    assert last.line.startswith(("raise", 'f"', '"', "f'")) or "raise" in last.line, where
    assert "`" in message or "/" in message, f"names nothing: {where}"
    assert message.splitlines() == [message], f"not one line: {where!r}"
    assert len(message) < 1500, f"too long: {where}"


def fuzz(strategy, *, few, many):
    """Makes a test of `check(case)`: `few` fixed cases by default, `many` in the slow suite.

    `FUZZ_SEED` chooses the cases of the slow suite; without it they are always the same.
    """

    def decorate(check):
        name = check.__name__

        @functools.wraps(check)
        def counted(case):
            check(case)
            COUNTS[name] += 1

        del counted.__wrapped__  # hypothesis would look for arguments there

        @pytest.mark.parametrize(
            "count", [few, pytest.param(many, marks=pytest.mark.slow)], ids=["few", "many"]
        )
        def test(count, record_property):
            seed = int(os.environ.get("FUZZ_SEED", "0")) if count == many else 0
            settings = hypothesis.settings(
                max_examples=count,
                deadline=None,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                # The cases are small; to shrink them would run the failing one a hundred times.
                phases=[hypothesis.Phase.generate],
                report_multiple_bugs=False,
            )
            before = COUNTS[name]
            hypothesis.seed(seed)(settings(hypothesis.given(strategy)(counted)))()
            done = COUNTS[name] - before
            assert done >= count, f"only {done} cases of {count}"
            record_property("cases", done)  # for the sum at the end

        test.__name__ = test.__qualname__ = name
        test.__doc__ = check.__doc__
        return test

    return decorate


def is_integer(value, minimum):
    """What the package means by an integer: bool is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= minimum


def is_finite(value):
    """What the package means by a finite number."""
    real = isinstance(value, (int, float, np.integer, np.floating, fractions.Fraction))
    if not real or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return True  # an integer too large for a float


@functools.cache
def place():
    """A folder for this process, removed at its end."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz")
    place.keep = folder
    return Path(folder.name)
