"""The commands that the package installs; `python -m infomcr_tf` lists them.

TensorFlow is imported by the command that is called, with its start-up messages held back: nothing
at the head of this module may import it.
"""

import inspect
from collections.abc import Callable, Sequence

from infomcr_tf.command_line.quiet import start_tensorflow
from infomcr_tf.command_line.signals import interruptible

TRAIN_CIFAR, TRAIN_IMAGENET = "infomcr-train-cifar", "infomcr-train-imagenet"
CHARACTERIZE, EXPERIMENTS = "infomcr-characterize", "infomcr-experiments"


@interruptible
def train_cifar_command(argv: Sequence[str] | None = None, *, prog: str = TRAIN_CIFAR) -> int:
    """Train one of the paper's networks on CIFAR-10, CIFAR-100 or the bundled digits (section 7).

    Args:
        argv: the flags; None for those of this process.
        prog: the name under which the command was called.

    Returns:
        The exit status.
    """
    start_tensorflow()
    from infomcr_tf.training import CifarConfig
    from infomcr_tf.training.training_flags import train_from_flags

    return train_from_flags(CifarConfig, argv, prog=prog, description=summary_of(TRAIN_CIFAR))


@interruptible
def train_imagenet_command(argv: Sequence[str] | None = None, *, prog: str = TRAIN_IMAGENET) -> int:
    """Train WRN-18-1.5 (or another of the networks) on ImageNet at 128 x 128 (section 7.2).

    Arguments and exit status as of `train_cifar_command`.
    """
    start_tensorflow()
    from infomcr_tf.training import ImageNetConfig
    from infomcr_tf.training.training_flags import train_from_flags

    return train_from_flags(ImageNetConfig, argv, prog=prog, description=summary_of(TRAIN_IMAGENET))


@interruptible
def characterize_command(argv: Sequence[str] | None = None, *, prog: str = CHARACTERIZE) -> int:
    """Measure trained minima with the paper's metrics and compare them (sections 5 and 7.1).

    Arguments and exit status as of `train_cifar_command`.
    """
    start_tensorflow()
    from infomcr_tf.comparison.comparison_flags import compare_from_flags

    return compare_from_flags(argv, prog=prog, description=summary_of(CHARACTERIZE))


@interruptible
def experiments_command(argv: Sequence[str] | None = None, *, prog: str = EXPERIMENTS) -> int:
    """Run the paper's experiments: every table and figure of section 7, resumable.

    Arguments and exit status as of `train_cifar_command`.
    """
    start_tensorflow()
    from infomcr_tf.experiments.experiment_flags import run_from_flags

    return run_from_flags(argv, prog=prog, description=summary_of(EXPERIMENTS))


COMMANDS: dict[str, Callable[..., int]] = {
    TRAIN_CIFAR: train_cifar_command,
    TRAIN_IMAGENET: train_imagenet_command,
    CHARACTERIZE: characterize_command,
    EXPERIMENTS: experiments_command,
}


def summary_of(name: str) -> str:
    """The first line of a command's documentation."""
    return (inspect.getdoc(COMMANDS[name]) or "").split("\n")[0]
