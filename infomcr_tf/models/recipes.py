"""Each architecture's own training recipe: the defaults of the training scripts (appendix E)."""

import dataclasses


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
        return self.epochs if self.steps is None else -(-self.steps // steps_per_epoch)


RECIPES = {
    # Appendix E. Its "l2 regularization of a coefficient 0.0001" is c ||w||^2 in the authors'
    # framework: wd = 2 c.
    "cnn": Recipe(
        batch_size=128, learning_rate=0.01, epochs=200, drops=((0.5, 0.1), (0.75, 0.1)),
        nesterov=True, weight_decay=2e-4,
    ),
    # He et al. 2016, section 4.2: divided by 10 at 32k and 48k of 64k iterations.
    "resnet20": Recipe(
        batch_size=128, learning_rate=0.1, steps=64_000, drops=((0.5, 0.1), (0.75, 0.1)),
        nesterov=False, weight_decay=1e-4,
    ),
    # Zagoruyko & Komodakis 2016, section 3: dropped by 0.2 at 60, 120 and 160 of 200 epochs.
    "wrn28_2": Recipe(
        batch_size=128, learning_rate=0.1, epochs=200, drops=((0.3, 0.2), (0.6, 0.2), (0.8, 0.2)),
        nesterov=True, weight_decay=5e-4,
    ),
    # Huang et al. 2017, section 4.2: divided by 10 at 50 % and 75 % of 300 epochs.
    "densenet_bc_100_12": Recipe(
        batch_size=64, learning_rate=0.1, epochs=300, drops=((0.5, 0.1), (0.75, 0.1)),
        nesterov=True, weight_decay=1e-4,
    ),
    # For ImageNet: divided by 10 every 30 of 90 epochs, Nesterov as in the WRN authors' code; batch
    # 128 as in the paper's section 7.2.1.
    "wrn18_1_5": Recipe(
        batch_size=128, learning_rate=0.1, epochs=90, drops=((1 / 3, 0.1), (2 / 3, 0.1)),
        nesterov=True, weight_decay=1e-4,
    ),
}  # fmt: skip
