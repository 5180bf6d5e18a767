"""The paper's experiments by name: from a preset to settings and measurements (section 7)."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from infomcr_tf.experiments.experiment import Experiment, Setting
from infomcr_tf.experiments.paper_values import TABLE1, TABLE2, TABLE3
from infomcr_tf.experiments.presets import Preset
from infomcr_tf.training import CifarConfig, ImageNetConfig

ABLATION_SCHEDULES = ("never", "111", "011", "001", "100", "010")

# The metrics that follow from xi.
_XI_METRICS = ("gamma_hat", "spectral_radius", "frobenius_norm", "trace", "rank")

# What each name of the command line consists of, in the order of computation.
PARTS = {
    "scenario-confusion": ("scenario-confusion",),
    "scenario-augmentation": ("scenario-augmentation",),
    "scenario-batch-size": ("scenario-batch-size",),
    "scenarios": ("scenario-confusion", "scenario-augmentation", "scenario-batch-size"),
    "select-beta": ("select-beta", "select-beta-imagenet", "select-beta-retrained"),
    "table1": ("select-beta", "table1"),
    "table2": ("select-beta-imagenet", "table2"),
    "table3": ("select-beta", "table3"),
    "schedule-ablation": ("select-beta", "schedule-ablation"),
}
# Where beta is selected, later parts take it from there.
SELECTIONS = ("select-beta", "select-beta-imagenet")
NAMES = (*PARTS, "all")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user may change about a preset.

    Attributes:
        preset: the size.
        num_seeds: in place of the preset's.
        beta: in place of a selected one.
        target_loss: in place of the preset's, where the runs of the scenarios stop.
        train_size: in place of the preset's, training images of the scenarios; the confusion sets
            change in proportion.
        places: options of the training scripts that say where data lies and on what to compute.
        imagenet_places: the same for ImageNet.
        selected: (data set, architecture) -> selected beta, as far as it is known; the preset's
            beta stands in where it is not.
    """

    preset: Preset
    num_seeds: int | None = None
    beta: float | None = None
    target_loss: float | None = None
    train_size: int | None = None
    places: dict[str, Any] = dataclasses.field(default_factory=dict)
    imagenet_places: dict[str, Any] = dataclasses.field(default_factory=dict)
    selected: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)

    @property
    def selects_beta(self) -> bool:
        """Whether beta is selected on a validation set."""
        return self.preset.selects_beta and self.beta is None

    @property
    def seeds(self) -> int:
        """Runs of each setting of a scenario."""
        return self.num_seeds or self.preset.seeds

    @property
    def table_seeds(self) -> int:
        """Runs of each other setting on CIFAR."""
        return self.num_seeds or self.preset.table_seeds


def part_names(name: str, choices: Choices) -> list[str]:
    """The parts of an experiment, or of all of them, in the order of computation.

    Raises:
        KeyError: if there is no such experiment.
    """
    names = PARTS if name == "all" else (name,)
    parts = dict.fromkeys(part for each in names for part in PARTS[each])
    if not choices.preset.imagenet_betas:
        parts.pop("select-beta-imagenet", None)
    if name != "select-beta" and not choices.selects_beta:
        for part in (*SELECTIONS, "select-beta-retrained"):
            parts.pop(part, None)
    return list(parts)


def make_part(part: str, choices: Choices) -> Experiment:
    """The settings and measurements of one part.

    Args:
        part: one of `part_names`.
        choices: preset and what changes it.

    Raises:
        ValueError: if an option does not fit.
    """
    makers = {
        "scenario-confusion": _confusion,
        "scenario-augmentation": _augmentation,
        "scenario-batch-size": _batch_size,
        "select-beta": _select_beta,
        "select-beta-imagenet": _select_beta_imagenet,
        "select-beta-retrained": _retrained,
        "table1": _table1,
        "table2": _table2,
        "table3": _table3,
        "schedule-ablation": _ablation,
    }
    return makers[part](choices)


def _views(
    preset: Preset, *, metrics: str | tuple[str, ...] = "all", authors: bool = False
) -> dict[str, dict[str, Any]]:
    """gamma_hat raw and at equal loss; the other metrics are those of the first view."""
    samples = {name: preset.measurement[name] for name in ("num_trials", "num_samples")}
    first = preset.measurement if metrics == "all" else samples
    views = {
        "raw": {**first, "metrics": metrics},
        "equalized": {
            **samples, "metrics": "gamma_hat", "equalize_loss": preset.equalize_loss,
        },
    }  # fmt: skip
    if authors:
        views["authors"] = {**samples, "metrics": "gamma_hat", "protocol": "authors"}
    return views


