"""The three scripts: any flags, damaged files, odd paths.

`main` is called in this process; what is checked is exit status, standard error and the files.
"""

import contextlib
import dataclasses
import functools
import io
import json
import os
import shutil
import tempfile
import typing
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from fuzz.damage import OTHER_FILES, damaged_bytes, edited_json
from fuzz.fuzzing import NUMBERS, TEXTS, fuzz, place
from hypothesis import strategies as st

import characterize
import train_cifar
import train_imagenet
from infomcr_tf.command_line.options import flag
from infomcr_tf.comparison import ComparisonOptions, DataOptions
from infomcr_tf.model_file import load_model
from infomcr_tf.training import CifarConfig, ImageNetConfig, TrainingRun

TRAIN = ["--dataset", "digits", "--model", "cnn", "--train-size", "40", "--batch-size", "20"]
TRAIN += ["--epochs", "1", "--regularize", "never"]
MEASURE = ["--num-trials", "2", "--num-samples", "4", "--metrics", "trace"]


class Ended(Exception):  # noqa: N818
    """Raised in the place of an interrupted run's last part."""


@dataclasses.dataclass
class Outcome:
    status: int
    out: str
    error: str


def call(script, arguments, plots=False):
    """Runs a script's `main` and checks what it says where it fails."""
    out, error, pictures = io.StringIO(), io.StringIO(), []
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        if not plots:
            for name in ("plot_comparison", "save_picture"):  # they take most of the time
                picture = mock.patch(f"infomcr_tf.comparison.compared.{name}")
                pictures.append(stack.enter_context(picture))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                status = script.main([str(argument) for argument in arguments])
            except SystemExit as ended:
                status = ended.code
    # Progress bars end with carriage returns.
    lines = [line.split("\r")[-1] for line in error.getvalue().split("\n")]
    said = "\n".join(line for line in lines if "error:" in line)
    outcome = Outcome(status, out.getvalue(), said)
    assert "Traceback" not in error.getvalue() + outcome.out
    assert status in (0, 1, 2), outcome
    assert said.count("error:") >= (status != 0), error.getvalue()
    assert len(said.splitlines()) == (status != 0), outcome
    for picture in pictures:
        assert picture.called == (script is characterize and status == 0), outcome
    return outcome


def no_training():
    """Ends a run where its first step would be made."""
    return mock.patch("infomcr_tf.training.run.train", side_effect=Ended)


@functools.cache
def finished():
    """A complete run."""
    folder = place() / "finished"
    assert call(train_cifar, [*TRAIN, "--run-dir", folder]).status == 0
    return folder


@functools.cache
def unfinished():
    """A run whose epochs are over and whose result is missing."""
    folder = place() / "unfinished"
    finish = mock.patch.object(TrainingRun, "_finish", side_effect=Ended)
    with finish as reached, pytest.raises(Ended):
        call(train_cifar, [*TRAIN, "--run-dir", folder])
    reached.assert_called_once()
    assert (folder / "checkpoint.npz").exists()
    return folder


@functools.cache
def interrupted():
    """The checkpoint of a measurement whose trials are over, and its result."""
    out = place() / "interrupted"
    late = mock.patch("infomcr_tf.comparison.compared.plot_comparison", side_effect=Ended)
    with late as reached, pytest.raises(Ended):
        call(characterize, [finished(), *MEASURE, "--out", out], plots=True)
    reached.assert_called_once()
    return (out / "checkpoint-0.json").read_bytes(), measured(finished())


@functools.cache
def measured(folder):
    out = place() / "measured"
    assert call(characterize, [folder, *MEASURE, "--out", out]).status == 0
    return trials(out)


