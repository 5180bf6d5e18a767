"""What a user may change about a preset, and what is measured at its minima."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from infomcr_tf.characterization.metric_table import METRICS, shown
from infomcr_tf.experiments.presets import Preset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user may change about a preset.

    Attributes:
        preset: the size.
        num_seeds: in place of the preset's.
        betas: in place of a selected one; several make one setting of a table each.
        model: tables: only this architecture of the preset's.
        target_loss: in place of the preset's, where the runs of the scenarios stop.
        train_size: in place of the preset's, training images of the scenarios; the confusion sets
            change in proportion.
        hessian: scenarios: also measure the Hessian, beside the proxies over the same samples.
        places: options of the training scripts that say where data lies and on what to compute.
        imagenet_places: the same for ImageNet.
        selected: (data set, architecture) -> selected beta, as far as it is known; the preset's
            beta stands in where it is not.
    """

    preset: Preset
    num_seeds: int | None = None
    betas: tuple[float, ...] = ()
    model: str | None = None
    target_loss: float | None = None
    train_size: int | None = None
    hessian: bool = False
    places: dict[str, Any] = dataclasses.field(default_factory=dict)
    imagenet_places: dict[str, Any] = dataclasses.field(default_factory=dict)
    selected: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)

    @property
    def selects_beta(self) -> bool:
        """Whether beta is selected on a validation set."""
        return self.preset.selects_beta and not self.betas

    @property
    def seeds(self) -> int:
        """Runs of each setting of a scenario."""
        return self.num_seeds or self.preset.seeds

    @property
    def table_seeds(self) -> int:
        """Runs of each other setting on CIFAR."""
        return self.num_seeds or self.preset.table_seeds


def measured_views(
    preset: Preset, *, metrics: str | tuple[str, ...] = "all"
) -> dict[str, dict[str, Any]]:
    """gamma_hat raw, at equal loss and by the authors' code; the others are the first view's."""
    samples = {name: preset.measurement[name] for name in ("num_trials", "num_samples")}
    first = preset.measurement if metrics == "all" else samples
    own = {**samples, "metrics": "gamma_hat"}
    return {
        "raw": {**first, "metrics": metrics},
        "equalized": {**own, "equalize_loss": preset.equalize_loss},
        "authors": {**own, "protocol": "authors"},
    }


def level_views(preset: Preset) -> dict[str, dict[str, Any]]:
    """What is measured at networks kept on the way."""
    equalized = {"metrics": "gamma_hat", "equalize_loss": preset.equalize_loss}
    return {
        "raw": {**preset.level_measurement, "metrics": xi_metrics()},
        "equalized": {**preset.level_measurement, **equalized},
    }


def hessian_view(preset: Preset) -> dict[str, dict[str, Any]]:
    """The Hessian and the metrics of xi in its place, over the same samples."""
    of_hessian = tuple(name for name, metric in METRICS.items() if metric.needs == "hessian")
    proxies = ("spectral_radius", "frobenius_norm", "frobenius_norm_cross", "trace")
    return {"hessian": {**preset.hessian_measurement, "metrics": (*proxies, *of_hessian)}}


def xi_metrics() -> tuple[str, ...]:
    """The metrics of the tables that follow from xi."""
    return tuple(metric.name for metric in shown("table") if metric.needs == "gram")
