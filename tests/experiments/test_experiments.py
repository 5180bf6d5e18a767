"""`python -m infomcr_tf.experiments`: plans, runs, resumption and bad input."""

import csv
import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from unittest import mock

import pytest

from infomcr_tf.characterization import characterize
from infomcr_tf.comparison.minimum import DataOptions, Minimum
from infomcr_tf.experiments import __main__ as command
from infomcr_tf.experiments import experiment_flags
from infomcr_tf.experiments.catalogue import NAMES, SELECTIONS, make_part, part_names
from infomcr_tf.experiments.choices import Choices
from infomcr_tf.experiments.experiment import ends_first
from infomcr_tf.experiments.measure import measure
from infomcr_tf.experiments.presets import PRESETS
from infomcr_tf.experiments.runner import selected_betas
from infomcr_tf.experiments.timing import StepTimes
from infomcr_tf.storage import write_json
from infomcr_tf.training import CifarConfig, ImageNetConfig, RunFolder

PAPER = Choices(preset=PRESETS["paper"])


def options(experiment, *names):
    return [tuple(getattr(s.config, name) for name in names) for s in experiment.settings]


def test_paper_scenarios_are_those_of_section_7_1(tmp_path):
    confusion, augmentation, batch_size = (
        make_part(f"scenario-{name}", PAPER) for name in ("confusion", "augmentation", "batch-size")
    )
    names = ("confusion_size", "train_size", "augmentation", "batch_size", "nested_sets")
    assert options(confusion, *names) == [
        (1000 * k, 10_000, "4-crop-f", 128, False) for k in range(6)
    ]
    assert [a for (a,) in options(augmentation, "augmentation")] == [
        "no-aug",
        "flip-only",
        "1-crop-f",
        "4-crop-f",
    ]
    assert options(batch_size, "batch_size", "augmentation", "confusion_size", "train_size") == [
        (size, "4-crop-f", 0, None) for size in (128, 256, 512, 1024)
    ]
    for experiment in (confusion, augmentation, batch_size):
        assert experiment.num_seeds == 5
        assert set(options(experiment, "model", "epochs", "learning_rate", "schedule")) == {
            ("resnet20", 200, 0.1, "plateau")
        }
        assert {r for (r,) in options(experiment, "regularize")} == {"never"}
        for arguments in experiment.views.values():
            assert (arguments["num_trials"], arguments["num_samples"]) == (100, 100)
        assert len(experiment.runs(tmp_path)) == 5 * len(experiment.settings)


def test_paper_tables_train_with_the_networks_own_recipes():
    table1 = make_part("table1", dataclasses.replace(PAPER, selected={("cifar10", "cnn"): 40.0}))
    assert len(table1.settings) == 14
    first, second, *_ = table1.settings
    assert (first.config.regularize, second.config.regularize) == ("never", "after-first-drop")
    assert (second.config.beta, second.config.alpha, second.config.num_sub_batches) == (40, 1e-4, 8)
    assert (first.paper, second.paper) == (
        {"test_error": (8.52, 0.23)},
        {"test_error": (7.55, 0.06)},
    )
    recipe = ("epochs", "learning_rate", "batch_size", "schedule", "augmentation", "train_size")
    assert set(options(table1, *recipe)) == {(None, None, None, "recipe", None, None)}
    grid = make_part("select-beta", PAPER)
    assert {b for (b,) in options(grid, "beta")} == {1, 5, 10, 20, 30, 40, 50, 75, 100}
    assert {v for (v,) in options(grid, "validation_size")} == {5000}
    table2 = make_part("table2", PAPER)
    assert table2.num_seeds == 3
    assert all(isinstance(s.config, ImageNetConfig) for s in table2.settings)
    assert "robustness" not in table2.views["raw"]["metrics"]
    stages = make_part("schedule-ablation", PAPER)
    assert [s.label for s in stages.settings] == ["never", "111", "011", "001", "100", "010"]
    assert {"111", "after-first-drop", "001", "100", "010"} <= {
        r for (r,) in options(stages, "regularize")
    }


