"""The sizes in which every experiment exists."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from infomcr_tf.training.learning_rate import PLATEAU_LOWEST, PLATEAU_MIN_DELTA

_PAPER_NETWORKS = (
    ("cifar10", "cnn"),
    ("cifar10", "wrn28_2"),
    ("cifar10", "densenet_bc_100_12"),
    ("cifar10", "resnet20"),
    ("cifar100", "cnn"),
    ("cifar100", "wrn28_2"),
    ("cifar100", "densenet_bc_100_12"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """One size.

    Attributes:
        name: what `--preset` calls it.
        about: what a reader of its results must know.
        seeds: training runs of each setting of a scenario.
        table_seeds: the same for everything else on CIFAR.
        imagenet_seeds: the same for Table 2.
        scenario: options of every scenario's runs (section 7.1).
        confusion: further options of Scenario I's.
        confusion_sizes: Scenario I.
        augmentations: Scenario II.
        batch_sizes: Scenario III.
        training: options of all other runs on CIFAR; what is not here is the network's own recipe.
        network_options: architecture -> its further options in these runs.
        imagenet: the same for Table 2.
        networks: pairs (data set, architecture) of Table 1.
        metric_networks: of Table 3.
        ablation: the pair of the schedule ablation.
        betas: the grid of `select-beta`.
        validation_size: images held out while beta is selected.
        imagenet_betas: the same grid for Table 2; where it is empty, `beta` is taken.
        imagenet_validation_size: training images held out of ImageNet's.
        selects_beta: whether tables use the beta selected for their network; otherwise `beta`.
        beta: where it is not selected.
        measurement: arguments of `characterize`.
        equalize_loss: L, the level of the equalised gamma_hat.
        level_measurement: arguments of `characterize` for networks kept on the way (`keep_at`).
        hessian_measurement: the same for the Hessian (`--hessian`), of which a trial takes long.
    """

    name: str
    about: str
    seeds: int
    table_seeds: int
    imagenet_seeds: int
    scenario: Mapping[str, Any]
    confusion: Mapping[str, Any]
    confusion_sizes: tuple[int, ...]
    augmentations: tuple[str, ...] = ("no-aug", "flip-only", "1-crop-f", "4-crop-f")
    batch_sizes: tuple[int, ...]
    training: Mapping[str, Any]
    imagenet: Mapping[str, Any]
    networks: tuple[tuple[str, str], ...]
    metric_networks: tuple[tuple[str, str], ...]
    ablation: tuple[str, str]
    betas: tuple[float, ...]
    validation_size: int
    selects_beta: bool
    beta: float = 10.0
    measurement: Mapping[str, Any]
    equalize_loss: float = 0.005
    level_measurement: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hessian_measurement: Mapping[str, Any]
    imagenet_betas: tuple[float, ...] = ()
    imagenet_validation_size: int = 0
    network_options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


_PATIENCE = 10
# What the paper leaves open.
_OPEN = (
    "What the paper does not say: how long a plateau of the training loss lasts before the "
    f"learning rate falls (here {_PATIENCE} epochs without a mean cross-entropy, weight decay left "
    f"out, that is lower by {PLATEAU_MIN_DELTA:g} than the best) and where it stops falling (at "
    f"{PLATEAU_LOWEST:g} of the initial rate); with how many seeds beta is selected (as many as "
    "are trained)"
)
_BETAS = (1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0)
_SCENARIO = {
    "dataset": "cifar10",
    "model": "resnet20",
    "epochs": 200,
    "schedule": "plateau",
    "patience": _PATIENCE,
    "learning_rate": 0.1,
    "batch_size": 128,
    "augmentation": "4-crop-f",
}
# "A new training set and a new confusion set every time".
_OWN_IMAGES = {"train_size": 10_000, "nested_sets": False}

PAPER = Preset(
    name="paper",
    about=f"The paper's setting. {_OPEN}; how many of ImageNet's images are held out to select "
    "beta (50,000).",
    seeds=5,
    table_seeds=5,
    imagenet_seeds=3,
    scenario=_SCENARIO,
    confusion=_OWN_IMAGES,
    confusion_sizes=(0, 1000, 2000, 3000, 4000, 5000),
    batch_sizes=(128, 256, 512, 1024),
    training={},
    imagenet={"model": "wrn18_1_5"},
    networks=_PAPER_NETWORKS,
    metric_networks=(
        ("cifar10", "resnet20"),
        ("cifar10", "wrn28_2"),
        ("cifar10", "densenet_bc_100_12"),
    ),
    ablation=("cifar10", "resnet20"),
    betas=_BETAS,
    validation_size=5000,
    imagenet_betas=_BETAS,
    imagenet_validation_size=50_000,
    selects_beta=True,
    measurement={"num_trials": 100, "num_samples": 100},
    hessian_measurement={"num_trials": 5, "num_samples": 200},
)

MEDIUM = dataclasses.replace(
    PAPER,
    name="medium",
    about="The paper's setting, but for 10,000 training images in Scenarios II and III and the "
    "tables, of which ResNet-20's are trained like the scenarios (200 epochs, plateau) and not for "
    f"64,000 steps, so that its plain run is Scenario I's without a confusion set. {_OPEN}.",
    scenario=_SCENARIO | _OWN_IMAGES,
    confusion={},
    training=_OWN_IMAGES,
    network_options={
        "resnet20": {k: v for k, v in _SCENARIO.items() if k not in ("dataset", "model")}
    },
)

# Everything that decides whether minima may be compared is the same for all runs of a scenario;
# sizes and confusion sets keep the paper's proportions (0 to 50 % of the training images).
SMALL = Preset(
    name="small",
    about="Real CIFAR-10 for two CPU cores: 1,000 training images (the same for all runs of a "
    "seed, and nested confusion sets), no augmentation where the paper has 4-crop-f, so that the "
    "training error can reach zero. Each run of a scenario ends when the cross-entropy of the "
    "images it is measured on (without the confusion set) is at most 0.0002, or after 300 epochs; "
    "networks are kept at 0.01 and 0.001 on the way. A plateau lasts 20 epochs without a mean "
    f"cross-entropy that is lower by {PLATEAU_MIN_DELTA:g} than the best. Other runs follow the "
    "networks' own recipes in 150 epochs (cnn: in batches of 32 at a learning rate of 0.02) and "
    "are kept at 0.01, 0.001 and 0.0002; beta = 10 without selection. Table 2, on 2,000 images "
    "for 4 epochs, ends far from a minimum.",
    seeds=5,
    table_seeds=3,
    imagenet_seeds=1,
    scenario={
        "dataset": "cifar10",
        "model": "resnet20",
        "epochs": 300,
        "schedule": "plateau",
        "patience": 20,
        "learning_rate": 0.1,
        "batch_size": 64,
        "augmentation": "no-aug",
        "train_size": 1000,
        "target_loss": 0.0002,
        "keep_at": "0.01,0.001",
    },
    confusion={},
    confusion_sizes=(0, 100, 300, 500),
    batch_sizes=(32, 64, 128, 256),
    training={
        "train_size": 1000,
        "epochs": 150,
        "augmentation": "no-aug",
        "batch_size": 64,
        "keep_at": "0.01,0.001,0.0002",
    },
    # At its recipe's rate, 0.01, it had hardly begun to learn after 186 steps; at 0.05 it diverged.
    network_options={"cnn": {"learning_rate": 0.02, "batch_size": 32}},
    imagenet={"model": "wrn18_1_5", "epochs": 4, "batch_size": 16, "train_size": 2000},
    networks=(("cifar10", "cnn"), ("cifar10", "resnet20")),
    metric_networks=(("cifar10", "cnn"), ("cifar10", "resnet20")),
    ablation=("cifar10", "resnet20"),
    betas=(1.0, 10.0, 50.0, 100.0),
    validation_size=1000,
    selects_beta=False,
    measurement={"num_trials": 100, "num_samples": 100, "num_robustness_examples": 200},
    level_measurement={"num_trials": 20, "num_samples": 100},
    hessian_measurement={"num_trials": 5, "num_samples": 200},
)

SMOKE = Preset(
    name="smoke",
    about="A few epochs on handwritten digits (Table 2: on 16 images): it tries out the machinery "
    "and says nothing about minima.",
    seeds=2,
    table_seeds=2,
    imagenet_seeds=1,
    scenario={
        "dataset": "digits",
        "model": "cnn",
        "epochs": 12,
        "schedule": "plateau",
        "batch_size": 25,
        "augmentation": "no-aug",
        "train_size": 100,
        "target_loss": 0.3,
        "keep_at": "1.5",
    },
    confusion={},
    confusion_sizes=(0, 25),
    augmentations=("no-aug", "1-crop-f"),
    batch_sizes=(10, 25),
    training={"train_size": 100, "epochs": 8, "batch_size": 20, "num_sub_batches": 4},
    imagenet={
        "model": "wrn18_1_5",
        "epochs": 1,
        "batch_size": 8,
        "train_size": 16,
        "regularize": "always",
    },
    networks=(("digits", "cnn"),),
    metric_networks=(("digits", "cnn"),),
    ablation=("digits", "cnn"),
    betas=(1.0, 10.0),
    validation_size=50,
    selects_beta=True,
    measurement={"num_trials": 3, "num_samples": 10, "num_robustness_examples": 20},
    equalize_loss=0.5,
    level_measurement={"num_trials": 2, "num_samples": 10},
    hessian_measurement={"num_trials": 1, "num_samples": 10},
)

PRESETS = {preset.name: preset for preset in (PAPER, MEDIUM, SMALL, SMOKE)}
