"""Training runs: configuration, compile + fit + callbacks, and the run folder."""

from infomcr_tf.training.config import TrainConfig
from infomcr_tf.training.evaluation import evaluate
from infomcr_tf.training.run_folder import RunFolder, load_model
from infomcr_tf.training.train import RunData, TrainingRun

__all__ = ["RunData", "RunFolder", "TrainConfig", "TrainingRun", "evaluate", "load_model"]
