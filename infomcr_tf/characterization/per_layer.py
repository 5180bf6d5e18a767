"""`PerLayer`: what each layer adds to the trace of xi, and the determinant of its own part."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from infomcr_tf.gradients.gram_result import GramMatrix
from infomcr_tf.storage import to_float

# Examples of a sample up to which layers are told apart: each has a matrix of N' x N'.
MAX_SAMPLES = 1000
# Between a layer's path and the name of a number, in the numbers of a trial.
_MARK = "\n"
# The numbers of a layer: title, unit, definition.
LAYER_NUMBERS = {
    "trace_share": ("share of the trace", "1", "mean over T of tr(xi_l^t) / tr(xi^t)"),
    "log_determinant": (
        "ln|xi_l|",
        "nat",
        "mean over T of ln|xi_l^t|; -inf where the layer has fewer than N' "
        "weights, or dependent gradients",
    ),
}


@dataclass(frozen=True, eq=False)
class LayerReport:
    """What was measured of one layer: `xi_l = J_l J_l^T`, J_l its columns of J.

    The xi_l of all layers add up to xi, so the shares add up to one. The logarithms of the
    determinants do not add up: `|xi| >= |xi_l|` for each layer, by Minkowski's inequality.

    Attributes:
        num_parameters: W_l, the layer's trainable parameters.
        trials: "trace_share" and "log_determinant" -> float64 [T], one value per trial.
    """

    num_parameters: int
    trials: Mapping[str, np.ndarray]

    @property
    def trace_share(self) -> float:
        """Mean over T of `tr(xi_l) / tr(xi)`, between 0 and 1."""
        return float(np.mean(self.trials["trace_share"]))

    @property
    def log_determinant(self) -> float:
        """Mean over T of `ln|xi_l|` in nats; -inf where a sample's is singular."""
        return float(np.mean(self.trials["log_determinant"]))

    def std(self, name: str) -> float:
        """The standard deviation of "trace_share" or "log_determinant" over the trials."""
        values = self.trials[name]
        return float(np.std(values)) if np.all(np.isfinite(values)) else math.nan


class PerLayer(Mapping[str, LayerReport]):
    """Path of a layer -> its `LayerReport`, in the order of the model's layers.

    `print` and notebooks show a table. Empty where layers were not told apart.
    """

    def __init__(self, layers: Mapping[str, LayerReport] | None = None) -> None:
        self._layers = dict(layers or {})

    def __getitem__(self, path: str) -> LayerReport:
        return self._layers[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def largest(self, count: int) -> list[str]:
        """The layers with the largest shares of the trace, in the order of the model."""
        by_share = sorted(self, key=lambda path: -np.nan_to_num(self[path].trace_share))
        return [path for path in self if path in set(by_share[:count])]

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a layer, for a CSV file or a data frame."""
        rows = []
        for path, layer in self.items():
            row: dict[str, Any] = {"layer": path, "num_parameters": layer.num_parameters}
            for name in LAYER_NUMBERS:
                row |= {name: getattr(layer, name), f"{name}_std": layer.std(name)}
            rows.append(row)
        return rows

    def _table(self) -> list[tuple[str, ...]]:
        lines: list[tuple[str, ...]] = [
            ("layer", "weights", "share of the trace", "ln|xi_l| (nat)")
        ]
        for path, layer in self.items():
            share, std = layer.trace_share, layer.std("trace_share")
            determinant, spread = layer.log_determinant, layer.std("log_determinant")
            lines.append(
                (
                    path,
                    f"{layer.num_parameters:,}",
                    f"{share:.2%} ± {std:.2%}",
                    f"{determinant:.1f} ± {spread:.1f}"
                    if math.isfinite(spread)
                    else f"{determinant:.1f}",
                )
            )
        return lines

    def __str__(self) -> str:
        lines = self._table()
        widths = [max(len(line[i]) for line in lines) for i in range(4)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        )

    def __repr__(self) -> str:
        return f"<PerLayer of {len(self)} layers>"

    def _repr_html_(self) -> str:
        head, *lines = [[html.escape(cell) for cell in line] for line in self._table()]
        rows = "".join(
            f"<tr><th>{line[0]}</th>"
            + "".join(f'<td style="text-align: right">{cell}</td>' for cell in line[1:])
            + "</tr>"
            for line in lines
        )
        return f"<table><thead><tr><th>{'</th><th>'.join(head)}</th></tr></thead>{rows}</table>"

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain Python values."""
        return {
            path: {
                "num_parameters": layer.num_parameters,
                **{name: layer.trials[name].tolist() for name in LAYER_NUMBERS},
            }
            for path, layer in self.items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], num_trials: int) -> PerLayer:
        """What `to_dict` has given.

        Raises:
            ValueError: where a layer does not have a value for each trial.
        """
        layers = {}
        for path, values in content.items():
            size = values["num_parameters"]
            trials = {name: np.array([to_float(v) for v in values[name]]) for name in LAYER_NUMBERS}
            if not isinstance(size, int) or {len(v) for v in trials.values()} != {num_trials}:
                raise ValueError(f"the numbers of layer {path!r} are not of {num_trials} trials")
            layers[path] = LayerReport(size, trials)
        return cls(layers)


def is_of_layer(name: str) -> bool:
    """Whether a number of a trial is that of a layer."""
    return _MARK in name


def layer_numbers(gram: GramMatrix | None, sizes: Mapping[str, int]) -> dict[str, float]:
    """The numbers of one trial by names that `collect` reads; all nan without a Gram matrix."""
    numbers = {}
    for path, size in sizes.items():
        share = determinant = math.nan
        if gram is not None:
            of_layer = gram.layers[path]
            # At the end of training the squared norms may have no floating-point value.
            whole, own = (logsumexp(2 * g.log_norms) for g in (gram, of_layer))
            share = math.nan if whole == -math.inf else float(np.exp(own - whole))
            determinant = of_layer.logdet if size >= len(gram.kept) else -math.inf
        numbers[f"{path}{_MARK}trace_share"] = share
        numbers[f"{path}{_MARK}log_determinant"] = determinant
    return numbers


def collect(trials: list[dict[str, float]], sizes: Mapping[str, int]) -> PerLayer:
    """The layers' numbers of all trials; none where a trial of an older version has none."""
    if not all(any(map(is_of_layer, trial)) for trial in trials):
        return PerLayer()
    return PerLayer(
        {
            path: LayerReport(
                size,
                {
                    name: np.array([trial[f"{path}{_MARK}{name}"] for trial in trials])
                    for name in LAYER_NUMBERS
                },
            )
            for path, size in sizes.items()
        }
    )