def _level_views(preset: Preset) -> dict[str, dict[str, Any]]:
    """What is measured at networks kept on the way."""
    equalized = {"metrics": "gamma_hat", "equalize_loss": preset.equalize_loss}
    return {
        "raw": {**preset.level_measurement, "metrics": _XI_METRICS},
        "equalized": {**preset.level_measurement, **equalized},
    }


def _scenario(
    choices: Choices, name: str, title: str, variable: str, option: str, values: tuple, more: Any
) -> Experiment:
    preset = choices.preset
    base = {**preset.scenario, **more, "regularize": "never", **choices.places}
    notes = [preset.about]
    for changed in ("target_loss", "train_size"):
        value = getattr(choices, changed)
        if value is not None:
            base[changed] = value
            notes.append(f"In place of the preset's: {changed.replace('_', ' ')} {value:g}.")
    if choices.target_loss is not None and "keep_at" in base:
        levels = [each for each in base["keep_at"].split(",") if float(each) > choices.target_loss]
        base["keep_at"] = ",".join(levels) or None
    return Experiment(
        name=name,
        title=title,
        variable=variable,
        settings=tuple(
            Setting(label=str(value), config=CifarConfig(**{**base, option: value}))
            for value in values
        ),
        num_seeds=choices.seeds,
        views=_views(preset),
        level_views=_level_views(preset),
        yardsticks=True,
        notes=tuple(notes),
    )


def _confusion(choices: Choices) -> Experiment:
    preset = choices.preset
    images = {**preset.scenario, **preset.confusion}["train_size"]
    share = 1 if choices.train_size is None else choices.train_size / images
    sizes = tuple(dict.fromkeys(round(size * share) for size in preset.confusion_sizes))
    return _scenario(
        choices, "scenario-confusion", "Scenario I: size of the confusion set (Figure 2)",
        "confusion set", "confusion_size", sizes, preset.confusion,
    )  # fmt: skip


def _augmentation(choices: Choices) -> Experiment:
    return _scenario(
        choices, "scenario-augmentation", "Scenario II: data augmentation (Figure 3)",
        "augmentation", "augmentation", choices.preset.augmentations, {},
    )  # fmt: skip


def _batch_size(choices: Choices) -> Experiment:
    return _scenario(
        choices, "scenario-batch-size", "Scenario III: batch size (Figure 4)",
        "batch size", "batch_size", choices.preset.batch_sizes, {},
    )  # fmt: skip


def _on_cifar(
    choices: Choices, name: str, title: str, variable: str, settings: Iterable[Setting], **more: Any
) -> Experiment:
    values = {"views": _views(choices.preset), "notes": (choices.preset.about,), **more}
    if values["views"]:
        values["level_views"] = _level_views(choices.preset)
    return Experiment(
        name=name,
        title=title,
        variable=variable,
        settings=tuple(settings),
        num_seeds=choices.table_seeds,
        **values,
    )


def _select_beta(choices: Choices) -> Experiment:
    preset = choices.preset
    settings = (
        Setting(
            label=f"{beta:g}",
            group=f"{dataset} {model}",
            config=_config(
                choices, dataset, model, beta=beta, validation_size=preset.validation_size
            ),
        )
        for dataset, model in preset.networks
        for beta in preset.betas
    )
    title = "Selection of beta on held-out training images (section 7.2)"
    return _on_cifar(choices, "select-beta", title, "beta", settings, views={})


def _retrained(choices: Choices) -> Experiment:
    settings = (_network(choices, *network, True) for network in choices.preset.networks)
    title = "Training on all images with the selected beta (section 7.2)"
    return _on_cifar(choices, "select-beta-retrained", title, "network", settings)


def _table1(choices: Choices) -> Experiment:
    settings = (
        _network(choices, *network, regularized)
        for network in choices.preset.networks
        for regularized in (False, True)
    )
    title = "Table 1: test error with and without the penalty"
    return _on_cifar(choices, "table1", title, "penalty", settings)


