"""The tables of section 7.2: networks with and without the penalty."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from infomcr_tf.experiments.choices import Choices, level_views, measured_views, xi_metrics
from infomcr_tf.experiments.experiment import Experiment, Setting
from infomcr_tf.experiments.paper_values import TABLE1, TABLE2, TABLE3
from infomcr_tf.training import CifarConfig, ImageNetConfig

ABLATION_SCHEDULES = ("never", "111", "011", "001", "100", "010")


def _on_cifar(
    choices: Choices, name: str, title: str, variable: str, settings: Iterable[Setting], **more: Any
) -> Experiment:
    values = {"views": measured_views(choices.preset), "notes": (choices.preset.about,), **more}
    if values["views"]:
        values["level_views"] = level_views(choices.preset)
    return Experiment(
        name=name,
        title=title,
        variable=variable,
        settings=tuple(settings),
        num_seeds=choices.table_seeds,
        **values,
    )


def select_beta(choices: Choices) -> Experiment:
    """Selection of beta on CIFAR (section 7.2)."""
    preset = choices.preset
    settings = (
        Setting(
            label=f"{beta:g}",
            group=f"{dataset} {model}",
            config=_config(
                choices, dataset, model, beta=beta, validation_size=preset.validation_size
            ),
        )
        for dataset, model in _networks(choices, preset.networks)
        for beta in preset.betas
    )
    title = "Selection of beta on held-out training images (section 7.2)"
    return _on_cifar(choices, "select-beta", title, "beta", settings, views={})


def retrained(choices: Choices) -> Experiment:
    """Training on all images with the selected beta."""
    settings = (
        _network(choices, *network, beta)
        for network in _networks(choices, choices.preset.networks)
        for beta in _betas(choices, *network)
    )
    title = "Training on all images with the selected beta (section 7.2)"
    return _on_cifar(choices, "select-beta-retrained", title, "network", settings)


def table1(choices: Choices) -> Experiment:
    """Table 1."""
    settings = (
        _network(choices, *network, beta)
        for network in _networks(choices, choices.preset.networks)
        for beta in (None, *_betas(choices, *network))
    )
    title = "Table 1: test error with and without the penalty"
    return _on_cifar(choices, "table1", title, "penalty", settings)


def select_beta_imagenet(choices: Choices) -> Experiment:
    """Selection of beta for Table 2."""
    preset = choices.preset
    settings = []
    for beta in preset.imagenet_betas:
        size = preset.imagenet_validation_size
        config = _imagenet_config(choices, beta=beta, validation_size=size)
        group = f"imagenet {config.model}"
        settings.append(Setting(label=f"{beta:g}", group=group, config=config))
    return Experiment(
        name="select-beta-imagenet",
        title="Selection of beta for ImageNet on held-out training images",
        variable="beta",
        settings=tuple(settings),
        num_seeds=choices.num_seeds or preset.imagenet_seeds,
        views={},
        notes=(preset.about,),
    )


def _imagenet_config(choices: Choices, **options: Any) -> ImageNetConfig:
    return ImageNetConfig(**{**choices.preset.imagenet, **choices.imagenet_places, **options})


def table2(choices: Choices) -> Experiment:
    """Table 2."""
    preset = choices.preset
    beta = _one_beta(choices, "table2", "imagenet", preset.imagenet["model"])
    settings = []
    for regularized in (False, True):
        options = {} if regularized else {"regularize": "never"}
        config = _imagenet_config(choices, beta=beta, **options)
        label = f"with (beta {beta:g})" if regularized else "without"
        group = f"imagenet {config.model}"
        settings.append(Setting(label=label, group=group, config=config, paper=TABLE2[regularized]))
    return Experiment(
        name="table2",
        title="Table 2: ImageNet at 128 x 128",
        variable="penalty",
        settings=tuple(settings),
        num_seeds=choices.num_seeds or preset.imagenet_seeds,
        # A robustness would take the Jacobian of 1000 classes for each image.
        views=measured_views(preset, metrics=xi_metrics()),
        notes=(preset.about,),
    )


def table3(choices: Choices) -> Experiment:
    """Table 3."""
    settings = []
    for dataset, model in _networks(choices, choices.preset.metric_networks):
        for beta in (None, *_betas(choices, dataset, model)):
            setting = _network(choices, dataset, model, beta)
            known = TABLE3.get((model, beta is not None))
            paper = {} if known is None else {"log_singular_value_sum": known}
            settings.append(dataclasses.replace(setting, paper=paper))
    notes = (
        choices.preset.about,
        "The column beside the paper's is the sum of the logarithms of the singular values, "
        "measured as the authors' released code does; gamma_hat as Eq. 6 defines it is twice "
        "that. Which of the two Table 3 prints, the paper does not say.",
    )
    return _on_cifar(
        choices,
        "table3",
        "Table 3: the metric with and without the penalty",
        "penalty",
        settings,
        notes=notes,
    )


def ablation(choices: Choices) -> Experiment:
    """The schedule ablation of section 7.2.1."""
    dataset, model = choices.preset.ablation
    beta = _one_beta(choices, "schedule-ablation", dataset, model)
    settings = []
    for stages in ABLATION_SCHEDULES:
        options: dict[str, Any] = {} if stages == "never" else {"beta": beta}
        # By the names that Table 1 uses, so that its runs serve here too.
        regularize = "after-first-drop" if stages == "011" else stages
        config = _config(choices, dataset, model, regularize=regularize, **options)
        settings.append(Setting(label=stages, group=f"{dataset} {model}", config=config))
    return _on_cifar(
        choices,
        "schedule-ablation",
        "In which stages of the training the penalty helps (section 7.2.1)",
        "stages with the penalty",
        settings,
        notes=(choices.preset.about, f"beta = {beta:g}."),
    )


def _network(choices: Choices, dataset: str, model: str, beta: float | None) -> Setting:
    """With the penalty, or without where beta is None."""
    known = TABLE1.get((dataset, model, beta is not None))
    options = {"regularize": "never"} if beta is None else {"beta": beta}
    return Setting(
        label="without" if beta is None else f"with (beta {beta:g})",
        group=f"{dataset} {model}",
        config=_config(choices, dataset, model, **options),
        paper={} if known is None else {"test_error": known},
    )


def _networks(
    choices: Choices, networks: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    if choices.model is None:
        return networks
    chosen = tuple(network for network in networks if network[1] == choices.model)
    if not chosen:
        names = dict.fromkeys(model for _, model in networks)
        raise ValueError(
            f"`--model` must be one of the experiment's: {', '.join(names)}. Received: "
            f"{choices.model!r}"
        )
    return chosen


def _betas(choices: Choices, dataset: str, model: str) -> tuple[float, ...]:
    return choices.betas or (choices.selected.get((dataset, model), choices.preset.beta),)


def _one_beta(choices: Choices, name: str, dataset: str, model: str) -> float:
    beta, *others = _betas(choices, dataset, model)
    if others:
        raise ValueError(f"`--beta` must be one value for {name}. Received: {choices.betas}")
    return beta


def _config(choices: Choices, dataset: str, model: str, **options: Any) -> CifarConfig:
    preset = choices.preset
    own = preset.network_options.get(model, {})
    values = {**preset.training, **own, **options, **choices.places}
    return CifarConfig(dataset=dataset, model=model, **values)
