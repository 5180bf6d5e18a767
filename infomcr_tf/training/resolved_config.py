"""The configuration of a training run once nothing is left to the architecture's recipe."""

import dataclasses
from typing import TYPE_CHECKING

from infomcr_tf.command_line.options import required
from infomcr_tf.training.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolvedConfig(TrainConfig):
    """What a training run depends on besides its data, with nothing left to the recipe."""

    epochs: int = required(TrainConfig, "epochs")
    batch_size: int = required(TrainConfig, "batch_size")
    learning_rate: float = required(TrainConfig, "learning_rate")
    weight_decay: float = required(TrainConfig, "weight_decay")
    momentum: float = required(TrainConfig, "momentum")
    nesterov: bool = required(TrainConfig, "nesterov")
    run_dir: str = required(TrainConfig, "run_dir")
    if TYPE_CHECKING:  # every kind of data has its own
        augmentation: str
