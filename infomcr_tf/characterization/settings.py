"""The settings of one characterisation, checked before any work starts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import infomcr_tf.characterization.metrics  # noqa: F401 (fills the table)
from infomcr_tf.arguments import check_argument, check_choice
from infomcr_tf.characterization.metric_table import METRICS

PROTOCOLS = ("authors",)

# What the authors' released code fixes: BatchNorm with the statistics of chunks of 10 examples,
# logits divided by 0.04 times their norm, batches in stored order.
_COUNTS = ("num_trials", "num_samples", "chunk_size", "num_robustness_examples")
_OPTIONAL = ("chunk_size", "num_robustness_examples")
_AUTHORS = {"batch_norm": "batch", "chunk_size": 10, "normalize_logits": 0.04}


@dataclass(frozen=True)
class Settings:
    """The arguments of `characterize` that change its numbers (see there)."""

    num_trials: int = 100
    num_samples: int = 100
    metrics: tuple[str, ...] = ()
    batch_norm: str = "inference"
    chunk_size: int | None = None
    normalize_logits: float | None = None
    equalize_loss: float | None = None
    method: str = "auto"
    seed: int = 0
    protocol: str | None = None
    num_robustness_examples: int | None = None
    loss: str = "auto"
    per_layer: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {**asdict(self), "metrics": list(self.metrics)}

    @property
    def trial_metrics(self) -> tuple[str, ...]:
        """The selected metrics that are computed from samples S^t."""
        return tuple(name for name in self.metrics if METRICS[name].needs != "inputs")

    @property
    def hessian_metrics(self) -> tuple[str, ...]:
        """The selected metrics that are computed from products with the Hessian."""
        return tuple(name for name in self.metrics if METRICS[name].needs == "hessian")

    @property
    def input_metrics(self) -> tuple[str, ...]:
        """The selected metrics that are computed from the gradients with respect to the inputs."""
        return tuple(name for name in self.metrics if METRICS[name].needs == "inputs")

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """The arguments that belong to the per-example gradients."""
        names = ("batch_norm", "chunk_size", "method")
        return {name: getattr(self, name) for name in names}


def resolve_settings(
    num_examples: int, *, metrics: str | Sequence[str], protocol: str | None, **arguments: Any
) -> Settings:
    """Checks the arguments of `characterize` and fills in what the protocol fixes.

    Raises:
        ValueError: naming the argument, what is expected and what was received.
    """
    metrics = resolve_metrics(metrics, protocol)
    defaults = Settings()
    if isinstance(arguments.get("num_samples"), str) and arguments["num_samples"] == "all":
        if protocol == "authors":
            raise ValueError(
                '`num_samples` must be an integer with `protocol="authors"`. '
                "Received: num_samples='all'"
            )
        # All examples are one sample, and every trial would be the same.
        arguments = {**arguments, "num_samples": num_examples, "num_trials": 1}
    arguments = {**vars(defaults), **arguments, "metrics": metrics, "protocol": protocol}
    for name in _COUNTS:
        value = arguments[name]
        if name in _OPTIONAL and value is None:
            continue
        arguments[name] = check_argument(name, value)
    if not isinstance(arguments["per_layer"], bool):
        raise ValueError(f"`per_layer` must be True or False. Received: {arguments['per_layer']!r}")
    arguments["seed"] = check_argument("seed", arguments["seed"])
    if protocol is not None:
        check_choice("protocol", protocol, PROTOCOLS)
        for name, value in _AUTHORS.items():
            if not any(_same(arguments[name], one) for one in (getattr(defaults, name), value)):
                raise ValueError(
                    f'`protocol="authors"` fixes `{name}` at {value!r}. '
                    f"Received: {name}={arguments[name]!r}. Leave one of the two out."
                )
        arguments.update(_AUTHORS)
    settings = Settings(**arguments)
    _check_hessian_metrics(settings)
    if settings.trial_metrics:
        _require_enough_examples(settings, num_examples)
    robust = settings.num_robustness_examples
    if robust is not None and robust > num_examples:
        raise ValueError(
            f"`num_robustness_examples` must be at most the number of examples, {num_examples}. "
            f"Received: num_robustness_examples={robust}"
        )
    return settings


def _check_hessian_metrics(settings: Settings) -> None:
    if not settings.hessian_metrics:
        return
    for name in ("normalize_logits", "equalize_loss"):
        value = getattr(settings, name)
        if value is not None:
            raise ValueError(
                f"`{name}` must be None for {', '.join(settings.hessian_metrics)}, which are of "
                f"the loss as it is. Received: {name}={value!r}. Measure them in another call."
            )


def _require_enough_examples(settings: Settings, num_examples: int) -> None:
    if settings.protocol == "authors":
        needed = settings.num_trials * settings.num_samples
        if needed > num_examples:
            raise ValueError(
                '`protocol="authors"` takes disjoint batches: num_trials * num_samples = '
                f"{needed} examples. Received: {num_examples} examples. Lower `num_trials`."
            )
    elif settings.num_samples > num_examples:
        raise ValueError(
            "`num_samples` must be at most the number of examples: they are drawn without "
            f"replacement. Received: num_samples={settings.num_samples}, {num_examples} examples."
        )


def resolve_metrics(metrics: str | Sequence[str], protocol: str | None = None) -> tuple[str, ...]:
    """Returns the metrics that are meant, in the order of `METRICS`.

    "all" leaves out what takes the rows of J a second time, as the sampled Frobenius norm does,
    except in the authors' protocol.

    Raises:
        TypeError: where it is neither a name nor a list of names.
        ValueError: where a name is unknown (the nearest is suggested), or there is none.
    """
    if isinstance(metrics, str):
        apart = {"hessian"} if protocol == "authors" else {"hessian", "rows"}
        every = tuple(name for name in METRICS if METRICS[name].needs not in apart)
        metrics = every if metrics == "all" else (metrics,)
    if not isinstance(metrics, (list, tuple, set, frozenset)):
        raise TypeError(f'`metrics` must be "all" or a list of names. Received: {metrics!r}')
    for name in metrics:
        check_choice("metrics", name, METRICS)
    if not metrics:
        raise ValueError(
            f'`metrics` must be "all" or some of {tuple(METRICS)}. Received: an empty list.'
        )
    # One order and no repeats, so that equal selections have equal settings.
    return tuple(name for name in METRICS if name in metrics)


def _same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other
