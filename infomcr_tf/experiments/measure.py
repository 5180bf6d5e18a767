"""What is measured at the minimum of one run, kept so that it is measured once."""

import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infomcr_tf import models
from infomcr_tf.characterization import MinimumReport, characterize
from infomcr_tf.characterization.metric_table import METRICS, shown
from infomcr_tf.comparison.minimum import DataOptions, Minimum
from infomcr_tf.experiments.experiment import Experiment, Run
from infomcr_tf.experiments.generalization_measures import (
    GENERALIZATION_MEASURES,
    TrainedNetwork,
    compute_measures,
)
from infomcr_tf.experiments.results import PROXIES
from infomcr_tf.storage import read_json, write_json
from infomcr_tf.training import RunFolder

_MEASURES_KIND = "infomcr_tf yardsticks"
_MEASURED_IMAGES = 256


def measure(run: Run, experiment: Experiment, *, progress: bool = False) -> dict[str, Any]:
    """One row of the results: errors, metrics and generalization measures of a complete run.

    Measurements lie in `measurements/` beside the run folders, one file for each set of
    arguments; an interrupted one is resumed from its finished trials.

    Args:
        run: complete.
        experiment: whose views are measured.
        progress: show progress bars.

    Raises:
        FileNotFoundError: if the run is not complete.
        ValueError: if a view does not fit the run.
    """
    folder = RunFolder.load(run.path)
    row = {
        "run": run.name,
        "group": run.setting.group,
        "label": run.setting.label,
        "seed": run.config.seed,
    }
    row |= _training(folder)

    @functools.cache
    def minimum() -> Minimum:
        """The run's model and data, opened when a measurement is really missing."""
        return Minimum.open(run.path, DataOptions(data_dir=run.config.data_dir))

    place = run.path.parent.parent / "measurements" / run.name
    if experiment.views:
        place.mkdir(parents=True, exist_ok=True)
        reports = {
            name: _report(minimum, place, arguments, progress)
            for name, arguments in experiment.views.items()
        }
        row |= _columns(reports)
    if experiment.generalization_measures:
        row |= _generalization_measures(minimum, folder, place)
    return row


def _errors(result: Mapping[str, Any]) -> dict[str, float]:
    """Errors in percent, losses in nats, as `result.json` has them."""
    row = {}
    for part in ("train", "confusion", "validation", "test"):
        if part not in result:
            continue
        row[f"{part}_loss"] = result[part]["loss"]
        row[f"{part}_error"] = 100 * result[part]["error"]
        if "top5_error" in result[part]:
            row[f"{part}_top5_error"] = 100 * result[part]["top5_error"]
    row["gap"] = row["test_error"] - row["train_error"]
    if "test_top5_error" in row:
        row["top5_gap"] = row["test_top5_error"] - row["train_top5_error"]
    return row


def _training(folder: RunFolder) -> dict[str, Any]:
    result = folder.read_result()
    found = {**_errors(result), "epochs": len(folder.read_history())}
    target = folder.config.target_loss
    if target is not None:
        found["reached_target"] = found["train_loss"] <= target
    return found


def _report(
    minimum: Callable[[], Minimum], place: Path, arguments: Mapping[str, Any], progress: bool
) -> MinimumReport:
    text = json.dumps(dict(arguments), sort_keys=True).encode()
    name = hashlib.blake2b(text, digest_size=4).hexdigest()
    path = place / f"report-{name}.json"
    if path.exists():
        return MinimumReport.load(path)
    own = minimum()
    with warnings.catch_warnings():
        # What it warns of stands in the table: excluded examples and singular matrices.
        warnings.simplefilter("ignore", UserWarning)
        checkpoint = place / f"checkpoint-{name}.json"
        values = _fitted(arguments, len(own.y))
        report = characterize(
            own.model,
            own.x,
            own.y,
            checkpoint=checkpoint,
            progress=progress,
            per_layer=False,  # in no table or figure
            **values,
        )
    report.save(path)
    checkpoint.unlink()
    return report


def _fitted(arguments: Mapping[str, Any], num_images: int) -> dict[str, Any]:
    """Arguments of `characterize` with no more images than there are."""
    values = dict(arguments)
    if "num_robustness_examples" in values:
        values["num_robustness_examples"] = min(values["num_robustness_examples"], num_images)
    if values.get("protocol") == "authors":  # its batches are disjoint
        values["num_trials"] = min(values["num_trials"], num_images // values["num_samples"])
    return values


def _columns(reports: Mapping[str, MinimumReport]) -> dict[str, Any]:
    raw, equalized = reports["raw"], reports["equalized"]
    row = {
        "gamma_hat": raw.gamma_hat,
        "gamma_hat_equalized": per_sample_gamma_hat(equalized),
        "equalized_excluded": equalized.num_excluded
        / (equalized.num_trials * equalized.num_samples),
    }
    listed = dict.fromkeys((*shown("experiments"), *shown("table")))
    found = {metric.name: metric.value(raw) for metric in listed}
    row |= {name: value for name, value in found.items() if value is not None}
    if "authors" in reports:
        row["gamma_hat_authors"] = reports["authors"].gamma_hat
        row["log_singular_value_sum"] = reports["authors"].log_singular_value_sum
    if "hessian" in reports:
        own = reports["hessian"]
        row |= {name: getattr(own, name.removesuffix("_proxy")) for name, _ in PROXIES}
        of_hessian = (metric for metric in METRICS.values() if metric.needs == "hessian")
        row |= {metric.name: metric.value(own) for metric in of_hessian}
    return row


def per_sample_gamma_hat(report: MinimumReport) -> float:
    """Mean over T of `ln|xi^t| N' / n^t`, n^t the examples that could be equalised.

    Without this, a network that classifies an example wrongly would have one factor fewer. It is
    nan where a trial has no such example, and `gamma_hat` itself without `equalize_loss`.

    Args:
        report: with gamma_hat among its metrics.
    """
    kept = report.trials["num_kept"]
    if np.any(kept == 0):
        return float("nan")
    return float(np.mean(report.trials["gamma_hat"] * report.num_samples / kept))


def _generalization_measures(
    minimum: Callable[[], Minimum], folder: RunFolder, place: Path
) -> dict[str, float]:
    place.mkdir(parents=True, exist_ok=True)
    path = place / "yardsticks.json"
    values: dict[str, float] = {}
    if path.exists():
        content = read_json(path, kind=_MEASURES_KIND, version=1)
        values = {name: float(value) for name, value in content["values"].items()}
    missing = [name for name in GENERALIZATION_MEASURES if name not in values]
    if not missing:
        return values
    own = minimum()
    config = folder.config
    start = models.ARCHITECTURES[config.model](
        input_shape=own.model.input_shape[1:],
        num_classes=own.model.output_shape[-1],
        weight_decay=config.weight_decay,
        seed=config.seed,
    )
    initial = [np.asarray(variable) for variable in start.trainable_variables]
    chosen = np.random.default_rng(0).permutation(len(own.y))[:_MEASURED_IMAGES]
    part = dataclasses.replace(own, images=own.images[chosen], y=own.y[chosen])
    network = TrainedNetwork(model=own.model, initial_weights=initial, x=part.x, y=part.y)
    values |= compute_measures(network, missing)
    write_json(path, {"kind": _MEASURES_KIND, "version": 1, "values": values})
    return values
