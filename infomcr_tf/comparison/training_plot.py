"""The picture of the runs' training: what the penalty does to loss, error and gradients."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from infomcr_tf.comparison.comparison_plot import short_names
from infomcr_tf.comparison.minimum import Minimum
from infomcr_tf.storage import replacing

_PANELS = (
    ("loss", "training loss (with weight decay)"),
    ("accuracy", "training accuracy"),
    ("mean_sub_batch_grad_norm", r"mean $\|g_i\|^2$ over the sub-batches"),
    ("beta", r"$\beta$"),
    ("learning_rate", "learning rate"),
)


def plot_training(minima: Sequence[Minimum], path: str | Path) -> None:
    """Draws the history of each run, one panel for each quantity; nothing where there is no run.

    `||g_i||^2` is known only while the penalty is on. Colours are those of `plot_comparison`.

    Args:
        minima: those without a history are left out.
        path: the PNG file, replaced as a whole.
    """
    runs = [(i, m) for i, m in enumerate(minima) if m.history]
    panels = [
        (name, title) for name, title in _PANELS if any(name in m.history[0] for _, m in runs)
    ]
    if not panels:
        return
    names = short_names([minimum.name for minimum in minima])
    figure = Figure(figsize=(3.4 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, title) in zip(axes, panels, strict=True):
        for i, minimum in runs:
            rows = [row for row in minimum.history if name in row and _is_shown(name, row)]
            axis.plot(
                [row["epoch"] for row in rows], [row[name] for row in rows], f"C{i % 10}.-",
                label=names[i],
            )  # fmt: skip
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _is_shown(name: str, row: dict[str, float]) -> bool:
    return name != "mean_sub_batch_grad_norm" or row.get("beta", 0) > 0
