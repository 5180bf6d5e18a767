"""Engines: every item is finished or reported, whatever happens to a worker."""

import functools
import json
import os
import signal
import time

import pytest

from infomcr_tf.experiments.engines import LocalEngine, make_engine


def record(place, item):
    """Leaves a line in the item's file, as a run leaves its epochs."""
    with (place / str(item)).open("a") as file:
        file.write("started\n")
    if item < 0:
        raise ValueError(f"no item {item}")


def die_once(place, item):
    """Kills its own worker the first time that item 1 is worked on."""
    with (place / str(item)).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if item == 1 and len((place / "1").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_local_engine_goes_on_after_a_failure(tmp_path):
    found = list(LocalEngine().map(functools.partial(record, tmp_path), [1, -1, 2]))
    assert [item for item, _ in found] == [1, -1, 2]
    assert [str(error) if error else None for _, error in found] == [None, "no item -1", None]
    assert all((tmp_path / str(item)).exists() for item in (1, -1, 2))


def test_an_interrupt_ends_everything(tmp_path):
    def interrupted(item):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(LocalEngine().map(interrupted, [1, 2]))


def test_without_ray_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    message = r"need Ray. Install it with: pip install 'infomcr-tf\["
    for name in ("ray", "parallel"):
        with pytest.raises(ValueError, match=message):
            make_engine(name)


@pytest.fixture
def two_workers():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def overlap(place, item):
    """Says when it began and ended, and how many threads TensorFlow would have."""
    threads = os.environ["TF_NUM_INTRAOP_THREADS"]
    begin = time.time()
    deadline = begin + 60
    (place / f"{item}-began").touch()
    while time.time() < deadline and not all((place / f"{i}-began").exists() for i in (0, 1)):
        time.sleep(0.05)
    (place / str(item)).write_text(json.dumps([begin, time.time(), os.getpid(), threads]))


def test_parallel_runs_are_at_once_and_share_the_cores_out(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "no-cluster-is-here:6379")
    monkeypatch.setattr("infomcr_tf.experiments.engines.num_cores", lambda: 6)
    engine = make_engine("parallel", at_once=2)
    try:
        assert dict(engine.map(functools.partial(overlap, tmp_path), [0, 1])) == {0: None, 1: None}
    finally:
        ray.shutdown()
    first, second = (json.loads((tmp_path / str(item)).read_text()) for item in (0, 1))
    assert max(first[0], second[0]) < min(first[1], second[1])
    assert len({first[2], second[2], os.getpid()}) == 3
    assert first[3] == second[3] == "3"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("parallel", {"at_once": 3}, "`--at-once` must be .* at most the number of cores, 2"),
        ("parallel", {"at_once": 0}, "`--at-once` must be at least 1"),
        ("parallel", {"gpus": 1}, "`--engine` parallel shares out the CPU"),
        ("ray", {"at_once": 1}, "`--at-once` needs --engine parallel"),
        ("local", {"at_once": 1}, "`--at-once` needs --engine parallel"),
    ],
)
def test_what_does_not_fit_an_engine_is_refused(monkeypatch, name, options, message):
    monkeypatch.setattr("infomcr_tf.experiments.engines.num_cores", lambda: 2)
    with pytest.raises(ValueError, match=message):
        make_engine(name, **options)


@pytest.mark.slow
def test_ray_starts_a_run_again_whose_worker_was_killed(two_workers, tmp_path):
    engine = make_engine("ray")
    found = dict(engine.map(functools.partial(die_once, tmp_path), [0, 1, 2]))
    assert found == {0: None, 1: None, 2: None}
    workers = {item: (tmp_path / str(item)).read_text().splitlines() for item in range(3)}
    assert [len(workers[item]) for item in range(3)] == [1, 2, 1]
    assert len({pid for pids in workers.values() for pid in pids}) == 4
    assert str(os.getpid()) not in {pid for pids in workers.values() for pid in pids}


@pytest.mark.slow
def test_ray_reports_a_run_that_fails_for_good(two_workers, tmp_path):
    found = dict(make_engine("ray").map(functools.partial(record, tmp_path), [3, -2]))
    assert found[3] is None
    assert "no item -2" in str(found[-2])
    # The first attempt and two more.
    assert (tmp_path / "-2").read_text().splitlines() == ["started"] * 3
