"""`compare`: characterises several minima and puts them side by side."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infomcr_tf.characterization import PROTOCOLS, MinimumReport, characterize
from infomcr_tf.characterization.metric_table import find_number, shown
from infomcr_tf.command_line.options import Options, option
from infomcr_tf.comparison.minimum import Minimum
from infomcr_tf.comparison.plots import plot_comparison, plot_training
from infomcr_tf.storage import write_csv, write_json

_SAMPLES = "samples and metrics (sections 5.3 and 7.1, appendix D)"
_NETWORK = "how the network is read"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonOptions(Options):
    """The arguments of `characterize`, as flags.

    Raises:
        ValueError: if a value is out of range.
    """

    num_trials: int = option(
        100, "T, samples drawn from the training images.", group=_SAMPLES, type=int, minimum=1
    )
    num_samples: int = option(100, "N', images in one sample.", group=_SAMPLES, type=int, minimum=1)
    metrics: str = option(
        "all", "Metrics to compute, separated by commas.", group=_SAMPLES, type=str
    )
    num_robustness_examples: int | None = option(
        None,
        "Images for the robustness (default: all training images).",
        group=_SAMPLES,
        type=int,
        minimum=1,
    )
    seed: int = option(0, "Of the samples.", group=_SAMPLES, type=int, minimum=0)
    protocol: str | None = option(
        None,
        "Measure as the authors' released code does: batch statistics in chunks of 10, "
        "logits divided by 0.04 times their norm, the first images in stored order.",
        group=_SAMPLES,
        type=str,
        choices=PROTOCOLS,
    )
    batch_norm: str = option(
        "inference",
        "Statistics of BatchNorm: the moving averages or those of a chunk.",
        group=_NETWORK,
        type=str,
        choices=("inference", "batch"),
    )
    chunk_size: int | None = option(
        None,
        "Images in a chunk; with --batch-norm batch it changes the numbers.",
        group=_NETWORK,
        type=int,
        minimum=1,
    )
    normalize_logits: float | None = option(
        None,
        "s: divide the logits by s times their norm (section 7.2.3; the authors: 0.04).",
        group=_NETWORK,
        type=float,
        above=0,
    )
    equalize_loss: float | None = option(
        None,
        "L: scale each image's logits so that its cross-entropy is L.",
        group=_NETWORK,
        type=float,
        above=0,
    )
    method: str = option(
        "auto", "How the per-example gradients are computed.", group=_NETWORK, type=str
    )
    max_memory: float = option(
        2.0, "GiB for the Jacobian's blocks and the recorded activations.", group=_NETWORK,
        type=float, above=0,
    )  # fmt: skip

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `characterize`."""
        values = dataclasses.asdict(self)
        max_memory = values.pop("max_memory")
        names = tuple(name.strip() for name in self.metrics.split(","))
        return values | {
            "metrics": "all" if names == ("all",) else names,
            "max_memory_bytes": round(max_memory * 2**30),
        }


def compare(
    minima: Sequence[Minimum], options: ComparisonOptions, out: str | Path, *, progress: bool = True
) -> str:
    """Characterises each of `minima` and writes the comparison.

    `out` receives `comparison.json` (everything), `comparison.csv` (the table), `comparison.png`,
    `training.png` (of the runs among them), and, while it is not finished, a checkpoint per
    minimum, with which the same call goes on.

    Args:
        minima: at least one.
        options: of `characterize`.
        out: a folder; made if needed.
        progress: show a progress bar.

    Returns:
        The table as text, the lowest gamma_hat first (the best, says the paper).

    Raises:
        ValueError: if an option does not fit a minimum.
        OSError: if `out` cannot be written to.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    reports = []
    for i, minimum in enumerate(minima):
        if progress:
            print(f"[{i + 1}/{len(minima)}] {minimum.name}", flush=True)
        checkpoint = out / f"checkpoint-{i}.json"
        reports.append(
            characterize(
                minimum.model, minimum.x, minimum.y, checkpoint=checkpoint, progress=progress,
                **options.arguments(),
            )
        )  # fmt: skip
    rows = [_row(minimum, report) for minimum, report in zip(minima, reports, strict=True)]
    if all("gamma_hat" in row for row in rows):
        rows.sort(key=lambda row: row["gamma_hat"])
    content = {
        "kind": "infomcr_tf comparison",
        "version": 1,
        "options": dataclasses.asdict(options),
        "minima": [
            {"name": minimum.name, "result": minimum.result, "report": report.to_dict()}
            for minimum, report in zip(minima, reports, strict=True)
        ],
    }
    write_json(out / "comparison.json", content)
    write_csv(out / "comparison.csv", rows)
    plot_comparison(minima, reports, out / "comparison.png")
    plot_training(minima, out / "training.png")
    for i in range(len(minima)):
        (out / f"checkpoint-{i}.json").unlink()
    return _table(rows)


def _row(minimum: Minimum, report: MinimumReport) -> dict[str, Any]:
    row = {"run": minimum.name}
    for part in ("train", "test"):
        row[f"{part}_loss"] = minimum.result[part]["loss"]
        row[f"{part}_error"] = minimum.result[part]["error"]
    for metric in shown("table"):
        value = metric.value(report)
        if value is not None:
            row[metric.name] = value
            row[f"{metric.name}_std"] = report.spread(metric.name)
    if report.settings.get("protocol") == "authors":
        row["log_singular_value_sum"] = report.log_singular_value_sum
    if report.num_excluded:
        row["num_excluded"] = report.num_excluded
    return row


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = [(m.name, m.title) for m in shown("table") if m.name in rows[0]]
    header = ["run", "train loss", "train error %", "test error %", *(t for _, t in columns)]
    if "log_singular_value_sum" in rows[0]:
        header.append(find_number("log_singular_value_sum").title)
    lines = [header]
    for row in rows:
        line = [row["run"], f"{row['train_loss']:.2g}"]
        line += [f"{100 * row[f'{part}_error']:.2f}" for part in ("train", "test")]
        line += [f"{row[name]:.4g} ± {row[f'{name}_std']:.2g}" for name, _ in columns]
        if "log_singular_value_sum" in row:
            line.append(f"{row['log_singular_value_sum']:.4g}")
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
