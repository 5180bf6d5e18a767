"""Carries out the parts of an experiment: training, measurements, tables, figures, report."""

import dataclasses
import functools
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from infomcr_tf.experiments.catalogue import SELECTIONS, make_part, part_names
from infomcr_tf.experiments.choices import Choices
from infomcr_tf.experiments.engines import Engine
from infomcr_tf.experiments.experiment import Experiment, Run, ends_first
from infomcr_tf.experiments.levels import at_level, save_levels
from infomcr_tf.experiments.measure import measure
from infomcr_tf.experiments.paper_values import STEP_MILLISECONDS
from infomcr_tf.experiments.results import Results, together
from infomcr_tf.experiments.saved_results import load_rows, publish
from infomcr_tf.experiments.timing import StepTimes, describe_plan, total
from infomcr_tf.training import RunFolder, TrainingRun


def print_plan(name: str, choices: Choices, out: Path) -> None:
    """Prints what `run_experiment` would do; nothing is trained, steps are timed.

    Raises:
        ValueError: if an option does not fit.
        OSError: if `out` cannot be written to.
    """
    times = StepTimes(out / "step_times.json")
    remaining: dict[Path, float] = {}
    for experiment in _parts(name, choices, out):
        runs = experiment.runs(out)
        estimates = [times.estimate(run) for run in runs]
        todo = [(r, e) for r, e in zip(runs, estimates, strict=True) if not r.is_complete]
        remaining |= {run.path: estimate for run, estimate in todo}
        done = len(runs) - len(todo)
        print(f"{experiment.name}: {experiment.title}; {done} of {len(runs)} runs are complete")
        print(describe_plan(runs, estimates))
    print(f"to do: {total(list(remaining.values()))}")


def run_experiment(name: str, choices: Choices, out: Path, engine: Engine) -> int:
    """Runs an experiment, or resumes it, and writes its results to `out/PART/`.

    Complete runs and measurements are not repeated. A run that fails is reported in the results
    and does not stop the others; the same call tries it again.

    Returns:
        The number of failed runs.

    Raises:
        ValueError: if an option does not fit.
        OSError: if `out` cannot be written to.
    """
    results = [_run_part(part, out, engine) for part in _parts(name, choices, out)]
    scenarios = [each for each in results if each.experiment.generalization_measures]
    if len(scenarios) > 1:
        _publish(together(scenarios), out)
    return sum(len(each.failures) for each in results)


def work(experiment: Experiment, run: Run) -> None:
    """Trains one run, or resumes it, and measures it; both are kept on disk."""
    keras.backend.clear_session()
    progress = sys.stdout.isatty()
    if not run.is_complete:
        TrainingRun(run.config).run(verbose=1 if progress else 0)
    measure(run, experiment, progress=progress)
    for kept in run.kept.values():
        measure(kept, at_level(experiment), progress=progress)


def selected_betas(experiment: Experiment, place: Path) -> dict[tuple[str, str], float]:
    """(data set, architecture) -> the beta of the lowest mean validation error.

    Args:
        experiment: one of `SELECTIONS`.
        place: its results; where there are none yet, nothing is selected.
    """
    if not (place / "results.json").exists():
        return {}
    errors: dict[tuple[str, str], list[float]] = {}
    for row in load_rows(place):
        errors.setdefault((row["group"], row["label"]), []).append(row["validation_error"])
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for setting in experiment.settings:
        found = errors.get((setting.group, setting.label))
        if found is None:
            continue
        network = (setting.config.default_name, setting.config.model)
        candidate = (statistics.mean(found), setting.config.beta)
        # Of equal errors the smaller beta wins.
        best[network] = min(best.get(network, candidate), candidate)
    return {network: beta for network, (_, beta) in best.items()}


def _parts(name: str, choices: Choices, out: Path) -> Iterator[Experiment]:
    """The parts in turn; later ones know the betas that earlier ones have selected."""
    for part in part_names(name, choices):
        if choices.selects_beta:
            selected: dict[tuple[str, str], float] = {}
            for grid in SELECTIONS:
                selected |= selected_betas(make_part(grid, choices), out / grid)
            choices = dataclasses.replace(choices, selected=selected)
        yield make_part(part, choices)


def _run_part(experiment: Experiment, out: Path, engine: Engine) -> Results:
    runs = experiment.runs(out)
    done = sum(run.is_complete for run in runs)
    print(f"{experiment.title}\n{len(runs)} runs, {done} are trained already")
    print(describe_plan(runs), flush=True)
    failures = {}
    outcomes = engine.map(functools.partial(work, experiment), ends_first(runs))
    for i, (run, error) in enumerate(outcomes):
        outcome = "done" if error is None else f"FAILED: {_reason(error)}"
        title = f"{run.setting.title}, seed {run.config.seed}"
        print(f"[{i + 1}/{len(runs)}] {title}: {outcome}", flush=True)
        if error is not None:
            failures[run.name] = _reason(error)
    measured = [run for run in runs if run.name not in failures]
    rows = [measure(run, experiment) for run in measured]
    results = Results.collect(
        experiment,
        rows,
        failures,
        notes=_timing(experiment, rows, out),
        options=_options(rows, out),
    )
    _publish(results, out)
    save_levels(results, measured, out / experiment.name)
    return results


def _publish(results: Results, out: Path) -> None:
    place = out / results.experiment.name
    publish(results, place)
    print(f"{results.markdown()}\nwritten to {place}: report.html, table.md, results.json, ...")


def _options(rows: Sequence[dict[str, Any]], out: Path) -> dict[str, dict[str, Any]]:
    """Title of a setting -> the options of its runs with what they left to the recipe."""
    options: dict[str, dict[str, Any]] = {}
    for row in rows:
        config = RunFolder.load(out / "runs" / row["run"]).config
        options.setdefault(f"{row['group']} {row['label']}".strip(), config.identity)
    return options


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _timing(experiment: Experiment, rows: Sequence[dict[str, Any]], out: Path) -> list[str]:
    """Beside Table 2, the cost of a step as in section 7.2.1."""
    if experiment.name != "table2" or not rows:
        return []
    plain, regularized = STEP_MILLISECONDS
    measured = StepTimes(out / "step_times.json").ratio(experiment.settings[1].config)
    return [
        f"A step with the penalty took {measured:.2f} times as long as one without, measured on "
        f"this machine; in the paper {regularized} ms / {plain} ms = {regularized / plain:.2f}."
    ]