def test_every_result_shows_gamma_hat_raw_and_at_equal_loss():
    for name in NAMES:
        for part in part_names(name, PAPER):
            views = make_part(part, PAPER).views
            assert part in SELECTIONS or (
                views["equalized"]["equalize_loss"] == 0.005 and "equalize_loss" not in views["raw"]
            )
            assert part in SELECTIONS or views["authors"]["protocol"] == "authors"


def test_the_hessian_is_a_view_of_the_scenarios_where_asked_for():
    for hessian in (False, True):
        views = make_part("scenario-confusion", dataclasses.replace(PAPER, hessian=hessian)).views
        assert ("hessian" in views) == hessian
    assert {"hessian_spectral_radius", "hessian_trace"} <= set(views["hessian"]["metrics"])


def test_beta_is_selected_before_it_is_used_unless_it_is_given():
    assert part_names("table1", PAPER) == ["select-beta", "table1"]
    given = dataclasses.replace(PAPER, betas=(3.0,))
    assert part_names("table1", given) == ["table1"]
    assert make_part("table1", given).settings[1].config.beta == 3
    assert part_names("table1", Choices(preset=PRESETS["small"])) == ["table1"]
    assert part_names("all", PAPER).count("select-beta") == 1


def test_a_table_of_one_network_with_several_betas(tmp_path):
    choices = Choices(preset=PRESETS["medium"], betas=(10.0, 50.0), model="resnet20")
    for name in ("table1", "table3"):
        table = make_part(name, choices)
        assert [s.title for s in table.settings] == [
            "cifar10 resnet20 without",
            "cifar10 resnet20 with (beta 10)",
            "cifar10 resnet20 with (beta 50)",
        ]
    for name in ("schedule-ablation", "table2"):
        with pytest.raises(ValueError, match=f"`--beta` must be one value for {name}"):
            make_part(name, choices)
    with pytest.raises(ValueError, match="`--model` must be one of the experiment's: cnn, resn"):
        make_part("table1", Choices(preset=PRESETS["small"], model="wrn28_2"))


def test_experiments_share_runs_that_are_the_same(tmp_path):
    paths = [
        {run.path for run in make_part(name, PAPER).runs(tmp_path)}
        for name in ("scenario-augmentation", "scenario-batch-size", "table1", "table3")
    ]
    assert len(paths[0] & paths[1]) == 5  # 4-crop-f with batches of 128
    assert paths[3] <= paths[2]
    ablation = {run.path for run in make_part("schedule-ablation", PAPER).runs(tmp_path)}
    assert len(ablation & paths[2]) == 2 * 5  # never and 011
    places = dataclasses.replace(PAPER, places={"data_dir": "elsewhere", "gpus": 2})
    moved = {run.path for run in make_part("table1", places).runs(tmp_path)}
    assert moved == paths[2]


def test_medium_is_the_papers_setting_on_10_000_images(tmp_path):
    """Scenario I is the paper's; its run without a confusion set serves everything else."""
    medium = Choices(preset=PRESETS["medium"])
    paper, *others = (
        {run.path for run in make_part(name, choices).runs(tmp_path)}
        for name, choices in (
            ("scenario-confusion", PAPER),
            ("scenario-confusion", medium),
            ("scenario-augmentation", medium),
            ("scenario-batch-size", medium),
            ("table1", medium),
            ("table3", medium),
        )
    )
    assert others[0] == paper
    for runs in others[1:]:
        assert len(runs & paper) == 5
    for name in ("scenario-augmentation", "scenario-batch-size", "table1", "schedule-ablation"):
        experiment = make_part(name, medium)
        assert set(options(experiment, "train_size", "nested_sets")) == {(10_000, False)}
        same = make_part(name, PAPER)
        assert [s.title for s in experiment.settings] == [s.title for s in same.settings]
    # The other networks' recipes are their own.
    cnn, *_ = make_part("table1", medium).settings
    assert (cnn.config.model, cnn.config.epochs, cnn.config.schedule) == ("cnn", None, "recipe")