@contextlib.contextmanager
def working_in(folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def trials(out):
    content = json.loads((out / "comparison.json").read_text())
    return content["minima"][0]["report"]["trials"]["trace"]


def snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


# --- Damaged files ----------------------------------------------------------------------------


@st.composite
def damaged_file(draw, folder, names):
    """A file of the folder and its damaged content, or what stands in its place."""
    name = draw(st.sampled_from(names))
    content = (folder() / name).read_bytes()
    forms = [damaged_bytes(content), st.sampled_from(["missing", "folder", "dangling", "loop"])]
    if name.endswith(".json"):
        forms += [edited_json(content)] * 3
    return name, draw(st.one_of(forms))


def damage(path, content):
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "dangling":
        path.symlink_to("nowhere")
    elif content == "loop":
        path.symlink_to(path.name)


@fuzz(
    damaged_file(finished, ["config.json", "model.keras", "history.csv", "result.json"]),
    few=3,
    many=100,
)
def test_measuring_a_damaged_run(case):
    """Refused, or measured with the numbers of the whole one; the run's files stay as they are."""
    name, content = case
    with tempfile.TemporaryDirectory(dir=place()) as work:
        run, out = Path(work) / "run", Path(work) / "out"
        shutil.copytree(finished(), run)
        damage(run / name, content)
        before = snapshot(run)
        # A damaged history shows in the picture of the training.
        outcome = call(characterize, [run, *MEASURE, "--out", out], plots=name == "history.csv")
        assert snapshot(run) == before
        if outcome.status == 0 and name != "config.json":  # which may name other images
            assert trials(out) == measured(finished())
        elif outcome.status != 0:
            assert not (out / "comparison.json").exists()


@fuzz(damaged_file(finished, ["config.json", "result.json"]), few=4, many=100)
def test_training_in_a_damaged_complete_run(case):
    """Refused, or nothing is done: the run is complete. Without a result it is made again."""
    name, content = case
    with tempfile.TemporaryDirectory(dir=place()) as work:
        run = Path(work) / "run"
        shutil.copytree(finished(), run)
        damage(run / name, content)
        before = snapshot(run)
        outcome = call(train_cifar, [*TRAIN, "--run-dir", run])
        if name == "result.json" and outcome.status == 0 and Path(name) not in before:
            same = json.loads((finished() / name).read_text())
            assert json.loads((run / name).read_text()) == same
        else:
            assert snapshot(run) == before


@st.composite
def checkpoint(draw):
    content = (unfinished() / "checkpoint.npz").read_bytes()
    return draw(st.one_of(damaged_bytes(content), st.just(pickled())))


@functools.cache
def pickled():
    """Arrays of Python objects, which only pickle can read."""
    with np.load(unfinished() / "checkpoint.npz", allow_pickle=False) as file:
        arrays = {name: np.array([file[name]], dtype=object) for name in file.files}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_a_run_that_starts_over_is_noticed():
    """What the next test relies on: without a checkpoint the run would train again."""
    with tempfile.TemporaryDirectory(dir=place()) as work:
        run = Path(work) / "run"
        shutil.copytree(unfinished(), run)
        (run / "checkpoint.npz").unlink()
        with no_training() as training, pytest.raises(Ended):
            call(train_cifar, [*TRAIN, "--run-dir", run])
        training.assert_called_once()


@fuzz(checkpoint(), few=2, many=40)
def test_going_on_from_a_damaged_checkpoint(content):
    """Refused, and the checkpoint is still there; or the same model as from the whole one."""
    with tempfile.TemporaryDirectory(dir=place()) as work:
        run = Path(work) / "run"
        shutil.copytree(unfinished(), run)
        (run / "checkpoint.npz").write_bytes(content)
        with no_training() as training:
            outcome = call(train_cifar, [*TRAIN, "--run-dir", run])
        training.assert_not_called()
        if outcome.status:
            assert (run / "checkpoint.npz").read_bytes() == content
            assert not (run / "result.json").exists()
            return
        expected = load_model(finished() / "model.keras").get_weights()
        for own, other in zip(load_model(run / "model.keras").get_weights(), expected, strict=True):
            np.testing.assert_array_equal(own, other)


@st.composite
def measurement(draw):
    content, _ = interrupted()
    return draw(st.one_of(damaged_bytes(content), edited_json(content), edited_json(content)))


@fuzz(measurement(), few=1, many=80)
def test_going_on_from_a_damaged_measurement(content):
    """Refused with the file as it was, or trials that were finished or are computed anew."""
    _, expected = interrupted()
    with tempfile.TemporaryDirectory(dir=place()) as work:
        out = Path(work)
        (out / "checkpoint-0.json").write_bytes(content)
        outcome = call(characterize, [finished(), *MEASURE, "--out", out])
        if outcome.status:
            assert (out / "checkpoint-0.json").read_bytes() == content
            return
        for value, right in zip(trials(out), expected, strict=True):
            # A number that a damaged file holds in the right place cannot be told from another.
            assert isinstance(value, (int, float, str))
            float(right)


# --- Flags ------------------------------------------------------------------------------------

SCRIPTS = {
    train_cifar: (CifarConfig,),
    train_imagenet: (ImageNetConfig,),
    characterize: (DataOptions, ComparisonOptions),
}
ODD_TEXTS = st.one_of(
    TEXTS.filter(lambda text: "\ud800" not in text),
    NUMBERS.map(str),
    st.sampled_from(["-1", "0", "1", "2", "nan", "inf", "1e400", "true", "--", "-", "None", "1_0"]),
)


@st.composite
def flags(draw):
    """A script and a few flags with values that fit or not."""
    script = draw(st.sampled_from(list(SCRIPTS)))
    fields = [(f, config) for config in SCRIPTS[script] for f in dataclasses.fields(config)]
    names = {f.name: (f, config) for f, config in fields if f.name not in ("run_dir", "epochs")}
    arguments = []
    for name in draw(st.lists(st.sampled_from(sorted(names)), max_size=3)):
        field, config = names[name]
        about = field.metadata
        text = flag(name)
        if typing.get_type_hints(config)[name] in (bool, bool | None):
            arguments.append(
                draw(st.sampled_from([text, text.replace("--", "--no-", 1), text[:-1]]))
            )
            continue
        values = [ODD_TEXTS]
        if about["choices"]:
            values += [st.sampled_from(list(about["choices"]))] * 2
        else:
            values += [st.integers(0, 20).map(str)]
        arguments += [text, draw(st.one_of(values))]
    return script, arguments


@fuzz(flags(), few=4, many=200)
def test_flags(case):
    """Refused before anything is written, or a run with exactly these options."""
    script, arguments = case
    with tempfile.TemporaryDirectory(dir=place()) as work, working_in(work):
        if script is characterize:
            base = [finished(), "--num-trials", "1", "--num-samples", "3", "--out", "out"]
            base += ["--num-robustness-examples", "2"]
        else:
            base = ["--epochs", "2", "--model", "cnn", "--run-dir", "run"]
            base += ["--dataset", "digits"] if script is train_cifar else ["--data-dir", "."]
        started = []

        def run(self, **_):
            started.append(self.config)
            part = {"loss": 0.0, "error": 0.0, "top5_error": 0.0}
            return {"train": part, "test": part}

        with mock.patch.object(TrainingRun, "run", run):
            outcome = call(script, [*base, *arguments])
        names = {path.name for path in Path().rglob("*") if path.is_file()} - {".lock"}
        if outcome.status:
            assert not names, (names, outcome)
        elif script is not characterize:
            assert "config.json" in names
        assert len(started) == (outcome.status == 0 and script is not characterize)


# --- Paths ------------------------------------------------------------------------------------

PATHS = st.one_of(
    st.text(
        st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(
        [
            "ä ö/ü",
            "x" * 255,
            "x" * 256,
            "x/" * 2000,
            "中文",
            "a\nb",
            " ",
            "-dash",
            "~",
            "$HOME",
            "loose",
            "file",
            "to-file",
            "to-run",
            "nul\x00l",
            "file/under",
            "\U0001f600.keras",
            ".",
        ]
    ),
)


@fuzz(
    st.tuples(st.sampled_from(["run-dir", "out", "path", "data-dir", "model"]), PATHS),
    few=4,
    many=80,
)
def test_paths(case):
    """Odd names work or are refused; what lies behind a link is only touched as a run folder."""
    where, name = case
    with tempfile.TemporaryDirectory(dir=place()) as work, working_in(work):
        Path("loose").symlink_to("nowhere/at/all")
        Path("file").write_text("mine")
        Path("to-file").symlink_to("file")
        shutil.copytree(finished(), "run")
        Path("to-run").symlink_to("run")
        before = snapshot(Path("run"))
        name = name.lstrip("-") or "x"
        with no_training() as training, contextlib.suppress(Ended):
            if where in ("run-dir", "data-dir"):
                flags = {"run-dir": "other", where: name}
                outcome = call(train_cifar, TRAIN + [f"--{k}={v}" for k, v in flags.items()])
                # Neither refused nor complete: then the training was reached, and ended the call.
                assert outcome.status or name in ("run", "to-run")
            elif where == "out":
                call(characterize, ["run", *MEASURE, "--out", name])
            elif where == "path":
                outcome = call(characterize, [name, *MEASURE, "--out", "out"])
                assert (outcome.status == 0) == (name in ("to-run", "run"))
            else:
                call(characterize, [f"{name}.keras", "--dataset", "digits", *MEASURE])
        if where not in ("run-dir", "data-dir"):
            training.assert_not_called()
        assert Path("file").read_text() == "mine"
        assert not Path("nowhere").exists()
        # What `--out` names may lie beside the run's own files.
        assert snapshot(Path("run")).items() >= before.items()


@pytest.mark.parametrize("content", OTHER_FILES[:4])
def test_other_files_are_no_models(content):
    path = place() / "other.keras"
    path.write_bytes(content)
    assert call(characterize, [path, "--dataset", "digits", *MEASURE]).status == 2
