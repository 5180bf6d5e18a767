"""The kinds of runs: which configuration goes with which data."""

from typing import Any

from infomcr_tf.training.cifar_config import CifarConfig
from infomcr_tf.training.cifar_data import CifarData
from infomcr_tf.training.config import TrainConfig
from infomcr_tf.training.imagenet_config import ImageNetConfig
from infomcr_tf.training.imagenet_data import ImageNetData
from infomcr_tf.training.resolved_config import ResolvedConfig
from infomcr_tf.training.run_data import RunData

_KINDS: dict[str, tuple[type[TrainConfig], type[RunData]]] = {
    "cifar": (CifarConfig, CifarData),
    "imagenet": (ImageNetConfig, ImageNetData),
}


def kind_of(config: TrainConfig) -> str:
    """The name of a configuration's kind."""
    return next(kind for kind, (of_config, _) in _KINDS.items() if isinstance(config, of_config))


def config_from_dict(kind: str, values: Any) -> TrainConfig:
    """The stored configuration `values` of runs of this kind, as they were asked for.

    Raises:
        ValueError: if there is no such kind, or the values are unsuitable.
    """
    return _config_class(kind).from_dict(values)


def resolved_from_dict(kind: str, values: Any) -> ResolvedConfig:
    """The stored configuration `values` of a run of this kind, with nothing left to the recipe.

    Raises:
        ValueError: if there is no such kind, or the values are unsuitable.
    """
    return _config_class(kind).resolved_class.from_dict(values)


def _config_class(kind: str) -> type[TrainConfig]:
    if kind not in _KINDS:
        raise ValueError(f"Unknown kind of data {kind!r}; expected one of {', '.join(_KINDS)}.")
    return _KINDS[kind][0]


def load_data(config: TrainConfig) -> RunData:
    """The examples of a run with this configuration.

    Raises:
        ValueError: if they cannot be had, or their number does not fit.
    """
    return _KINDS[kind_of(config)][1].load(config)
