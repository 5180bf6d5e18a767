"""What an experiment is: settings, each trained with several seeds, and what is measured."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infomcr_tf.training.config import TrainConfig
from infomcr_tf.training.run_folder import is_complete


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One value of an experiment's variable.

    Attributes:
        label: of the value, e.g. "no-aug".
        config: of its runs, but for seed and run folder.
        group: settings of one group form one line of a figure, e.g. "cifar10 cnn".
        paper: column of the results -> (mean, standard deviation or None) that the paper gives.
    """

    label: str
    config: TrainConfig
    group: str = ""
    paper: Mapping[str, tuple[float, float | None]] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """Group and label."""
        return f"{self.group} {self.label}".strip()

    @property
    def factors(self) -> dict[str, Any]:
        """The options that make it what it is; two runs with equal ones differ in the seed."""
        return self.config.identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run of an experiment.

    Attributes:
        setting: which it belongs to.
        config: complete; its `run_dir` is shared by all experiments that contain this run.
    """

    setting: Setting
    config: TrainConfig

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(self.config.run_dir or self.config.default_run_dir)

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.path.name

    @property
    def is_complete(self) -> bool:
        """Whether its training has ended."""
        return is_complete(self.path)

    @property
    def kept(self) -> "dict[float, Run]":
        """The networks that were kept on the way, by their levels, the highest first."""
        levels = sorted(self.config.kept_losses, reverse=True)
        kept = [dataclasses.replace(self, config=self.config.kept_at(level)) for level in levels]
        return {level: run for level, run in zip(levels, kept, strict=True) if run.is_complete}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure of section 7.

    Attributes:
        name: what the command line calls it.
        title: a heading.
        variable: what the settings differ in.
        settings: in the order of the figure's horizontal axis.
        num_seeds: runs of each setting; the seeds are 0, 1, ...
        views: name -> arguments of `characterize`; empty where minima are not measured.
        level_views: the same for networks kept on the way, at the levels of `keep_at`.
        generalization_measures: whether the usual generalization measures are computed too.
        notes: sentences that belong under the results.
    """

    name: str
    title: str
    variable: str
    settings: tuple[Setting, ...]
    num_seeds: int
    views: Mapping[str, Mapping[str, Any]]
    level_views: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    generalization_measures: bool = False
    notes: tuple[str, ...] = ()

    def runs(self, out: str | Path) -> list[Run]:
        """All training runs, with run folders in `out/runs`; the settings of one seed in a row."""
        return [
            Run(setting=setting, config=_with_seed(setting.config, seed, Path(out) / "runs"))
            for seed in range(self.num_seeds)
            for setting in self.settings
        ]


def ends_first(runs: Sequence[Run]) -> list[Run]:
    """The runs in the order to work on: seed by seed, and of each the ends of the variable first.

    Then the middle between what is there, and so on: an unfinished figure shows its range.
    """
    ordered = []
    for seed in dict.fromkeys(run.config.seed for run in runs):
        own = [run for run in runs if run.config.seed == seed]
        ordered += [own[position] for position in _ends_first(len(own))]
    return ordered


def _ends_first(count: int) -> list[int]:
    """For six: 0, 5, 2, 1, 3, 4."""
    gaps, found = [(0, count - 1)], list(dict.fromkeys((0, count - 1)))
    while gaps:
        first, last = gaps.pop(0)
        middle = (first + last) // 2
        if middle > first:
            found.append(middle)
            gaps += [(first, middle), (middle, last)]
    return found[:count]


def _with_seed(config: TrainConfig, seed: int, root: Path) -> TrainConfig:
    text = json.dumps(config.identity, sort_keys=True).encode()
    digest = hashlib.blake2b(text, digest_size=4).hexdigest()
    name = f"{config.default_name}-{config.model}-{config.regularize}-{digest}-seed{seed}"
    return dataclasses.replace(config, seed=seed, run_dir=str(root / name))
