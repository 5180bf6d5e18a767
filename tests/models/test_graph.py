"""The order of the layers, where every shortcut reads from, strides, biases, initialisation."""

import keras
import numpy as np
import pytest

from infomcr_tf import models

NAMES = list(models.ARCHITECTURES)
WITH_BATCH_NORM = [name for name in NAMES if name != "cnn"]


def two_inputs(add, graph, main_kind):
    """The main branch's last layer of an addition, and the shortcut's."""
    first, second = (graph.nodes[name] for name in add.sources)
    assert first.kind == main_kind
    return first, second


def test_resnet20_is_post_activation_with_option_a_shortcuts(graph):
    g = graph("resnet20")
    adds = g.of_kind("Add")
    assert len(adds) == 9
    strided = []
    for add in adds:
        main, shortcut = two_inputs(add, g, "BatchNormalization")
        block_input = g.walk_back(
            main, ["BatchNormalization", "Conv2D", "ReLU", "BatchNormalization", "Conv2D"]
        )
        assert [reader.kind for reader in g.readers(add.name)] == ["ReLU"]
        assert block_input.kind == "ReLU"
        if shortcut.name != block_input.name:
            pad = shortcut
            pooled = g.source(pad)
            assert pad.kind == "Pad" and pooled.kind == "AveragePooling2D"
            assert tuple(pooled.config["pool_size"]) == (1, 1)
            assert tuple(pooled.config["strides"]) == (2, 2)
            assert g.source(pooled).name == block_input.name
            strided.append(add.name)
    assert strided == ["stage2_block1_add", "stage3_block1_add"]
    assert {conv.config["filters"] for conv in g.of_kind("Conv2D")} == {16, 32, 64}
    # No convolution is in a shortcut: 1 + 9 * 2.
    assert len(g.of_kind("Conv2D")) == 19


def test_resnet20_shortcut_is_a_strided_slice_with_zero_channels(build):
    model = build("resnet20")
    (add,) = (layer for layer in model.layers if layer.name == "stage2_block1_add")
    block_input = model.get_layer("stage1_block3_relu").output
    branches = keras.Model(model.input, [block_input, *add.input])
    image = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    x, _, shortcut = (np.asarray(value) for value in branches(image))
    expected = np.concatenate([x[:, ::2, ::2], np.zeros((2, 16, 16, 16))], axis=-1)
    np.testing.assert_array_equal(shortcut, expected)


def test_wrn28_2_is_pre_activation_and_its_projections_read_the_activation(graph):
    g = graph("wrn28_2")
    adds = g.of_kind("Add")
    assert len(adds) == 12
    projected = []
    previous = g.nodes["stem_conv"]
    for add in adds:
        main, shortcut = two_inputs(add, g, "Conv2D")
        active = g.walk_back(main, ["Conv2D", "ReLU", "BatchNormalization", "Conv2D"])
        block_input = g.walk_back(active, ["ReLU", "BatchNormalization"])
        assert block_input.name == previous.name
        if shortcut.name != block_input.name:
            assert shortcut.kind == "Conv2D"
            assert tuple(shortcut.config["kernel_size"]) == (1, 1)
            assert g.source(shortcut).name == active.name
            projected.append((add.name, tuple(shortcut.config["strides"])))
        previous = add
    assert projected == [
        ("stage1_block1_add", (1, 1)),
        ("stage2_block1_add", (2, 2)),
        ("stage3_block1_add", (2, 2)),
    ]
    last = g.source(g.nodes["pool"])
    assert g.walk_back(last, ["ReLU", "BatchNormalization"]).name == adds[-1].name


def test_densenet_layers_bottlenecks_and_transitions(graph):
    g = graph("densenet_bc_100_12")
    concats = g.of_kind("Concatenate")
    assert len(concats) == 48
    for concat in concats:
        kept, new = (g.nodes[name] for name in concat.sources)
        assert new.config["filters"] == 12 and tuple(new.config["kernel_size"]) == (3, 3)
        bottleneck = g.walk_back(new, ["Conv2D", "ReLU", "BatchNormalization"])
        assert bottleneck.config["filters"] == 48
        assert tuple(bottleneck.config["kernel_size"]) == (1, 1)
        assert g.walk_back(bottleneck, ["Conv2D", "ReLU", "BatchNormalization"]).name == kept.name
    pools = g.of_kind("AveragePooling2D")
    for pool, (before, after) in zip(pools, [(216, 108), (300, 150)], strict=True):
        conv = g.source(pool)
        assert conv.config["filters"] == after  # 24 + 16 * 12 = 216; 108 + 192 = 300
        assert tuple(conv.config["kernel_size"]) == (1, 1)
        source = g.walk_back(conv, ["Conv2D", "ReLU", "BatchNormalization"])
        assert source.kind == "Concatenate"
        assert before // 2 == after
    last = g.source(g.nodes["pool"])
    assert g.walk_back(last, ["ReLU", "BatchNormalization"]).name == concats[-1].name


