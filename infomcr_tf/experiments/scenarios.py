"""The scenarios of section 7.1: one variable changes, and metrics should follow the test error."""

from typing import Any

from infomcr_tf.experiments.choices import Choices, hessian_view, level_views, measured_views
from infomcr_tf.experiments.experiment import Experiment, Setting
from infomcr_tf.training import CifarConfig


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
        views=measured_views(preset) | (hessian_view(preset) if choices.hessian else {}),
        level_views=level_views(preset),
        generalization_measures=True,
        notes=tuple(notes),
    )


def confusion_scenario(choices: Choices) -> Experiment:
    """Scenario I."""
    preset = choices.preset
    images = {**preset.scenario, **preset.confusion}["train_size"]
    share = 1 if choices.train_size is None else choices.train_size / images
    sizes = tuple(dict.fromkeys(round(size * share) for size in preset.confusion_sizes))
    return _scenario(
        choices,
        "scenario-confusion",
        "Scenario I: size of the confusion set (Figure 2)",
        "confusion set",
        "confusion_size",
        sizes,
        preset.confusion,
    )


def augmentation_scenario(choices: Choices) -> Experiment:
    """Scenario II."""
    return _scenario(
        choices,
        "scenario-augmentation",
        "Scenario II: data augmentation (Figure 3)",
        "augmentation",
        "augmentation",
        choices.preset.augmentations,
        {},
    )


def batch_size_scenario(choices: Choices) -> Experiment:
    """Scenario III."""
    return _scenario(
        choices,
        "scenario-batch-size",
        "Scenario III: batch size (Figure 4)",
        "batch size",
        "batch_size",
        choices.preset.batch_sizes,
        {},
    )
