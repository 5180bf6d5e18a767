"""`compare`: several minima side by side, as a table and as pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from infomcr_tf.characterization import MinimumReport, characterize
from infomcr_tf.characterization.metric_table import shown
from infomcr_tf.characterization.report_table import plus_minus
from infomcr_tf.comparison.minimum import DataOptions, Minimum, classification_error
from infomcr_tf.comparison.plots import plot_comparison, plot_layers, plot_training
from infomcr_tf.pictures import Picture, save_picture
from infomcr_tf.storage import locked, write_csv, write_json

_FOOTNOTE = (
    "±: standard deviation over the T samples of N' examples; of the robustness, over the examples."
)
# Settings without which two values of a metric are not of the same thing.
_DECISIVE = ("loss", "batch_norm", "chunk_size", "normalize_logits", "equalize_loss", "protocol")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """One minimum of a comparison.

    Attributes:
        name: what tables and pictures call it.
        report: its metrics.
        result: "train" and "test", each with `loss` (nat) and `error`, as far as they are known.
        history: one mapping per epoch of training, or None.
    """

    name: str
    report: MinimumReport
    result: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] | None = None

    def row(self) -> dict[str, Any]:
        """What the table shows of it, and the spreads."""
        report = self.report
        row: dict[str, Any] = {"run": self.name}
        if "train" not in self.result and report.train_loss is not None:
            row["train_loss"] = report.train_loss
            if report.train_accuracy is not None:
                row["train_error"] = 1 - report.train_accuracy
        for part in ("train", "test"):
            known = self.result.get(part, {})
            row |= {f"{part}_{key}": known[key] for key in ("loss", "error") if key in known}
        for metric in shown("table"):
            value = metric.value(report)
            if value is not None:
                row[metric.name] = value
                row[f"{metric.name}_std"] = report.spread(metric.name)
        if report.settings.get("protocol") == "authors":
            row["log_singular_value_sum"] = report.log_singular_value_sum
        row |= {"num_samples": report.num_samples, "num_trials": report.num_trials}
        if report.num_excluded:
            row["num_excluded"] = report.num_excluded
        return row


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Several minima side by side; what `compare` returns.

    `print` and notebooks show it as a table.

    Attributes:
        minima: what is compared, in the order given.
    """

    minima: tuple[Compared, ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a minimum, lowest gamma_hat (the best, says the paper) first."""
        rows = [each.row() for each in self.minima]
        if all("gamma_hat" in row for row in rows):
            rows.sort(key=lambda row: row["gamma_hat"])
        return rows

    @property
    def notes(self) -> list[str]:
        """Why some of the numbers should not be compared; empty where all may be."""
        reports = [each.report for each in self.minima]
        notes = []
        if len({report.num_samples for report in reports}) > 1:
            notes.append("NOT comparable: gamma_hat is a sum over N' examples, and N' differs.")
        for name in _DECISIVE:
            if len({repr(report.settings.get(name)) for report in reports}) > 1:
                notes.append(f"NOT comparable: the minima were measured with different `{name}`.")
        if len({report.num_parameters for report in reports}) > 1:
            notes.append(
                "The models have different numbers of parameters: between architectures gamma_hat "
                "should not be compared."
            )
        if any(report.num_excluded for report in reports):
            notes.append("Some examples were left out (num_excluded): compare by `gamma`.")
        return notes

    def table(self) -> list[list[str]]:
        """The rows as text, heading first."""
        rows = self.to_rows()
        columns = [(m.name, m.title) for m in shown("table") if any(m.name in r for r in rows)]
        if any("log_singular_value_sum" in row for row in rows):
            columns.append(("log_singular_value_sum", "sum ln(sing. values)"))
        heading = ["run", "train loss", "train error %", "test error %", *(t for _, t in columns)]
        lines = [[*heading, "N'", "T"]]
        for row in rows:
            line = [row["run"], _shown(row, "train_loss", "{:.2g}")]
            line += [_shown(row, f"{part}_error", "{:.2%}") for part in ("train", "test")]
            line += [
                plus_minus(row[name], row.get(f"{name}_std")) if name in row else "-"
                for name, _ in columns
            ]
            lines.append([*line, str(row["num_samples"]), str(row["num_trials"])])
        return lines

    def __str__(self) -> str:
        lines = self.table()
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        texts = [
            "  ".join(
                text.ljust(width) if i == 0 else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*texts, "", _FOOTNOTE, *self.notes])

    def _repr_html_(self) -> str:
        heading, *lines = self.table()
        cells = "".join(f"<th>{html.escape(text)}</th>" for text in heading)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in line) + "</tr>"
            for line in lines
        )
        notes = "<br>".join(map(html.escape, [_FOOTNOTE, *self.notes]))
        return (
            f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
            f"<p><small>{notes}</small></p>"
        )

    def plot(self) -> Picture:
        """Draws the test error and each of the paper's metrics, with the spread over the samples.

        Returns:
            A matplotlib `Figure`, which notebooks show.
        """
        return plot_comparison(self.minima)

    def plot_training(self) -> Picture | None:
        """Draws the training of the runs among the minima; None where there is no run."""
        return plot_training(self.minima)

    def plot_layers(self) -> Picture | None:
        """Draws each layer's share of the trace and its own ln|xi_l|; None where not measured."""
        return plot_layers(self.minima)

    def save(self, out: str | os.PathLike) -> None:
        """Writes comparison.json, comparison.csv, comparison.png and, of runs, training.png.

        Where layers were told apart, also per_layer.csv and per_layer.png.

        Args:
            out: a folder; made if needed.

        Raises:
            OSError: where it cannot be written to.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        content = {
            "kind": "infomcr_tf comparison",
            "version": 1,
            "notes": self.notes,
            "minima": [
                {"name": each.name, "result": dict(each.result), "report": each.report.to_dict()}
                for each in self.minima
            ],
        }
        write_json(out / "comparison.json", content)
        write_csv(out / "comparison.csv", self.to_rows())
        save_picture(plot_comparison(self.minima), out / "comparison.png")
        layers = [
            {"run": each.name, **row}
            for each in self.minima
            for row in each.report.per_layer.to_rows()
        ]
        if layers:
            write_csv(out / "per_layer.csv", layers)
        pictures = {"per_layer": self.plot_layers(), "training": self.plot_training()}
        for name, picture in pictures.items():
            if picture is not None:
                save_picture(picture, out / f"{name}.png")


def compare(
    minima: Mapping[str, MinimumReport | keras.Model | str | os.PathLike],
    x: Any = None,
    y: Any = None,
    *,
    test_data: tuple[Any, Any] | None = None,
    out: str | os.PathLike | None = None,
    data_options: DataOptions | None = None,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """Puts minima side by side, measuring those that have not been measured.

    Args:
        minima: name -> a `MinimumReport` (as it is), a path of one (`.json`), a trained Keras
            model, a complete run folder of the training scripts, or a `.keras` file.
        x: the un-augmented training set of the models, see `characterize`.
        y: its labels.
        test_data: `(x_test, y_test)`, for the models' test error; unknown without.
        out: a folder for the results, see `Comparison.save`. While minima are measured it keeps
            what is finished: the same call again resumes.
        data_options: the data of `.keras` files, and where that of runs lies.
        progress: show progress bars.
        **settings: further arguments of `characterize`, for what has not been measured.

    Returns:
        A `Comparison`.

    Example:
        comparison = compare({"plain": plain, "with penalty": model}, x, y, num_trials=20)
        print(comparison)
        comparison.plot().savefig("comparison.png")

    Raises:
        TypeError: where `minima` or one of them is of another type.
        ValueError: where a minimum or an argument does not fit.
        FileNotFoundError: where a path leads nowhere.
        OSError: where `out` cannot be written to.
    """
    if not isinstance(minima, Mapping) or not minima:
        raise TypeError(
            "`minima` must be a mapping of names to reports, models or run folders, with at least "
            f"one. Received: {minima!r}"
        )
    opened = {
        name: _open(name, each, x, y, data_options or DataOptions())
        for name, each in minima.items()
    }
    with locked(out) if out is not None else contextlib.nullcontext():
        compared = []
        checkpoints = []
        for i, (name, each) in enumerate(opened.items()):
            if isinstance(each, MinimumReport):
                compared.append(Compared(name=name, report=each))
                continue
            if progress:
                print(f"[{i + 1}/{len(opened)}] {name}", flush=True)
            place = None
            if out is not None:
                Path(out).mkdir(parents=True, exist_ok=True)
                place = Path(out) / f"checkpoint-{i}.json"
                checkpoints.append(place)
            arguments = {"checkpoint": place, "progress": progress, **settings}
            compared.append(_measured(name, each, (x, y), test_data, arguments))
        comparison = Comparison(tuple(compared))
        if out is not None:
            comparison.save(out)
            for place in checkpoints:
                place.unlink()
    return comparison


def _open(
    name: str, each: Any, x: Any, y: Any, data_options: DataOptions
) -> MinimumReport | keras.Model | Minimum:
    if isinstance(each, MinimumReport):
        return each
    if isinstance(each, keras.Model):
        if x is None or y is None:
            raise ValueError(
                f"The model {name!r} needs the training set it is measured on: `x` and `y`. "
                "Received: None"
            )
        return each
    if isinstance(each, (str, os.PathLike)):
        if Path(each).suffix == ".json":
            return MinimumReport.load(each)
        return Minimum.open(each, data_options)
    raise TypeError(
        "Each of `minima` must be a `MinimumReport`, a Keras model or the path of a run folder, a "
        f".keras file or a saved report. Received: {name!r} of type {type(each).__name__}"
    )


def _measured(
    name: str,
    each: keras.Model | Minimum,
    train_data: tuple[Any, Any],
    test_data: tuple[Any, Any] | None,
    arguments: dict[str, Any],
) -> Compared:
    if isinstance(each, Minimum):
        targets = each.targets(arguments.get("loss", "auto"))
        report = characterize(each.model, each.x, targets, **arguments)
        return Compared(name=name, report=report, result=each.result, history=each.history)
    report = characterize(each, *train_data, **arguments)
    result = {}
    if test_data is not None:
        result["test"] = {"error": classification_error(each, *test_data)}
    return Compared(name=name, report=report, result=result)


def _shown(row: Mapping[str, Any], name: str, form: str) -> str:
    return form.format(row[name]).rstrip("%") if name in row else "-"
