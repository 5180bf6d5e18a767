"""Reports and finished trials on disk: what is not whole is refused, never read as numbers."""

import json
import tempfile
from pathlib import Path

import numpy as np
from fuzz.damage import damaged_bytes, edited_json
from fuzz.fuzzing import Refused, contract, fuzz, near
from hypothesis import strategies as st

from infomcr_tf.characterization import METRICS, MinimumReport
from infomcr_tf.characterization.settings import resolve_metrics

REPORT = MinimumReport(
    num_parameters=100,
    num_examples=50,
    num_samples=4,
    trials={
        "gamma_hat": np.array([-3.25, float("-inf")]),
        "trace": np.array([0.5, float("nan")]),
        "num_kept": np.array([4, 3]),
    },
    robustness=0.125,
    robustness_std=0.25,
    num_robustness_examples=50,
    settings={"seed": 0, "metrics": ["gamma_hat", "trace"]},
)


def text():
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "r.json"
        REPORT.save(path)
        return path.read_bytes()


CONTENT = text()


def same(a, b):
    return repr(sorted(a.items())) == repr(sorted(b.items()))


@fuzz(st.one_of(damaged_bytes(CONTENT), edited_json(CONTENT)), few=80, many=700)
def test_damaged_report(case):
    """What loads is a report whose own numbers are those of the file."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "report.json"
        path.write_bytes(case)
        try:
            with contract():
                report = MinimumReport.load(path)
        except Refused:
            assert path.read_bytes() == case
            return
    content = json.loads(case)
    trials = {name: list(map(float, values)) for name, values in content["trials"].items()}
    assert same({k: list(map(float, v)) for k, v in report.trials.items()}, trials)
    sizes = {"num_parameters", "num_examples", "num_samples"}
    assert {name: getattr(report, name) for name in sizes} == {n: content[n] for n in sizes}
    lengths = {len(values) for values in trials.values()}
    assert len(lengths) <= 1
    assert not trials or "num_kept" in trials
    str(report)
    report.to_dict()


@fuzz(st.one_of(near([*METRICS, "all"]), st.lists(near(METRICS), max_size=3)), few=10, many=200)
def test_metrics(case):
    try:
        with contract():
            found = resolve_metrics(case)
    except Refused:
        return
    every = {name for name, metric in METRICS.items() if metric.needs != "rows"}
    wanted = every if isinstance(case, str) and case == "all" else case
    wanted = {wanted} if isinstance(wanted, str) else set(wanted)
    assert set(found) == wanted
    assert list(found) == [name for name in METRICS if name in wanted]
