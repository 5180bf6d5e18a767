"""What a report looks like: an aligned table as text and HTML, and rows for a CSV file."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from infomcr_tf.characterization.metric_table import METRICS, Number
from infomcr_tf.characterization.per_layer import LAYER_NUMBERS

if TYPE_CHECKING:
    from infomcr_tf.characterization.report import MinimumReport

_FOOTNOTE = "±: standard deviation over the T samples; of the robustness, over the examples."
# Settings that change what a number means, and the value at which they need no mention.
_SHOWN_SETTINGS = {
    "loss": "auto",
    "batch_norm": None,
    "equalize_loss": None,
    "normalize_logits": None,
    "protocol": None,
}


def plus_minus(value: float, spread: float | None = None) -> str:
    """A number to four digits, with its spread to two."""
    if spread is None or spread == 0:
        return f"{value:.4g}"
    if not (math.isfinite(value) and math.isfinite(spread)):
        return f"{value:.4g} ± {spread:.2g}"
    if not (1e-3 <= spread < 1e6 and 1e-4 <= abs(value) < 1e6):
        return f"{value:.3e} ± {spread:.1e}"
    decimals = max(0, 1 - math.floor(math.log10(spread)))
    more = max(decimals, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{more}f} ± {spread:,.{decimals}f}"


def report_rows(report: MinimumReport) -> list[dict[str, Any]]:
    """One row for each number that was measured; see `MinimumReport.to_rows`."""
    size = {"num_samples": report.num_samples, "num_trials": report.num_trials}
    rows = []
    for metric in METRICS.values():
        for number in metric.numbers:
            value = number.value(report)
            if value is not None and not _is_of_another(number):
                rows.append(
                    {
                        "name": number.name,
                        "title": number.title,
                        "value": value,
                        "std": _spread(report, number),
                        "unit": number.unit,
                        **size,
                        "definition": number.equation,
                        "layer": None,
                    }
                )
    for path, layer in report.per_layer.items():
        for name, (title, unit, definition) in LAYER_NUMBERS.items():
            rows.append(
                {
                    "name": name,
                    "title": title,
                    "value": getattr(layer, name),
                    "std": layer.std(name),
                    "unit": unit,
                    **size,
                    "definition": definition,
                    "layer": path,
                }
            )
    return rows


def _is_of_another(number: Number) -> bool:
    """Spreads and counts stand beside the numbers that they belong to."""
    return number.name.endswith("_std") or number.name.startswith("num_")


def _spread(report: MinimumReport, number: Number) -> float | None:
    mean_of_trials = number.name in report.trials and number.reduce is np.mean
    if mean_of_trials or f"{number.name}_std" in vars(report):
        return report.spread(number.name)
    return None


def _heading(report: MinimumReport) -> list[str]:
    lines = [f"Minimum with W = {report.num_parameters:,} trainable parameters"]
    if report.num_trials:
        lines.append(
            f"T = {report.num_trials} samples of N' = {report.num_samples} of the "
            f"N = {report.num_examples:,} examples"
        )
    else:
        lines.append(f"N = {report.num_examples:,} examples")
    settings = report.settings
    shown = [
        f"{name}={settings[name]!r}"
        for name, usual in _SHOWN_SETTINGS.items()
        if settings.get(name) not in (None, usual)
    ]
    return [*lines, ", ".join(shown)] if shown else lines


def _counts(report: MinimumReport) -> list[tuple[str, str, str]]:
    """Title, value and remark of what is known besides the metrics."""
    lines = []
    if report.train_loss is not None:
        lines.append(("train loss", f"{report.train_loss:.4g}", "nat, mean over the samples"))
    if report.train_accuracy is not None:
        lines.append(("train error", f"{100 * (1 - report.train_accuracy):.2f} %", ""))
    if report.num_trials:
        drawn = report.num_trials * report.num_samples
        why = "wrongly classified, so equalize_loss has no temperature for them"
        out = report.num_excluded
        lines.append(("examples left out", f"{out:,} of {drawn:,}", why if out else ""))
    if "gamma_hat" in report.trials:
        singular = int(np.isneginf(report.trials["gamma_hat"]).sum())
        why = "gamma_hat is -inf there: repeated examples, or dependent or zero gradients"
        lines.append(
            ("singular samples", f"{singular} of {report.num_trials}", why if singular else "")
        )
    if report.per_layer:
        (path,) = report.per_layer.largest(1)
        share = f"{report.per_layer[path].trace_share:.0%}"
        lines.append(
            ("layers", f"{len(report.per_layer)}", f"{path} has {share} of the trace: `per_layer`")
        )
    missing = [m.title for m in METRICS.values() if m.value(report) is None]
    if missing:
        lines.append(("not measured", "", f"{', '.join(missing)}: see `metrics`"))
    if report.seconds is not None:
        lines.append(("time taken", f"{report.seconds:.1f} s", ""))
    return lines


def _table(report: MinimumReport) -> list[tuple[str, str, str, str]]:
    """Title, value, unit and remark, gamma_hat first."""
    lines = []
    for row in report_rows(report):
        if row["layer"] is not None:
            continue
        unit = "" if row["unit"] == "1" else row["unit"]
        lines.append((row["title"], plus_minus(row["value"], row["std"]), unit, row["definition"]))
    return lines


def report_text(report: MinimumReport) -> str:
    """The report for `print`."""
    table = _table(report) + [(title, value, "", note) for title, value, note in _counts(report)]
    widths = [max(len(line[i]) for line in table) for i in range(3)]
    lines = [
        f"  {title:{widths[0]}}  {value:>{widths[1]}}  {unit:{widths[2]}}  {note}".rstrip()
        for title, value, unit, note in table
    ]
    return "\n".join([*_heading(report), "", *lines, "", _FOOTNOTE])


def report_html(report: MinimumReport) -> str:
    """The report for notebooks."""

    def cells(line: tuple[str, ...]) -> str:
        title, value, unit, note = map(html.escape, line)
        return (
            f'<tr><th style="text-align: left">{title}</th>'
            f'<td style="text-align: right; white-space: nowrap">{value}</td>'
            f'<td style="text-align: left">{unit}</td>'
            f'<td style="text-align: left; color: #666">{note}</td></tr>'
        )

    table = _table(report) + [(title, value, "", note) for title, value, note in _counts(report)]
    heading = "<br>".join(map(html.escape, _heading(report)))
    return (
        f"<p>{heading}</p><table><tbody>{''.join(map(cells, table))}</tbody></table>"
        f"<p><small>{html.escape(_FOOTNOTE)}</small></p>"
    )
