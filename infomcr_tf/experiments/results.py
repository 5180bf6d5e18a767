"""From one row per run to means over seeds, rank correlations and tables."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from infomcr_tf.characterization.metric_table import shown
from infomcr_tf.experiments.experiment import Experiment, Setting
from infomcr_tf.experiments.generalization_measures import GENERALIZATION_MEASURES
from infomcr_tf.experiments.ranking import RankCorrelation, rank_correlation

# Columns of the tables, name in a row and heading, before those of the metrics.
_TRAINING_COLUMNS = (
    ("epochs", "epochs"),
    ("train_loss", "train loss"),
    ("train_error", "train error %"),
    ("confusion_error", "confusion set's error %"),
    ("validation_error", "validation error %"),
    ("test_error", "test error %"),
    ("gap", "gap %"),
    ("train_top5_error", "train top-5 error %"),
    ("test_top5_error", "test top-5 error %"),
    ("top5_gap", "top-5 gap %"),
)
_EQUALIZED = ("gamma_hat_equalized", "gamma_hat at equal loss")
_AUTHORS = ("gamma_hat_authors", "gamma_hat, authors' code")
# Of xi / N' over the samples that the Hessian is measured on.
PROXIES = (
    ("fisher_spectral_radius_proxy", "spectral radius of the Fisher matrix"),
    ("trace_proxy", "trace of the Fisher matrix"),
    ("frobenius_norm_cross_proxy", "squared Frobenius norm of the Fisher matrix"),
)
TARGETS = (("test_error", "test error"), ("gap", "gap"))


def columns() -> list[tuple[str, str]]:
    """Columns of the tables: name in a row, heading."""
    found = list(_TRAINING_COLUMNS)
    for metric in shown("experiments"):
        found.append((metric.name, metric.title))
        if metric.name == "gamma_hat":
            found += [
                _EQUALIZED,
                ("equalized_excluded", "left out"),
                ("log_singular_value_sum", "Σ ln s, authors' code"),
                _AUTHORS,
            ]
    return [*found, *PROXIES]


def ranked() -> list[tuple[str, str]]:
    """What is compared with the errors in rank correlations and scatter plots."""
    found = []
    for metric in shown("experiments"):
        found.append((metric.name, metric.title))
        if metric.name == "gamma_hat":
            found += [_EQUALIZED, _AUTHORS]
    found += [*PROXIES, ("train_loss", "train loss")]
    return [*found, *((name, name.replace("_", " ")) for name in GENERALIZATION_MEASURES)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that an experiment has found.

    Attributes:
        experiment: which.
        rows: one per measured run, in the order of the runs.
        failures: name of a run -> why it failed.
        notes: sentences that belong under the tables.
        options: title of a setting -> all options of its runs, with the recipe's values.
        ranks: (metric, target) -> rank correlation; empty for fewer than three measured runs.
    """

    experiment: Experiment
    rows: Sequence[Mapping[str, Any]]
    failures: Mapping[str, str]
    notes: Sequence[str]
    options: Mapping[str, Mapping[str, Any]]
    ranks: Mapping[tuple[str, str], RankCorrelation]

    @classmethod
    def collect(
        cls,
        experiment: Experiment,
        rows: Sequence[Mapping[str, Any]],
        failures: Mapping[str, str],
        notes: Sequence[str] = (),
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "Results":
        """Computes what follows from the rows; `notes` are added to the experiment's."""
        notes = [*experiment.notes, *notes, *_remarks(experiment, rows)]
        return cls(
            experiment=experiment,
            rows=rows,
            failures=failures,
            notes=notes,
            options=options or {},
            ranks=rank_metrics(rows, experiment),
        )

    def of_setting(self, group: str, label: str) -> list[Mapping[str, Any]]:
        """The rows of one setting."""
        return [row for row in self.rows if (row["group"], row["label"]) == (group, label)]

    def summary(self) -> list[dict[str, Any]]:
        """One row per setting: mean and standard deviation (over seeds, ddof 1) of each column."""
        lines = []
        for setting in self.experiment.settings:
            rows = self.of_setting(setting.group, setting.label)
            line: dict[str, Any] = {"setting": setting.title, "runs": len(rows)}
            for name, _ in columns():
                values = [row[name] for row in rows if name in row]
                if values:
                    line[name], line[f"{name}_std"] = mean_and_std(values)
                if name in setting.paper:
                    line[f"{name}_paper"], line[f"{name}_paper_std"] = setting.paper[name]
            lines.append(line)
        return lines

    def table(self) -> list[list[str]]:
        """The summary as text, heading first; the paper's own values beside ours."""
        summary = self.summary()
        names = [(n, t) for n, t in columns() if any(n in line for line in summary)]
        heading = [self.experiment.variable, "runs"]
        for name, title in names:
            heading.append(title)
            if any(f"{name}_paper" in line for line in summary):
                heading.append(f"{title} (paper)")
        table = [heading]
        for line in summary:
            cells = [line["setting"], str(line["runs"])]
            for name, title in names:
                cells.append(_plus_minus(line.get(name), line.get(f"{name}_std")))
                if f"{title} (paper)" in heading:
                    paper = line.get(f"{name}_paper"), line.get(f"{name}_paper_std")
                    cells.append(_plus_minus(*paper))
            table.append(cells)
        return table

    def rank_table(self) -> list[list[str]]:
        """The rank correlations as text, heading first; only that if there are none."""
        heading = ["metric"]
        for _, target in TARGETS:
            heading += [f"τ, {target}", f"granulated τ, {target}"]
        table = [heading]
        for name, title in ranked():
            if (name, TARGETS[0][0]) not in self.ranks:
                continue
            cells = [title]
            for target, _ in TARGETS:
                rank = self.ranks[name, target]
                cells.append(_interval(rank.tau, rank.low, rank.high))
                cells.append(_interval(rank.granulated, rank.granulated_low, rank.granulated_high))
            table.append(cells)
        return table

    def markdown(self) -> str:
        """The tables and remarks as Markdown."""
        lines = [f"# {self.experiment.title}", "", *_markdown(self.table()), ""]
        lines += ["± is the standard deviation over seeds.", ""]
        if self.ranks:
            lines += [*_markdown(self.rank_table()), ""]
            lines += ["In brackets: 95 % bootstrap intervals over runs.", ""]
        lines += [f"- {note}" for note in self.notes]
        lines += [f"- FAILED: {name}: {reason}" for name, reason in self.failures.items()]
        return "\n".join(lines) + "\n"


def together(parts: Sequence[Results]) -> Results:
    """Several experiments as one, whose groups they are."""
    settings: list[Setting] = []
    rows: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    options: dict[str, Any] = {}
    for part in parts:
        name = part.experiment.name
        options |= {f"{name} {title}": own for title, own in part.options.items()}
        settings += [dataclasses.replace(each, group=name) for each in part.experiment.settings]
        rows += [{**row, "group": name} for row in part.rows]
        failures |= part.failures
    experiment = dataclasses.replace(
        parts[0].experiment,
        name="scenarios",
        title="All scenarios together",
        variable="setting",
        settings=tuple(settings),
    )
    return Results.collect(experiment, rows, failures, options=options)


def rank_metrics(
    rows: Sequence[Mapping[str, Any]], experiment: Experiment
) -> dict[tuple[str, str], RankCorrelation]:
    """Rank correlations of each metric that all runs have; none for fewer than three runs."""
    rows = _different(rows)
    if len(rows) < 3 or not experiment.views:
        return {}
    settings = {(setting.group, setting.label): setting for setting in experiment.settings}
    factors = [
        {**settings[row["group"], row["label"]].factors, "seed": row["seed"]} for row in rows
    ]
    return {
        (metric, target): rank_correlation(
            [row[metric] for row in rows], [row[target] for row in rows], factors
        )
        for metric, _ in ranked()
        if all(metric in row for row in rows)
        for target, _ in TARGETS
    }


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is nan for one value."""
    array = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):
        spread = np.std(array, ddof=1) if len(array) > 1 else math.nan
        return float(np.mean(array)), float(spread)


def _different(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each run once, though several experiments have it."""
    return list({row["run"]: row for row in rows}.values())


def _remarks(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before comparing the rows."""
    rows = _different(rows)
    remarks = []
    late = [row["run"] for row in rows if row.get("reached_target") is False]
    if late:
        remarks.append(
            f"NOT at the stated training loss after their last epoch ({len(late)} of {len(rows)} "
            f"runs), so not comparable with the others: {', '.join(late)}."
        )
    wrong = [row for row in rows if row["train_error"] > 1.0]
    if wrong and experiment.views:
        worst = max(row["train_error"] for row in wrong)
        remarks.append(
            f"Training error is NOT near zero in {len(wrong)} of {len(rows)} runs (more than 1 %, "
            f"at most {worst:.3g} %): the paper's claims are about minima where it is."
        )
    if any(row.get("equalized_excluded") for row in rows):
        remarks.append(
            "'left out': the share of examples that are classified wrongly and so cannot be "
            "brought to an equal loss; gamma_hat at equal loss is scaled to N' examples."
        )
    return remarks


def _plus_minus(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "-"
    text = f"{mean:.4g}"
    return text if std is None or math.isnan(std) else f"{text} ± {std:.2g}"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    heading, *lines = [f"| {' | '.join(line)} |" for line in table]
    return [heading, "|" + "---|" * len(table[0]), *lines]
