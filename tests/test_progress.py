"""Progress in logs: lines, not a bar, with an estimate."""

import re

import pytest

from infomcr_tf import progress
from infomcr_tf.progress import duration, progress_bar
from infomcr_tf.training.time_left import TimeLeft


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_a_log_gets_lines_with_what_remains(clock, capsys):
    with progress_bar(11, title="trials") as bar:
        clock(50)  # tracing
        bar.update()
        for _ in range(10):
            clock(10)
            bar.update()
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "trials: 2 of 11, 60 s, about 90 s left"
    assert lines[-1] == "trials: 11 of 11, 2 min, finished"
    assert len(lines) == 1 + 3  # one a half minute
    assert not re.search(r"[\r\x1b█]", captured.err)


def test_work_that_was_done_earlier_does_not_count_as_fast(clock, capsys):
    with progress_bar(100, title="trials", done=90) as bar:
        clock(1)
        bar.update()
        clock(4)
        bar.update()
    assert capsys.readouterr().err == "trials: 92 of 100, 5 s, about 32 s left\n"


def test_nothing_when_it_is_not_wanted_or_there_is_nothing_to_do(capsys):
    with progress_bar(3, title="trials", shown=False) as bar:
        bar.update()
    with progress_bar(0, title="trials"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(2, title="trials") as bar:
        bar.update(2)
    assert "\r" in capsys.readouterr().err


def test_a_log_of_unknown_length_gets_a_line_a_half_minute(clock, capsys):
    with progress_bar(None, title="eigenvalues") as bar:
        for _ in range(7):
            clock(10)
            bar.update()
            bar.set_postfix(residual=1)
    assert capsys.readouterr().err == "eigenvalues: 3, 30 s\neigenvalues: 6, 60 s\n"


def run_of(clock, *, epochs, steps, seconds, later=False):
    """A training run with steps of this length, the first of which also traces for 100 s."""
    left = TimeLeft(epochs, regularized_later=later)
    left.set_params({"epochs": epochs, "steps": steps})
    for epoch in range(epochs):
        left.on_epoch_begin(epoch)
        for step in range(steps):
            clock(seconds + 100 * (epoch == step == 0))
            left.on_train_batch_end(step)
        left.on_epoch_end(epoch)


def test_a_short_epoch_is_what_the_time_of_training_is_estimated_from(clock, capsys):
    run_of(clock, epochs=11, steps=5, seconds=3)
    assert capsys.readouterr().out.split("\n") == ["", "about 2 min for the other 50 steps", ""]


def test_long_epochs_are_not_waited_for(clock, capsys):
    run_of(clock, epochs=2, steps=1000, seconds=7, later=True)
    # After the first step and three more, each of 7 s: 1,996 are left.
    line = "about 3.9 h for the other 1,996 steps, more from when the penalty acts"
    assert capsys.readouterr().out.split("\n") == ["", line, ""]


def test_a_run_of_one_short_epoch_needs_no_estimate(clock, capsys):
    run_of(clock, epochs=1, steps=5, seconds=1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (6000, "1.7 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
