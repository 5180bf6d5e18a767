"""Trains one of the paper's networks on CIFAR-10, CIFAR-100 or the bundled digits (section 7)."""

import sys
from collections.abc import Sequence

from infomcr_tf.command_line.quiet import start_tensorflow

start_tensorflow()

from infomcr_tf.command_line.signals import interruptible
from infomcr_tf.training import CifarConfig
from infomcr_tf.training.command import train_from_flags


@interruptible
def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> one configuration -> one run. Returns the exit status."""
    return train_from_flags(CifarConfig, argv, prog="train_cifar.py", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
