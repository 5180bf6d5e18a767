"""The house style of all pictures: colours, sizes, scales, captions, and small files.

Fonts stay readable at half size, colours apart for colour-blind readers (Okabe & Ito 2008) and,
with the markers, in black and white.
"""

import base64
import contextlib
import io
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from infomcr_tf.storage import replacing

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#444444")
MARKERS = "osD^vPX"
PALE = "#B5B5B5"

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "svg.hashsalt": "infomcr",
}
_DPI = 150
_MAX_BYTES = 140_000


class Picture(Figure):
    """A figure of no window: notebooks show it once, `savefig` and `save_picture` write it."""

    def _repr_html_(self) -> str:
        png = base64.b64encode(to_png(self)).decode()
        return f'<img alt="figure" style="max-width: 100%" src="data:image/png;base64,{png}">'


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """The style, for what is drawn within; also a decorator. What users have set is untouched."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def grid(
    rows: int, columns: int, *, width: float = 2.5, height: float = 2.3, **arguments: Any
) -> tuple[Picture, np.ndarray]:
    """A picture of panels.

    Args:
        rows: of panels.
        columns: of panels.
        width: of a panel with its labels, in inches.
        height: of a panel with its labels, in inches.
        **arguments: of matplotlib's `Figure.subplots`.

    Returns:
        The picture and its axes [rows, columns].
    """
    picture = Picture(figsize=(width * columns, height * rows + 0.35), layout="constrained")
    return picture, picture.subplots(rows, columns, squeeze=False, **arguments)


def add_caption(picture: Figure, text: str) -> None:
    """Puts beneath the panels what a reader must know: n, the samples, what a band or a bar is."""
    width = picture.get_size_inches()[0]
    # A character of 8.5 points is on average 0.062 inches wide.
    lines = textwrap.fill(" ".join(text.split()), max(30, int(width / 0.062) - 2))
    height = 0.16 * (lines.count("\n") + 1)
    picture.set_size_inches(width, picture.get_size_inches()[1] + height)
    picture.supxlabel(lines, x=0.01, ha="left", fontsize=8.5, color="#444444")


def scale_axis(axis: Axes, which: str, values: Iterable[float], *, decades: float = 1.0) -> None:
    """Logarithmic where all finite values are positive and span more than `decades`."""
    values = np.asarray([v for v in values if np.isfinite(v)], np.float64)
    side = axis.xaxis if which == "x" else axis.yaxis
    if len(values) and np.min(values) > 0 and np.max(values) > 10**decades * np.min(values):
        getattr(axis, f"set_{which}scale")("log")
        wide = np.max(values) > 100 * np.min(values)
        side.set_major_locator(LogLocator(subs=(1,) if wide else (1, 3), numticks=6))
        side.set_minor_formatter(NullFormatter())
        if not wide:
            side.set_major_formatter("{x:g}")
    else:
        side.set_major_locator(MaxNLocator(4))


def draw_trials(
    axis: Axes, position: float, values: Any, color: str, *, width: float = 1.0
) -> None:
    """One row of an axis: a pale dot a trial, the middle half as a line, the mean as a large dot.

    Values that are not finite cannot be drawn: the row then says how many there are. Rows that are
    less than 1 wide have smaller dots.
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if len(finite) < len(values):
        axis.annotate(
            f"{len(values) - len(finite)} of {len(values)} singular",
            (0.02, position),
            va="top" if width == 1 else "center",
            xycoords=("axes fraction", "data"),
            fontsize=8 if width == 1 else 6.5,
            xytext=(0, -5 if width == 1 else 0),
            textcoords="offset points",
        )
    if not len(finite):
        return
    # The same spread every time: neighbours in value lie apart.
    ranks = np.argsort(np.argsort(finite))
    offsets = ((ranks * 0.618) % 1 - 0.5) * 0.5 * width
    small = width < 1
    dot = 2 if small else 3
    axis.plot(finite, position + offsets, "o", color=color, alpha=0.3, markersize=dot, mew=0)
    low, high = np.quantile(finite, [0.25, 0.75])
    axis.plot([low, high], [position] * 2, "-", color=color, linewidth=2.5, solid_capstyle="butt")
    mean = np.mean(finite)
    axis.plot(mean, position, "o", color=color, markersize=5 if small else 8, mec="white")


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Names on the left of an axis, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def to_png(picture: Figure) -> bytes:
    """The picture as a PNG with few colours: a quarter of its size with all of them."""
    full = io.BytesIO()
    with house_style():
        picture.savefig(full, dpi=_DPI, format="png", facecolor="white")
    image = Image.open(full).convert("RGB")
    for colors in (256, 64, 16):
        small = io.BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        if small.tell() < _MAX_BYTES:
            break
    return small.getvalue()


def save_picture(picture: Figure, path: str | os.PathLike) -> None:
    """Writes a PNG, whole or not at all.

    Raises:
        OSError: where it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(to_png(picture))