def _select_beta_imagenet(choices: Choices) -> Experiment:
    preset = choices.preset
    settings = []
    for beta in preset.imagenet_betas:
        size = preset.imagenet_validation_size
        config = _imagenet_config(choices, beta=beta, validation_size=size)
        group = f"imagenet {config.model}"
        settings.append(Setting(label=f"{beta:g}", group=group, config=config))
    return Experiment(
        name="select-beta-imagenet",
        title="Selection of beta for ImageNet on held-out training images",
        variable="beta",
        settings=tuple(settings),
        num_seeds=choices.num_seeds or preset.imagenet_seeds,
        views={},
        notes=(preset.about,),
    )


def _imagenet_config(choices: Choices, **options: Any) -> ImageNetConfig:
    return ImageNetConfig(**{**choices.preset.imagenet, **choices.imagenet_places, **options})


def _table2(choices: Choices) -> Experiment:
    preset = choices.preset
    beta = _beta(choices, "imagenet", preset.imagenet["model"])
    settings = []
    for regularized in (False, True):
        options = {} if regularized else {"regularize": "never"}
        config = _imagenet_config(choices, beta=beta, **options)
        label = f"with (beta {beta:g})" if regularized else "without"
        group = f"imagenet {config.model}"
        settings.append(Setting(label=label, group=group, config=config, paper=TABLE2[regularized]))
    return Experiment(
        name="table2",
        title="Table 2: ImageNet at 128 x 128",
        variable="penalty",
        settings=tuple(settings),
        num_seeds=choices.num_seeds or preset.imagenet_seeds,
        # A robustness would take the Jacobian of 1000 classes for each image.
        views=_views(preset, metrics=_XI_METRICS),
        notes=(preset.about,),
    )


def _table3(choices: Choices) -> Experiment:
    settings = []
    for dataset, model in choices.preset.metric_networks:
        for regularized in (False, True):
            setting = _network(choices, dataset, model, regularized)
            known = TABLE3.get((model, regularized))
            paper = {} if known is None else {"log_singular_value_sum": known}
            settings.append(dataclasses.replace(setting, paper=paper))
    notes = (
        choices.preset.about,
        "The column beside the paper's is the sum of the logarithms of the singular values, "
        "measured as the authors' released code does; gamma_hat as Eq. 6 defines it is twice "
        "that. Which of the two Table 3 prints, the paper does not say.",
    )
    return _on_cifar(
        choices, "table3", "Table 3: the metric with and without the penalty", "penalty", settings,
        views=_views(choices.preset, authors=True), notes=notes,
    )  # fmt: skip


def _ablation(choices: Choices) -> Experiment:
    dataset, model = choices.preset.ablation
    beta = _beta(choices, dataset, model)
    settings = []
    for stages in ABLATION_SCHEDULES:
        options: dict[str, Any] = {} if stages == "never" else {"beta": beta}
        # By the names that Table 1 uses, so that its runs serve here too.
        regularize = "after-first-drop" if stages == "011" else stages
        config = _config(choices, dataset, model, regularize=regularize, **options)
        settings.append(Setting(label=stages, group=f"{dataset} {model}", config=config))
    return _on_cifar(
        choices, "schedule-ablation",
        "In which stages of the training the penalty helps (section 7.2.1)",
        "stages with the penalty", settings, notes=(choices.preset.about, f"beta = {beta:g}."),
    )  # fmt: skip


def _network(choices: Choices, dataset: str, model: str, regularized: bool) -> Setting:
    beta = _beta(choices, dataset, model)
    known = TABLE1.get((dataset, model, regularized))
    return Setting(
        label=f"with (beta {beta:g})" if regularized else "without",
        group=f"{dataset} {model}",
        config=_config(choices, dataset, model, beta=beta)
        if regularized
        else _config(choices, dataset, model, regularize="never"),
        paper={} if known is None else {"test_error": known},
    )


def _beta(choices: Choices, dataset: str, model: str) -> float:
    if choices.beta is not None:
        return choices.beta
    return choices.selected.get((dataset, model), choices.preset.beta)


def _config(choices: Choices, dataset: str, model: str, **options: Any) -> CifarConfig:
    preset = choices.preset
    own = preset.network_options.get(model, {})
    values = {**preset.training, **own, **options, **choices.places}
    return CifarConfig(dataset=dataset, model=model, **values)