def test_beta_for_imagenet_is_selected_in_the_papers_setting(tmp_path):
    assert part_names("table2", PAPER) == ["select-beta-imagenet", "table2"]
    assert part_names("table2", Choices(preset=PRESETS["small"])) == ["table2"]
    assert part_names("table2", Choices(preset=PRESETS["smoke"])) == ["table2"]
    assert "select-beta-imagenet" in part_names("select-beta", PAPER)
    grid = make_part("select-beta-imagenet", PAPER)
    assert [b for (b,) in options(grid, "beta")] == [1, 5, 10, 20, 30, 40, 50, 75, 100]
    assert set(options(grid, "validation_size", "model")) == {(50_000, "wrn18_1_5")}
    header = {"kind": "infomcr_tf experiment", "version": 1}
    rows = [
        {"group": "imagenet wrn18_1_5", "label": label, "validation_error": error}
        for label, error in (("1", 40.0), ("20", 38.0), ("50", 39.0))
    ]
    write_json(tmp_path / "results.json", {**header, "runs": rows})
    selected = selected_betas(grid, tmp_path)
    assert selected == {("imagenet", "wrn18_1_5"): 20.0}
    table2 = make_part("table2", dataclasses.replace(PAPER, selected=selected))
    assert table2.settings[1].config.beta == 20


def test_small_scenarios_stop_at_one_training_loss():
    for name in ("confusion", "augmentation", "batch-size"):
        experiment = make_part(f"scenario-{name}", Choices(preset=PRESETS["small"]))
        assert set(options(experiment, "target_loss", "kept_losses")) == {(2e-4, (0.01, 0.001))}
        assert experiment.num_seeds == 5
        for target, kept in ((0.005, (0.01,)), (0.2, ())):
            higher = Choices(preset=PRESETS["small"], target_loss=target)
            experiment = make_part(f"scenario-{name}", higher)
            assert set(options(experiment, "target_loss", "kept_losses")) == {(target, kept)}
    for name in ("table1", "table3", "schedule-ablation"):
        experiment = make_part(name, Choices(preset=PRESETS["small"]))
        assert {k for (k,) in options(experiment, "kept_losses")} == {(0.01, 0.001, 2e-4)}


def test_the_ends_of_a_variable_are_worked_on_first(tmp_path):
    runs = make_part("scenario-confusion", PAPER).runs(tmp_path)
    order = [(run.config.seed, run.config.confusion_size) for run in ends_first(runs)]
    assert order[:6] == [(0, 1000 * k) for k in (0, 5, 2, 1, 3, 4)]
    assert sorted(order) == [(run.config.seed, run.config.confusion_size) for run in runs]
    for count in range(9):
        assert sorted(ends_first(runs[:count]), key=runs.index) == runs[:count]


def test_another_training_size_changes_confusion_sets_in_proportion():
    for preset, sizes in (("small", [0, 200, 600, 1000]), ("paper", [0, 200, 400, 600, 800, 1000])):
        choices = Choices(preset=PRESETS[preset], train_size=2000)
        scenario = make_part("scenario-confusion", choices)
        assert options(scenario, "train_size", "confusion_size") == [(2000, n) for n in sizes]
        batches = make_part("scenario-batch-size", choices)
        assert {n for (n,) in options(batches, "train_size")} == {2000}
        assert "In place of the preset's: train size 2000." in batches.notes


def test_selects_the_beta_of_the_lowest_mean_validation_error(tmp_path):
    grid = make_part("select-beta", Choices(preset=PRESETS["small"]))
    errors = {"1": (9.0, 9.0), "10": (8.0, 8.5), "50": (7.0, 9.5), "100": (9.0, 7.5)}
    rows = [
        {"group": group, "label": label, "validation_error": error}
        for group in ("cifar10 cnn",)
        for label, both in errors.items()
        for error in both
    ]
    assert selected_betas(grid, tmp_path) == {}
    header = {"kind": "infomcr_tf experiment", "version": 1}
    write_json(tmp_path / "results.json", {**header, "runs": rows})
    # 8.25 three times: the smallest of equals.
    assert selected_betas(grid, tmp_path) == {("cifar10", "cnn"): 10.0}


def run(*arguments):
    return command.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenario")
    arguments = ("scenario-confusion", "--preset", "smoke", "--out", out, "--seeds", "1")
    assert run(*arguments) == 0
    return out, arguments


