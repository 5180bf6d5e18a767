"""SIGINT and SIGTERM where nothing has to be saved, and where something has."""

import os
import signal
import threading
import time

import pytest

from infomcr_tf.command_line.signals import Interrupted, between_steps, interruptible


def in_child(action):
    """Runs `action` in a forked process, where it must not return; returns its id when it runs."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            action(lambda: os.write(writer, b"x"))
        finally:
            os._exit(70)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return child


def status_of(child):
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_second_sigint_ends_the_process_at_once():
    def action(ready):
        with between_steps():
            ready()
            while True:
                time.sleep(0.01)

    child = in_child(action)
    os.kill(child, signal.SIGINT)
    time.sleep(0.2)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)  # it only remembers the first
    os.kill(child, signal.SIGINT)
    assert status_of(child) == -signal.SIGINT  # 130 in a shell


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_the_end_of_the_step(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, between_steps() as pending:
        pending.raise_interrupted()
        assert not pending
        signal.raise_signal(number)
        assert pending
        pending.raise_interrupted()
    assert caught.value.number == number
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with between_steps() as pending:
            signal.raise_signal(signal.SIGINT)
            assert not pending
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with between_steps():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_script_says_how_to_go_on(capsys):
    @interruptible
    def main(argv):
        signal.raise_signal(signal.SIGTERM)

    assert main([]) == 143
    assert capsys.readouterr().out == "\ninterrupted; give the same command again to resume\n"
