"""On what does the order of minima by gamma-hat depend?

Measures the minima of the scenarios of section 7.1 (`python -m infomcr_tf.experiments scenarios`)
again, each time with something else changed: what is measured (loss level, misclassified
examples, BatchNorm, N', layers), or, with several folders, what was trained (final loss, size).
For each change: how many pairs of runs of one scenario and seed gamma-hat orders as their
test errors are ordered, and Kendall's tau over the scenario's runs.

    python benchmarks/gamma_order.py "loss 0.02=DIR1" "loss 0.2=DIR2" --out DIR

Writes order.md, order.csv, order.png and values.json, with which the same call goes on.
"""

import argparse
import dataclasses
import itertools
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from scipy.special import logsumexp

from infomcr_tf.characterization.characterize import Measurement
from infomcr_tf.comparison.minimum import DataOptions, Minimum
from infomcr_tf.experiments.measure import per_sample_gamma_hat
from infomcr_tf.experiments.ranking import rank_correlation
from infomcr_tf.experiments.saved_results import load_rows
from infomcr_tf.pictures import (
    COLORS,
    MARKERS,
    Picture,
    add_caption,
    grid,
    house_style,
    name_rows,
    save_picture,
)
from infomcr_tf.storage import read_json, replacing, write_csv, write_json
from infomcr_tf.training import logits_function

