"""Trains WRN-18-1.5 (or another of the networks) on ImageNet at 128 x 128 (section 7.2)."""

import sys
from collections.abc import Sequence

from infomcr_tf.command_line.quiet import start_tensorflow

start_tensorflow()

from infomcr_tf.command_line.signals import interruptible
from infomcr_tf.training import ImageNetConfig
from infomcr_tf.training.command import train_from_flags


@interruptible
def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> one configuration -> one run. Returns the exit status."""
    return train_from_flags(ImageNetConfig, argv, prog="train_imagenet.py", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