def test_smoke_scenario_leaves_ordinary_runs_and_results(scenario):
    out, _ = scenario
    place = out / "scenario-confusion"
    assert {path.name for path in place.iterdir()} == {
        "results.json",
        "results.csv",
        "table.csv",
        "table.md",
        "report.html",
        "figure.png",
        "figure.svg",
        "levels.md",
        "levels.csv",
    }
    rows = json.loads((place / "results.json").read_text())["runs"]
    assert [row["label"] for row in rows] == ["0", "25"]
    report = (place / "report.html").read_text()
    for row in rows:
        folder = RunFolder.load(out / "runs" / row["run"])
        result = folder.read_result()
        assert row["test_error"] == 100 * result["test"]["error"]
        assert row["gap"] == pytest.approx(row["test_error"] - row["train_error"])
        assert folder.config.confusion_size == int(row["label"])
        last = folder.history_path.read_text().splitlines()[-1]
        assert int(last.split(",")[0]) == row["epochs"]
        for name in ("gamma_hat", "gamma_hat_equalized", "robustness", "pac_bayes_flatness"):
            assert isinstance(row[name], float)
        # The recipe's value, which the preset leaves open.
        assert f"learning_rate = {folder.config.learning_rate}" in report
        assert row["distance_from_initialization"] < row["parameter_norm"]