SCENARIOS = ("scenario-confusion", "scenario-augmentation", "scenario-batch-size")
KIND = "infomcr_tf order of gamma_hat"
EQUAL = {"equalize_loss": 0.005}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to measure; only what differs from T trials of N' of all training examples.

    Attributes:
        name: in tables.
        arguments: of `characterize`.
        layers: "conv" or "logits": the gradient is taken for the weights of these layers.
        common: only the examples that all runs of the seed classify correctly.
        scale: not gamma-hat but what the size of the gradients alone adds to it: each row of J has
            the factor 1 - p, p the probability of the label, and ln|J J^T| has 2 ln of each factor.
    """

    name: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layers: str = ""
    common: bool = False
    scale: bool = False


VARIANTS = (
    Variant("raw"),
    Variant("2 N' mean ln(1 - p) alone", scale=True),
    Variant("raw, N' = 20", {"num_samples": 20}),
    Variant("raw, correctly classified only", common=True),
    Variant("raw, BatchNorm with batch statistics", {"batch_norm": "batch"}),
    Variant("raw, convolutions only", layers="conv"),
    Variant("raw, last layer only", layers="logits"),
    Variant("logits over 0.04 times their norm", {"normalize_logits": 0.04}),
    Variant("authors' code", {"protocol": "authors"}),
    Variant("equal loss 0.5", {"equalize_loss": 0.5}),
    Variant("equal loss 0.05", {"equalize_loss": 0.05}),
    Variant("equal loss 0.005", EQUAL),
    Variant("equal loss 0.0005", {"equalize_loss": 0.0005}),
    Variant("equal loss 0.005, N' = 20", {**EQUAL, "num_samples": 20}),
    Variant("equal loss 0.005, batch statistics", {**EQUAL, "batch_norm": "batch"}),
    Variant("equal loss 0.005, convolutions only", EQUAL, layers="conv"),
)


def main() -> None:
    """Measures what is missing, then counts, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("families", nargs="+", metavar="NAME=DIR", help="folders of scenarios")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--trials", type=int, default=5, help="T")
    parser.add_argument("--samples", type=int, default=50, help="N', where it is not the change")
    parser.add_argument("--data-dir", help="folder of the data sets, if they have moved")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="only these; default all")
    flags = parser.parse_args()
    names = [variant.name for variant in VARIANTS]
    unknown = set(flags.variants or ()) - set(names)
    if unknown or not all("=" in family for family in flags.families):
        parser.error(f"unknown variants {unknown or 'none'}; families should be NAME=DIR")
    variants = [v for v in VARIANTS if not flags.variants or v.name in flags.variants]
    values = Values(flags.out, {"num_trials": flags.trials, "num_samples": flags.samples})
    lines = []
    for family in flags.families:
        name, folder = family.split("=", maxsplit=1)
        rows = load_scenarios(Path(folder))
        for seed in sorted({row["seed"] for row in rows}):
            runs = {row["run"] for row in rows if row["seed"] == seed}
            measure_seed(sorted(runs), Path(folder) / "runs", variants, values, flags.data_dir)
        lines += [line for v in variants for line in order_lines(name, v.name, rows, values)]
    write_csv(flags.out / "order.csv", lines)
    text = markdown(lines)
    with replacing(flags.out / "order.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    save_picture(draw(lines), flags.out / "order.png")
    print(text)


class Values:
    """gamma-hat of every run and variant, kept in `values.json`."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / "values.json"
        self.settings = dict(settings)
        self.found: dict[str, dict[str, dict[str, float]]] = {}
        if self._path.exists():
            content = read_json(self._path, kind=KIND, version=1)
            if content["settings"] != self.settings:
                raise SystemExit(f"{self._path} has other trials or samples; choose another --out")
            self.found = content["values"]

    def add(self, run: str, variant: str, **numbers: float) -> None:
        """Keeps the numbers of one measurement."""
        self.found.setdefault(run, {})[variant] = numbers
        content = {"kind": KIND, "version": 1, "settings": self.settings, "values": self.found}
        write_json(self._path, content)

    def has(self, run: str, variant: str) -> bool:
        """Whether it has been measured."""
        return variant in self.found.get(run, {})


def load_scenarios(folder: Path) -> list[dict[str, Any]]:
    """The rows of all scenarios in a folder; a run may be in several of them."""
    rows = [
        {**row, "scenario": name}
        for name in SCENARIOS
        if (folder / name / "results.json").exists()
        for row in load_rows(folder / name)
    ]
    if not rows:
        raise SystemExit(f"{folder} holds no results of {', '.join(SCENARIOS)}")
    return rows


def measure_seed(
    runs: list[str], place: Path, variants: list[Variant], values: Values, data_dir: str | None
) -> None:
    """Measures runs of one seed, which share training images and architecture.

    One model takes the weights of each run in turn, so each variant is traced once.
    """
    todo = [v for v in variants if not all(values.has(run, v.name) for run in runs)]
    if not todo:
        return
    options = DataOptions(data_dir=data_dir)
    minima = {run: Minimum.open(place / run, options) for run in runs}
    first = minima[runs[0]]
    x, y = first.x, first.y
    logits = {}
    for run, minimum in minima.items():
        if not np.array_equal(x, minimum.x) or not np.array_equal(y, minimum.y):
            raise SystemExit(f"{run} has other training images than {runs[0]}")
        logits_of = logits_function(minimum.model)
        parts = np.split(x, range(250, len(x), 250))
        logits[run] = np.concatenate([logits_of(part) for part in parts]).astype(np.float64)
    correct = np.all([np.argmax(own, axis=1) == y for own in logits.values()], axis=0)
    weights = {run: minimum.model.get_weights() for run, minimum in minima.items()}
    for variant in todo:
        if variant.scale:
            for run, own in logits.items():
                size = 2 * values.settings["num_samples"] * mean_log_residual(own, y)
                values.add(
                    run, variant.name, gamma_hat=size, std=0.0, left_out=0.0, examples=len(y)
                )
            continue
        chosen = correct if variant.common else np.ones_like(correct)
        model = first.model
        select_layers(model, variant.layers)
        arguments = {**values.settings, **variant.arguments}
        measurement = Measurement(model, x[chosen], y[chosen], metrics="gamma_hat", **arguments)
        for run in runs:
            if values.has(run, variant.name):
                continue
            model.set_weights(weights[run])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of examples left out: kept below
                report = measurement.run(progress=False)
            values.add(
                run,
                variant.name,
                gamma_hat=per_sample_gamma_hat(report),
                std=report.gamma_hat_std,
                left_out=report.num_excluded / (report.num_trials * report.num_samples),
                examples=int(chosen.sum()),
            )
        print(f"{place.parent.name}: {variant.name}: {len(runs)} runs", flush=True)
    keras.backend.clear_session()


def mean_log_residual(logits: np.ndarray, y: np.ndarray) -> float:
    """Mean of ln(1 - p) over the examples, p the softmax probability of the label."""
    others = np.where(np.arange(logits.shape[1]) == y[:, np.newaxis], -np.inf, logits)
    return float(np.mean(logsumexp(others, axis=1) - logsumexp(logits, axis=1)))


def select_layers(model: keras.Model, kind: str) -> None:
    """Makes the layers of one kind trainable and no others; "" for all."""
    kinds = {"conv": keras.layers.Conv2D, "logits": keras.layers.Dense}
    for layer in model.layers:
        layer.trainable = not kind or isinstance(layer, kinds[kind])


def order_lines(
    family: str, variant: str, rows: list[dict[str, Any]], values: Values
) -> list[dict[str, Any]]:
    """One line for each scenario."""
    lines = []
    for scenario in dict.fromkeys(row["scenario"] for row in rows):
        own = [row for row in rows if row["scenario"] == scenario]
        errors = np.array([row["test_error"] for row in own])
        found = [values.found[row["run"]][variant] for row in own]
        gammas = np.array([numbers["gamma_hat"] for numbers in found], np.float64)
        pairs = [
            (i, j)
            for i, j in itertools.combinations(range(len(own)), 2)
            if own[i]["seed"] == own[j]["seed"] and errors[i] != errors[j]
        ]
        right = sum((gammas[i] > gammas[j]) == (errors[i] > errors[j]) for i, j in pairs)
        rank = rank_correlation(gammas, errors, [{"seed": row["seed"]} for row in own])
        lines.append(
            {
                "family": family,
                "variant": variant,
                "scenario": scenario.removeprefix("scenario-"),
                "pairs": len(pairs),
                "pairs_right": int(right),
                "tau": rank.tau,
                "tau_low": rank.low,
                "tau_high": rank.high,
                "left_out": float(np.mean([numbers["left_out"] for numbers in found])),
            }
        )
    return lines


def markdown(lines: list[dict[str, Any]]) -> str:
    """A row per family and variant, two columns per scenario."""
    scenarios = list(dict.fromkeys(line["scenario"] for line in lines))
    heading = ["trained", "measured"]
    heading += [text for name in scenarios for text in (f"{name}: pairs right", "τ")]
    table = [heading, ["---"] * len(heading)]
    for key in dict.fromkeys((line["family"], line["variant"]) for line in lines):
        cells = list(key)
        for name in scenarios:
            found = [n for n in lines if (n["family"], n["variant"], n["scenario"]) == (*key, name)]
            for line in found:
                cells.append(f"{line['pairs_right']} of {line['pairs']}")
                cells.append(f"{line['tau']:.2f} [{line['tau_low']:.2f}, {line['tau_high']:.2f}]")
            cells += ["-"] * (2 * (not found))
        table.append(cells)
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


@house_style()
def draw(lines: list[dict[str, Any]]) -> Picture:
    """Fraction of pairs ordered as the test error: a panel per scenario, a row per variant."""
    scenarios = list(dict.fromkeys(line["scenario"] for line in lines))
    variants = list(dict.fromkeys(line["variant"] for line in lines))
    families = list(dict.fromkeys(line["family"] for line in lines))
    picture, axes = grid(
        1, len(scenarios), width=2.6, height=0.8 + 0.26 * len(variants), sharey=True
    )
    for axis, scenario in zip(axes[0], scenarios, strict=True):
        for i, family in enumerate(families):
            own = [n for n in lines if (n["family"], n["scenario"]) == (family, scenario)]
            offset = 0.16 * (i - (len(families) - 1) / 2)
            axis.plot(
                [line["pairs_right"] / line["pairs"] for line in own],
                [variants.index(line["variant"]) + offset for line in own],
                MARKERS[i % len(MARKERS)],
                color=COLORS[i % len(COLORS)],
                label=family,
            )
        axis.axvline(0.5, color="#444444", linestyle=":", linewidth=1)
        axis.set_xlim(-0.06, 1.06)
        axis.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axis.set_title(scenario.replace("-", " "))
        name_rows(axis, variants)
    counts = sorted({line["pairs"] for line in lines})
    pairs = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    picture.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=len(families),
        title="trained",
    )
    add_caption(
        picture,
        "Pairs of runs of one scenario and seed that gamma-hat orders as test errors; "
        f"n = {pairs} pairs. Dotted: chance.",
    )
    return picture


if __name__ == "__main__":
    main()
