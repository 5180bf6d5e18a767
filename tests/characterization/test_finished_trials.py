"""Interrupting and resuming `characterize`, trial by trial."""

import json

import numpy as np
import pytest
from gradients.small_networks import conv_net, images

from infomcr_tf.characterization import characterize, finished_trials, trials
from infomcr_tf.characterization.robustness import RobustnessBlocks
from infomcr_tf.characterization.trials import Trials

SETTINGS = {
    "num_trials": 4,
    "num_samples": 6,
    "metrics": ["trace", "robustness"],
    "progress": False,
}


@pytest.fixture(scope="module")
def model():
    return conv_net()


@pytest.fixture(scope="module")
def data():
    return images(210)


@pytest.fixture
def count(monkeypatch):
    """How many trials and blocks are really computed."""
    counts = {"trials": 0, "blocks": 0}
    for kind, name in ((Trials, "trials"), (RobustnessBlocks, "blocks")):

        def counting(self, item, original=kind.__call__, name=name):
            counts[name] += 1
            return original(self, item)

        monkeypatch.setattr(kind, "__call__", counting)
    return counts


def interrupt_at(monkeypatch, kind, at):
    """Ctrl-C during one item."""
    original = kind.__call__

    def call(self, item):
        if item == at:
            raise KeyboardInterrupt
        return original(self, item)

    monkeypatch.setattr(kind, "__call__", call)


@pytest.mark.parametrize(
    ("kind", "at", "left"), [(Trials, 2, (2, 3)), (RobustnessBlocks, 1, (0, 2))]
)
def test_goes_on_where_it_stopped(model, data, tmp_path, monkeypatch, count, kind, at, left):
    path = tmp_path / "checkpoint.json"
    uninterrupted = characterize(model, *data, **SETTINGS)
    with monkeypatch.context() as patch:
        interrupt_at(patch, kind, at)
        with pytest.raises(KeyboardInterrupt):
            characterize(model, *data, checkpoint=path, **SETTINGS)
    count.update(trials=0, blocks=0)
    resumed = characterize(model, *data, checkpoint=path, **SETTINGS)
    assert (count["trials"], count["blocks"]) == left
    assert resumed.to_dict() == uninterrupted.to_dict()
    count.update(trials=0, blocks=0)
    assert characterize(model, *data, checkpoint=path, **SETTINGS).to_dict() == resumed.to_dict()
    assert count == {"trials": 0, "blocks": 0}


def test_more_trials_use_those_that_are_there(model, data, tmp_path, count):
    path = tmp_path / "checkpoint.json"
    settings = {**SETTINGS, "metrics": ["trace"], "checkpoint": path}
    characterize(model, *data, **settings)
    report = characterize(model, *data, **{**settings, "num_trials": 6})
    assert count["trials"] == 6
    fewer = characterize(model, *data, **{**settings, "num_trials": 3})
    np.testing.assert_array_equal(fewer.trials["trace"], report.trials["trace"][:3])
    assert count["trials"] == 6


def changed(model, data, what):
    x, y = data
    settings = dict(SETTINGS)
    if what == "weights":
        model = conv_net(seed=1)
    elif what == "moving averages":
        model = conv_net()
        statistics = model.layers[1].moving_mean
        statistics.assign(statistics + 0.1)
    elif what == "frozen layer":
        model = conv_net()
        model.layers[0].trainable = False
    elif what == "images":
        x = x.copy()
        x[209, 0, 0, 0] += 0.1
    elif what == "labels":
        y = y.copy()
        y[7] = (y[7] + 1) % 5
    else:
        settings[what] = {"seed": 1, "num_samples": 5, "normalize_logits": 1.0}[what]
    return model, x, y, settings


@pytest.mark.parametrize(
    "what",
    [
        "weights",
        "moving averages",
        "frozen layer",
        "images",
        "labels",
        "seed",
        "num_samples",
        "normalize_logits",
    ],
)
def test_a_checkpoint_of_something_else_is_not_used(model, data, tmp_path, what):
    path = tmp_path / "checkpoint.json"
    settings = {**SETTINGS, "metrics": ["trace"], "num_trials": 1}
    characterize(model, *data, checkpoint=path, **settings)
    other, x, y, changes = changed(model, data, what)
    settings = {**changes, "metrics": ["trace"], "num_trials": 1}
    with pytest.warns(UserWarning, match=r"checkpoint\.json was made with other settings"):
        report = characterize(other, x, y, checkpoint=path, **settings)
    assert report.to_dict() == characterize(other, x, y, **settings).to_dict()


@pytest.mark.parametrize("text", ["", "{", '{"kind": "other"}'])
def test_damaged_checkpoint(model, data, tmp_path, text):
    path = tmp_path / "checkpoint.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint\.json.*Delete it") as error:
        characterize(model, *data, checkpoint=path, **SETTINGS)
    assert "\n" not in str(error.value)
    assert path.read_text() == text


def test_folder_that_is_not_there(model, data, tmp_path, count):
    with pytest.raises(OSError, match="none"):
        characterize(model, *data, checkpoint=tmp_path / "none" / "file.json", **SETTINGS)
    assert count["trials"] == 0


def test_infinite_values_survive(model, tmp_path):
    x, y = images(6)
    x[1], y[1] = x[4], y[4]
    settings = {**SETTINGS, "metrics": ["gamma_hat"], "num_trials": 2}
    path = tmp_path / "checkpoint.json"
    for _ in range(2):
        with pytest.warns(UserWarning, match="singular"):
            report = characterize(model, x, y, checkpoint=path, **settings)
        assert report.gamma_hat == -np.inf
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))


def test_written_after_every_trial_if_time_has_passed(model, data, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.json"
    monkeypatch.setattr(finished_trials, "_SECONDS_BETWEEN_WRITES", 0.0)
    seen = []
    original = trials.Trials.__call__

    def look(self, trial):
        seen.append(len(json.loads(path.read_text())["trials"]))
        return original(self, trial)

    monkeypatch.setattr(trials.Trials, "__call__", look)
    characterize(model, *data, checkpoint=path, **{**SETTINGS, "metrics": ["trace"]})
    assert seen == [0, 1, 2, 3]
