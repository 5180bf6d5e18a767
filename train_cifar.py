"""Trains one of the paper's networks on CIFAR-10, CIFAR-100 or the bundled digits (section 7).

The command `infomcr-train-cifar`, run from a checkout.
"""

import functools
import sys

from infomcr_tf.commands import train_cifar_command

main = functools.partial(train_cifar_command, prog="train_cifar.py")

if __name__ == "__main__":
    sys.exit(main())
