"""Trains WRN-18-1.5 (or another of the networks) on ImageNet at 128 x 128 (section 7.2).

The command `infomcr-train-imagenet`, run from a checkout.
"""

import functools
import sys

from infomcr_tf.commands import train_imagenet_command

main = functools.partial(train_imagenet_command, prog="train_imagenet.py")

if __name__ == "__main__":
    sys.exit(main())