def test_networks_that_were_kept_on_the_way_are_measured(scenario):
    out, _ = scenario
    place = out / "scenario-confusion"
    with (place / "levels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["level"], row["label"]) for row in rows] == [("1.5", "0"), ("1.5", "25")]
    final = json.loads((place / "results.json").read_text())["runs"]
    for row, last in zip(rows, final, strict=True):
        assert row["run"] == f"{last['run']}-at-1.5"
        assert last["train_loss"] <= 0.3 < float(row["train_loss"]) <= 1.5
        assert int(row["epochs"]) < last["epochs"]
        minimum = Minimum.open(out / "runs" / row["run"], DataOptions())
        sizes = {"num_trials": 2, "num_samples": 10, "metrics": "gamma_hat", "progress": False}
        sizes["per_layer"] = False  # whose sums round in another order
        report = characterize(minimum.model, minimum.x, minimum.y, **sizes)
        assert float(row["gamma_hat"]) == report.gamma_hat
    assert "## At a training loss of 1.5" in (place / "levels.md").read_text()


WORK = ("runner.TrainingRun", "measure.characterize", "measure.compute_measures")


def test_the_same_command_computes_nothing_again(scenario, monkeypatch):
    out, arguments = scenario
    files = [path for part in ("runs", "measurements") for path in (out / part).rglob("*.*")]
    before = {path: path.stat().st_mtime_ns for path in files}

    def refuse(*args, **kwargs):
        raise AssertionError("computed again")

    for name in WORK:
        monkeypatch.setattr(f"infomcr_tf.experiments.{name}", refuse)
    assert run(*arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before


@pytest.mark.slow
def test_the_hessian_is_measured_where_asked_for_beside_its_proxies(scenario):
    out, arguments = scenario
    before = json.loads((out / "scenario-confusion" / "results.json").read_text())["runs"]
    assert not any("hessian" in name for row in before for name in row)
    assert run(*arguments, "--hessian") == 0
    table = (out / "scenario-confusion" / "table.md").read_text()
    assert "spectral radius of the Hessian" in table
    assert "trace of the Fisher matrix" in table
    row = json.loads((out / "scenario-confusion" / "results.json").read_text())["runs"][0]
    minimum = Minimum.open(out / "runs" / row["run"], DataOptions())
    metrics = ["spectral_radius", "trace", "hessian_spectral_radius", "hessian_trace"]
    sizes = {"num_trials": 1, "num_samples": 10, "progress": False}
    report = characterize(minimum.model, minimum.x, minimum.y, metrics=metrics, **sizes)
    assert row["fisher_spectral_radius_proxy"] == pytest.approx(report.spectral_radius / 10)
    assert row["trace_proxy"] == pytest.approx(report.trace)
    assert row["hessian_spectral_radius"] == pytest.approx(report.hessian_spectral_radius, rel=1e-3)
    assert row["hessian_trace"] == pytest.approx(report.hessian_trace)


def test_the_authors_protocol_takes_as_many_disjoint_batches_as_there_are(scenario):
    out, _ = scenario
    experiment = make_part("scenario-confusion", Choices(preset=PRESETS["smoke"], num_seeds=1))
    sizes = {"num_trials": 8, "num_samples": 30, "metrics": "gamma_hat"}  # of 100 images
    names = ("raw", "equalized", "authors")
    views = {name: {**sizes, **experiment.views[name], **sizes} for name in names}
    experiment = dataclasses.replace(experiment, views=views, generalization_measures=False)
    one = experiment.runs(out)[0]
    row = measure(one, experiment)
    minimum = Minimum.open(one.path, DataOptions())
    sizes |= {"num_trials": 3, "protocol": "authors", "per_layer": False, "progress": False}
    assert (
        row["gamma_hat_authors"]
        == characterize(minimum.model, minimum.x, minimum.y, **sizes).gamma_hat
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_what_computes_nothing_again_would_be_called(scenario, monkeypatch, tmp_path, name):
    """The names above are those by which the work is done where its results are missing."""
    out, arguments = scenario
    shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / ("runs" if "TrainingRun" in name else "measurements"))
    work = mock.Mock(side_effect=AssertionError("computed again"))
    monkeypatch.setattr(f"infomcr_tf.experiments.{name}", work)
    assert run(*arguments, "--out", tmp_path / "out") == 1
    work.assert_called()


def test_a_failed_run_is_reported_and_tried_again(scenario, monkeypatch, capsys):
    out, arguments = scenario
    measurements = sorted((out / "measurements").iterdir())[0]
    kept = measurements.rename(out / "kept")

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("infomcr_tf.experiments.measure.characterize", fail)
        assert run(*arguments) == 1
    captured = capsys.readouterr()
    assert "FAILED: RuntimeError: out of memory" in captured.out
    assert "1 run(s) failed" in captured.err
    content = json.loads((out / "scenario-confusion" / "results.json").read_text())
    assert len(content["runs"]) == len(content["failures"]) == 1
    for path in measurements.iterdir():
        path.unlink()
    measurements.rmdir()
    kept.rename(measurements)
    assert run(*arguments) == 0
    content = json.loads((out / "scenario-confusion" / "results.json").read_text())
    assert (len(content["runs"]), content["failures"]) == (2, {})


def test_an_interrupt_says_how_to_go_on(scenario, monkeypatch, capsys):
    _, arguments = scenario

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("infomcr_tf.experiments.runner.measure", interrupt)
    assert run(*arguments) == 130
    assert "give the same command again to resume" in capsys.readouterr().out


def test_commands_of_the_documentation_are_accepted(root_dir):
    commands = []
    for file in (root_dir / "README.md", *sorted((root_dir / "docs").rglob("*.md"))):
        text = file.read_text().replace("\\\n", " ")
        commands += re.findall(r"^ *python -m infomcr_tf\.experiments ([^\n#`|]*)", text, re.M)
    assert commands
    for flags in commands:
        if flags.startswith("NAME "):
            continue
        parsed = experiment_flags._parser("infomcr-experiments", "").parse_args(flags.split())
        assert parsed.name in NAMES
        assert parsed.preset in PRESETS


def test_dry_run_prints_the_plan_and_measures_each_step_once(tmp_path, capsys, monkeypatch):
    measured = []

    def measure(config, shape, classes, regularized):
        measured.append((config.model, shape, config.batch_size, regularized))
        return 2.0 if regularized else 1.0

    monkeypatch.setattr("infomcr_tf.experiments.timing._measure", measure)
    arguments = ("table1", "--preset", "smoke", "--out", tmp_path, "--dry-run")
    assert run(*arguments) == run(*arguments) == 0
    assert sorted(measured) == [("cnn", (8, 8, 1), 20, False), ("cnn", (8, 8, 1), 20, True)]
    text = capsys.readouterr().out
    # 100 images are 5 steps of 20, 8 epochs; plain 40 s a run, and after the first drop twice that.
    assert re.search(r"digits cnn without +2 run\(s\) of at most 8 epochs, 40 steps: 1.3 min", text)
    assert re.search(r"digits cnn with .*: 2.0 min", text)
    assert "0 of 2 runs are complete" in text or "0 of 4 runs are complete" in text
    # Two seeds: of two betas while one is selected, of that one on all images, and of none. 6
    # regularised runs of 60 s and 2 plain ones of 40 s.
    assert text.count("to do: 8 different runs, at most 7.3 min of training steps") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"step_times.json"}


@pytest.mark.slow
def test_a_step_is_timed_for_real(tmp_path):
    config = CifarConfig(dataset="digits", model="cnn", batch_size=16, num_sub_batches=4)
    times = StepTimes(tmp_path / "times.json", progress=False)
    ratio = times.ratio(config)
    assert ratio > 0
    assert StepTimes(tmp_path / "times.json").ratio(config) == ratio


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table4", "--preset", "smoke"), "`NAME` must be one of .*'table4'"),
        (("table1", "--preset", "smol"), "`--preset` .*Did you mean 'smoke'"),
        (("table1", "--preset", "smoke", "--engine", "rey"), "Did you mean 'ray'"),
        (("table1", "--preset", "smoke", "--seeds", "0"), "`--seeds` must be an integer >= 1"),
        (("scenarios", "--preset", "smoke", "--train-size", "0"), "`--train-size` must be"),
        (("table1", "--preset", "smoke", "--beta", "-1"), "`--beta` must be"),
        (("table1",), "--preset"),
        (("table1", "--preset", "smoke", "--dry"), "unknown argument '--dry'.*--dry-run"),
    ],
)
def test_mistakes_are_one_line_before_any_work(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments, "--out", tmp_path / "out")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_line_is_quiet(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", "infomcr_tf.experiments", "--help"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in ("scenario-confusion", "--dry-run", "smoke"))


@pytest.mark.slow
def test_study_of_the_order_measures_each_run_with_its_own_weights(
    scenario, root_dir, tmp_path, monkeypatch, capsys
):
    out, _ = scenario
    script = str(root_dir / "benchmarks" / "gamma_order.py")
    arguments = ["--out", str(tmp_path), "--trials", "2", "--samples", "8", "--variants", "raw"]
    study = [script, f"smoke={out}", *arguments, "equal loss 0.5", "raw, last layer only"]
    monkeypatch.setattr(sys, "argv", study)
    runpy.run_path(script, run_name="__main__")
    values = json.loads((tmp_path / "values.json").read_text())["values"]
    rows = json.loads((out / "scenario-confusion" / "results.json").read_text())["runs"]
    sizes = {"num_trials": 2, "num_samples": 8, "metrics": "gamma_hat", "progress": False}
    for row in rows:
        minimum = Minimum.open(out / "runs" / row["run"], DataOptions())
        report = characterize(minimum.model, minimum.x, minimum.y, **sizes)
        found = values[row["run"]]
        assert found["raw"]["gamma_hat"] == pytest.approx(report.gamma_hat, rel=1e-5)
        for layer in minimum.model.layers:
            layer.trainable = layer.name == "logits"
        report = characterize(minimum.model, minimum.x, minimum.y, **sizes)
        last = found["raw, last layer only"]["gamma_hat"]
        assert last == pytest.approx(report.gamma_hat, rel=1e-5)
    first, second = (values[row["run"]]["raw"]["gamma_hat"] for row in rows)
    agrees = (first < second) == (rows[0]["test_error"] < rows[1]["test_error"])
    with (tmp_path / "order.csv").open(newline="") as file:
        line = next(csv.DictReader(file))
    assert (line["variant"], line["pairs"], line["pairs_right"]) == ("raw", "1", str(int(agrees)))
    # A second call finds everything.
    opened = mock.Mock(side_effect=AssertionError("opened again"))
    monkeypatch.setattr("infomcr_tf.comparison.minimum.Minimum.open", opened)
    capsys.readouterr()
    runpy.run_path(script, run_name="__main__")
    assert f"| smoke | raw | {int(agrees)} of 1 |" in capsys.readouterr().out
    (tmp_path / "values.json").unlink()
    with pytest.raises(AssertionError, match="opened again"):
        runpy.run_path(script, run_name="__main__")
