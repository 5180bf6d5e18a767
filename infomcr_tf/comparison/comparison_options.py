"""The arguments of `characterize` as flags of the command line."""

import dataclasses
from typing import Any

from infomcr_tf.characterization import PROTOCOLS
from infomcr_tf.characterization.metric_table import METRICS
from infomcr_tf.characterization.settings import resolve_metrics
from infomcr_tf.command_line.options import Options, option

_SAMPLES = "samples and metrics (sections 5.3 and 7.1, appendix D)"
_NETWORK = "how the network is read"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonOptions(Options):
    """The arguments of `characterize`, as flags.

    Raises:
        ValueError: if a value is out of range.
    """

    num_trials: int = option(100, "T, samples drawn from the training images.", group=_SAMPLES)
    num_samples: int = option(100, "N', images in one sample.", group=_SAMPLES)
    metrics: str = option(
        "all", "Metrics to compute, separated by commas.", group=_SAMPLES, listed=METRICS
    )
    hessian: bool = option(
        False,
        "Also measure the spectral radius, trace and squared Frobenius norm of the true Hessian of "
        "each sample's mean loss: far slower than all others together.",
        group=_SAMPLES,
    )
    num_robustness_examples: int | None = option(
        None, "Images for the robustness (default: all training images).", group=_SAMPLES
    )
    seed: int = option(0, "Of the samples.", group=_SAMPLES)
    protocol: str | None = option(
        None,
        "Measure as the authors' released code does: batch statistics in chunks of 10, "
        "logits divided by 0.04 times their norm, the first images in stored order.",
        group=_SAMPLES,
        choices=PROTOCOLS,
    )
    batch_norm: str = option(
        "inference",
        "Statistics of BatchNorm: the moving averages or those of a chunk.",
        group=_NETWORK,
        choices=("inference", "batch"),
    )
    chunk_size: int | None = option(
        None, "Images in a chunk; with --batch-norm batch it changes the numbers.", group=_NETWORK
    )
    normalize_logits: float | None = option(
        None,
        "s: divide the logits by s times their norm (section 7.2.3; the authors: 0.04).",
        group=_NETWORK,
    )
    equalize_loss: float | None = option(
        None,
        "L: scale each image's logits so that its cross-entropy is L.",
        group=_NETWORK,
    )
    loss: str = option(
        "auto",
        "Whose gradients are measured: the cross-entropy of a softmax over the classes; "
        '"compiled", the loss that a .keras file was compiled with; or the name of a loss of '
        "Keras, such as mse, of one-hot targets.",
        group=_NETWORK,
    )
    method: str = option("auto", "How the per-example gradients are computed.", group=_NETWORK)
    max_memory: float = option(
        2.0, "GiB for the Jacobian's blocks and the recorded activations.", group=_NETWORK, above=0
    )

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `characterize`."""
        values = dataclasses.asdict(self)
        max_memory = values.pop("max_memory")
        names = tuple(name.strip() for name in self.metrics.split(","))
        if values.pop("hessian"):
            names = resolve_metrics("all") if names == ("all",) else names
            of_hessian = (m.name for m in METRICS.values() if m.needs == "hessian")
            names = tuple(dict.fromkeys((*names, *of_hessian)))
        return values | {
            "metrics": "all" if names == ("all",) else names,
            "max_memory_bytes": round(max_memory * 2**30),
        }
