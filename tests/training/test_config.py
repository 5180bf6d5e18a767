import dataclasses

import pytest

from infomcr_tf.models import ARCHITECTURES
from infomcr_tf.training import CifarConfig
from infomcr_tf.training.learning_rate import drop_epochs


def test_defaults_are_the_architectures_recipes():
    config = CifarConfig(model="resnet20").resolve(num_images=50_000)
    assert (config.batch_size, config.learning_rate, config.momentum) == (128, 0.1, 0.9)
    assert (config.weight_decay, config.nesterov, config.augmentation) == (1e-4, False, "4-crop-f")
    # 64,000 steps of 390 a pass; drops at 32k and 48k steps are the same fractions.
    assert config.epochs == 165
    assert CifarConfig(model="wrn28_2").resolve(50_000).weight_decay == 5e-4
    assert CifarConfig(model="densenet_bc_100_12").resolve(50_000).batch_size == 64
    assert CifarConfig(model="cnn").resolve(50_000).learning_rate == 0.01


@pytest.mark.parametrize(
    ("model", "drops"),
    [
        ("cnn", [(100, 0.1), (150, 0.1)]),
        ("wrn28_2", [(60, 0.2), (120, 0.2), (160, 0.2)]),
        ("densenet_bc_100_12", [(150, 0.1), (225, 0.1)]),
        ("wrn18_1_5", [(30, 0.1), (60, 0.1)]),
    ],
)
def test_learning_rate_drops_where_the_papers_say(model, drops):
    recipe = ARCHITECTURES[model].recipe
    assert drop_epochs(recipe, recipe.epochs) == [(e, pytest.approx(f)) for e, f in drops]


def test_given_values_win_over_the_recipe():
    given = {"epochs": 3, "batch_size": 10, "learning_rate": 0.5, "weight_decay": 0.0}
    given |= {"momentum": 0.0, "nesterov": False, "augmentation": "flip-only", "run_dir": "here"}
    config = CifarConfig(model="cnn", **given).resolve(100)
    assert {name: getattr(config, name) for name in given} == given


def test_resolving_leaves_nothing_open_but_places_and_devices():
    resolved = dataclasses.asdict(CifarConfig(dataset="digits", model="cnn").resolve(1437))
    open_ = {name for name, value in resolved.items() if value is None}
    assert open_ == {"data_dir", "train_size", "target_loss", "keep_at", "gpus", "virtual_devices"}
    assert resolved["augmentation"] == "no-aug"  # a mirrored digit is another one


def test_survives_a_round_trip():
    config = CifarConfig(model="cnn", epochs=3, alpha=1e-3)
    assert CifarConfig.from_dict(dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "cifar"}, "Did you mean 'cifar10'"),
        ({"model": "resnet"}, "Did you mean 'resnet20'"),
        ({"augmentation": "4-crop"}, "Did you mean '4-crop-f'"),
        ({"regularize": "after-first"}, "Did you mean 'after-first-drop'"),
        ({"schedule": "platau"}, "Did you mean 'plateau'"),
        ({"data_term": "batches"}, "Did you mean"),
        ({"alpha": 0.0}, "--alpha.*above 0.*Received: --alpha=0"),
        ({"alpha": float("nan")}, "--alpha.*finite.*Received: --alpha=nan"),
        ({"beta": -1.0}, "--beta.*>= 0"),
        ({"num_sub_batches": 0}, "--num-sub-batches.*>= 1"),
        ({"momentum": 1.0}, "--momentum.*below 1"),
        ({"label_smoothing": 1.0}, "--label-smoothing.*below 1"),
        ({"epochs": 2.5}, "--epochs.*integer"),
        ({"epochs": True}, "--epochs.*integer"),
        ({"nesterov": "yes"}, "--nesterov.*true or false"),
        ({"train_size": 0}, "--train-size.*>= 1"),
        ({"gpus": -1}, "--gpus.*>= 0"),
        ({"gpus": 1, "virtual_devices": 2}, "exclude each other"),
        ({"nesterov": True, "momentum": 0.0}, "--no-nesterov"),
        ({"schedule": "constant"}, "never starts"),
        ({"mixed_precision": True}, "--estimator hessian_vector or --regularize never"),
    ],
)
def test_unsuitable_values_are_refused_with_one_clear_line(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        CifarConfig(**values)
    assert "\n" not in str(caught.value)


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ValueError, match=r"--batch-size.*at most.*100"):
        CifarConfig(model="cnn", batch_size=101).resolve(num_images=100)


@pytest.mark.parametrize(
    ("values", "replicas", "message"),
    [
        ({"batch_size": 4}, 1, "--num-sub-batches.*=8 for a batch of 4"),
        ({"epochs": 1}, 1, "--epochs.*at least 2"),
        ({"batch_size": 30}, 4, "--batch-size.*divisible.*4.*Received: 30"),
        ({"batch_size": 30}, 3, "--num-sub-batches.*divisible.*=8, replicas=3"),
        ({"jit_compile": True}, 2, "--jit-compile.*one device.*Received: 2"),
    ],
)
def test_values_that_do_not_fit_the_devices_are_refused(values, replicas, message):
    with pytest.raises(ValueError, match=message):
        CifarConfig(model="cnn", **values).check(replicas)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], "mapping"),
        ({"modle": "cnn"}, "Unknown option 'modle'. Did you mean 'model'"),
        ({"epochs": "3"}, "--epochs.*integer.*'3'"),
        ({"dataset": None}, "--dataset"),
    ],
)
def test_stored_configurations_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        CifarConfig.from_dict(values)
