"""What a user of a type checker writes; `make lint` checks it (nothing here is run)."""

from pathlib import Path
from typing import Any

from infomcr_tf import FisherRegularizedModel, MinimumReport, characterize
from infomcr_tf.characterization import Metric, register_metric
from infomcr_tf.curvature import HessianOperator, top_eigenvalues, trace
from infomcr_tf.gradients import GradientEngine, gram_matrix
from infomcr_tf.training import CifarConfig, TrainingRun


def next_gamma_hat(report: MinimumReport) -> float:
    """Numbers of a report are numbers."""
    total: float = report.gamma_hat + 1
    return total + report.robustness - report.spectral_radius / report.num_samples


def longest_row(report: MinimumReport) -> int:
    """So are those of the trials."""
    return max(len(values) for values in report.trials.values())


def measured(model: Any, x: Any, y: Any, place: Path) -> MinimumReport:
    """Arguments are checked by name."""
    report = characterize(model, x, y, num_trials=3, metrics=["gamma_hat"], progress=False)
    report.save(place)
    return MinimumReport.load(place)


def epochs_of(config: CifarConfig) -> int:
    """A resolved configuration has nothing left open."""
    return TrainingRun(config).config.epochs + config.resolve(1000).batch_size


def curvature(model: Any, x: Any, y: Any) -> float:
    """Estimates and eigenvalues are numbers and arrays of numbers."""
    operator = HessianOperator(model, x, y)
    values, vectors = top_eigenvalues(operator, k=2)
    first: float = float(values[0]) + float(vectors[0, 0])
    return first + trace(operator).value + trace(operator).standard_error


def gram(model: Any, x: Any, y: Any) -> float:
    """So are Gram matrices."""
    whole = GradientEngine(model, chunk_size=10).gram(x, y)
    return whole.logdet + float(gram_matrix(model, x, y)[0, 0])


def wrapped(model: Any) -> FisherRegularizedModel:
    """Keras' own types are not known; the wrapper's arguments are."""
    return FisherRegularizedModel(model, beta=10.0, num_sub_batches=4)


register_metric(Metric(name="size", title="size", compute=lambda trial: float(trial.num_examples)))
