"""What an architecture is: a function that builds it, and how its authors train it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import keras

from infomcr_tf.registry import Registry

Build = TypeVar("Build", bound=Callable[..., keras.Model])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the authors of an architecture train it.

    Attributes:
        batch_size: B.
        learning_rate: the initial one.
        epochs: length of the training, or None where it is given by `steps`.
        steps: length of the training in steps, or None where it is given by `epochs`.
        drops: pairs of (fraction of the training, factor on the learning rate from then on).
        nesterov: whether the momentum is Nesterov's.
        weight_decay: wd of the loss term (wd/2) ||w||^2.
        momentum: of SGD.
        augmentation: scheme of section 7.1.
    """

    batch_size: int
    learning_rate: float
    epochs: int | None = None
    steps: int | None = None
    drops: tuple[tuple[float, float], ...]
    nesterov: bool
    weight_decay: float
    momentum: float = 0.9
    augmentation: str = "4-crop-f"

    def num_epochs(self, steps_per_epoch: int) -> int:
        """The length in epochs of `steps_per_epoch` steps; the last one is completed."""
        if self.steps is not None:
            return -(-self.steps // steps_per_epoch)
        assert self.epochs is not None  # one of the two is given
        return self.epochs


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture that `--model` can name; calling it builds one.

    Attributes:
        build: from `input_shape`, `num_classes`, `weight_decay` and `seed` to a model that ends in
            a layer "logits".
        recipe: the defaults of the training scripts.
    """

    build: Callable[..., keras.Model]
    recipe: Recipe

    def __call__(self, *args: Any, **kwargs: Any) -> keras.Model:
        """Builds a model."""
        return self.build(*args, **kwargs)


ARCHITECTURES: Registry[Architecture] = Registry("architecture")


def register_architecture(recipe: Recipe) -> Callable[[Build], Build]:
    """Makes the function below it an architecture with this recipe, under the function's name."""

    def register(build: Build) -> Build:
        ARCHITECTURES.register(build.__name__, Architecture(build, recipe))
        return build

    return register