def test_wrn18_1_5_stem_and_projections(graph):
    g = graph("wrn18_1_5")
    stem, pool = g.nodes["stem_conv"], g.nodes["stem_pool"]
    assert stem.config["filters"] == 64 and tuple(stem.config["kernel_size"]) == (7, 7)
    assert tuple(stem.config["strides"]) == (2, 2)
    assert tuple(pool.config["pool_size"]) == (3, 3) and tuple(pool.config["strides"]) == (2, 2)
    adds, projected = g.of_kind("Add"), []
    assert len(adds) == 8
    for add in adds:
        main, shortcut = two_inputs(add, g, "BatchNormalization")
        block_input = g.walk_back(
            main, ["BatchNormalization", "Conv2D", "ReLU", "BatchNormalization", "Conv2D"]
        )
        assert [reader.kind for reader in g.readers(add.name)] == ["ReLU"]
        if shortcut.name != block_input.name:
            conv = g.source(shortcut)
            assert shortcut.kind == "BatchNormalization"
            assert tuple(conv.config["kernel_size"]) == (1, 1)
            assert g.source(conv).name == block_input.name
            projected.append((conv.config["filters"], tuple(conv.config["strides"])))
    assert projected == [(96, (1, 1)), (192, (2, 2)), (384, (2, 2)), (768, (2, 2))]


def test_cnn_pools_after_the_second_and_fourth_convolution(graph):
    g = graph("cnn")
    convs = g.of_kind("Conv2D")
    assert [conv.config["filters"] for conv in convs] == [64, 64, 128, 128, 192, 192]
    assert all(conv.config["use_bias"] for conv in convs)
    pools = g.of_kind("MaxPooling2D")
    assert [g.source(g.source(pool)).name for pool in pools] == ["conv2", "conv4"]
    assert not g.of_kind("BatchNormalization")


@pytest.mark.parametrize("name", NAMES)
def test_ends_in_logits_after_global_pooling(graph, name):
    g = graph(name)
    (dense,) = g.of_kind("Dense")
    assert dense.config["activation"] == "linear" and dense.config["use_bias"]
    assert not g.readers(dense.name)
    assert g.source(dense).kind == "GlobalAveragePooling2D"


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_no_bias_with_batch_norm_and_its_constants(graph, name):
    g = graph(name)
    assert not any(conv.config["use_bias"] for conv in g.of_kind("Conv2D"))
    for norm in g.of_kind("BatchNormalization"):
        assert norm.config["momentum"] == 0.9 and norm.config["epsilon"] == 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_initialisation_is_that_of_the_authors_code(build, name):
    """By moments: the plain network He et al.'s fan-in, the others fan-out and a uniform head."""
    for layer in build(name).layers:
        if not isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            continue
        kernel = np.asarray(layer.kernel, np.float64)
        fan_in = kernel[..., 0].size
        fan_out = kernel.size // kernel.shape[-2]
        uniform = name != "cnn" and isinstance(layer, keras.layers.Dense)
        variance = 2 / (fan_in if name == "cnn" else fan_out)
        kurtosis = 3.0
        if uniform:
            variance, kurtosis = 1 / (3 * fan_in), 1.8
            assert np.abs(kernel).max() <= 1 / np.sqrt(fan_in)
        # The mean of n squares has a relative standard error of sqrt((kurtosis - 1) / n); five.
        np.testing.assert_allclose(
            (kernel**2).mean(), variance, rtol=5 * np.sqrt((kurtosis - 1) / kernel.size)
        )
        if not uniform:
            # A truncated normal would end at about 2.3 of its standard deviations.
            assert kernel.size < 10_000 or np.abs(kernel).max() > 3 * np.sqrt(variance)
        if layer.use_bias:
            np.testing.assert_array_equal(layer.bias, 0)


def test_strided_convolutions_are_centred_on_the_pixels_that_the_shortcut_keeps(build):
    """A stride-2 convolution is every second output of the same convolution with stride 1."""
    layer = build("resnet20").get_layer("stage2_block1_conv1")
    pad = build("resnet20").get_layer("stage2_block1_conv1_pad")
    x = np.random.default_rng(0).normal(size=(1, 7, 8, 16)).astype("float32")
    dense = keras.ops.conv(x, layer.kernel, strides=1, padding="same")
    # float32, sums of 144 products of order one: about 144 roundings of 6e-8.
    np.testing.assert_allclose(layer(pad(x)), dense[:, ::2, ::2], rtol=1e-4, atol=1e-5)
