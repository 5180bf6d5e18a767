"""Training runs: configuration, compile + fit + callbacks, and the run folder."""

from infomcr_tf.model_file import load_model
from infomcr_tf.training.cifar_config import CifarConfig
from infomcr_tf.training.evaluation import evaluate, logits_function
from infomcr_tf.training.imagenet_config import ImageNetConfig
from infomcr_tf.training.kinds import load_data
from infomcr_tf.training.run import TrainingRun
from infomcr_tf.training.run_data import RunData
from infomcr_tf.training.run_folder import RunFolder

__all__ = [
    "CifarConfig",
    "ImageNetConfig",
    "RunData",
    "RunFolder",
    "TrainingRun",
    "evaluate",
    "load_data",
    "load_model",
    "logits_function",
]
