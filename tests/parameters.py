"""Which cases of a table the default suite runs."""

import pytest


def some(cases, default):
    """Every name in `cases`, for `parametrize`: those not in `default` are slow tests."""
    missing = set(default) - set(cases)
    assert not missing, f"no such cases: {missing}"
    return [
        name if name in default else pytest.param(name, marks=pytest.mark.slow) for name in cases
    ]


def all_but(cases, slow):
    """Every name in `cases`, for `parametrize`: those in `slow` are slow tests."""
    missing = set(slow) - set(cases)
    assert not missing, f"no such cases: {missing}"
    return some(cases, [name for name in cases if name not in slow])
