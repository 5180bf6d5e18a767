"""The paper's experiments by name: from a preset to settings and measurements (section 7)."""

from infomcr_tf.experiments import scenarios, tables
from infomcr_tf.experiments.choices import Choices
from infomcr_tf.experiments.experiment import Experiment

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

_MAKERS = {
    "scenario-confusion": scenarios.confusion_scenario,
    "scenario-augmentation": scenarios.augmentation_scenario,
    "scenario-batch-size": scenarios.batch_size_scenario,
    "select-beta": tables.select_beta,
    "select-beta-imagenet": tables.select_beta_imagenet,
    "select-beta-retrained": tables.retrained,
    "table1": tables.table1,
    "table2": tables.table2,
    "table3": tables.table3,
    "schedule-ablation": tables.ablation,
}


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
    return _MAKERS[part](choices)
