"""Models of KerasHub, with random weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.gradients import GradientEngine

hub = pytest.importorskip("keras_hub")
pytestmark = pytest.mark.slow

NUM_CLASSES = 3
_TRANSFORMER = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}


def _tokens(num_examples, length=10, vocabulary=40):
    rng = np.random.default_rng(0)
    padding = np.arange(length) < rng.integers(4, length + 1, size=(num_examples, 1))
    tokens = rng.integers(1, vocabulary, size=(num_examples, length))
    return {"token_ids": np.where(padding, tokens, 0), "padding_mask": padding.astype(int)}


def _images(num_examples, side=16):
    return np.random.default_rng(0).normal(size=(num_examples, side, side, 3)).astype("float32")


def bert(num_examples):
    backbone = hub.models.BertBackbone(vocabulary_size=40, max_sequence_length=10, **_TRANSFORMER)
    model = hub.models.BertTextClassifier(backbone, num_classes=NUM_CLASSES)
    x = _tokens(num_examples)
    return model, {**x, "segment_ids": np.zeros_like(x["token_ids"])}


def gpt2(num_examples):
    backbone = hub.models.GPT2Backbone(vocabulary_size=40, max_sequence_length=10, **_TRANSFORMER)
    last = keras.layers.Dense(NUM_CLASSES)(backbone.output[:, -1])
    return keras.Model(backbone.input, last), _tokens(num_examples)


def vit(num_examples):
    backbone = hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    logits = keras.layers.Dense(NUM_CLASSES)(backbone.output[:, 0])
    return keras.Model(backbone.input, logits), _images(num_examples)


def resnet(num_examples):
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    logits = keras.layers.Dense(NUM_CLASSES)(pooled)
    return keras.Model(backbone.input, logits), _images(num_examples)


@pytest.mark.parametrize("make", [bert, gpt2, vit, resnet])
def test_models_of_keras_hub(make):
    keras.utils.set_random_seed(0)
    model, x = make(5)
    y = np.random.default_rng(1).integers(NUM_CLASSES, size=5)
    engine = GradientEngine(model)
    actual = engine.gram(x, y)
    assert engine.without_rule == []
    rows = []
    for j in range(5):
        with tf.GradientTape() as tape:
            one = keras.tree.map_structure(lambda leaf, j=j: leaf[j : j + 1], x)
            logits = model(one, training=False)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y[j : j + 1], logits)
        found = tape.gradient(
            loss,
            [v.value for v in model.trainable_variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        rows.append(np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in found]))
    rows = np.stack(rows).astype(float)
    expected = rows @ rows.T
    np.testing.assert_allclose(actual.xi, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_causal_language_model_with_its_loss():
    """GPT-2, whose output embedding is the transpose of its input embedding."""
    keras.utils.set_random_seed(0)
    backbone = hub.models.GPT2Backbone(vocabulary_size=40, max_sequence_length=10, **_TRANSFORMER)
    model = hub.models.GPT2CausalLM(backbone)
    x = _tokens(5)
    y = np.roll(x["token_ids"], -1, axis=1)

    def loss(y, logits):
        of_tokens = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        return tf.reduce_mean(of_tokens, axis=-1)

    rows = []
    for j in range(5):
        with tf.GradientTape() as tape:
            one = keras.tree.map_structure(lambda leaf, j=j: leaf[j : j + 1], x)
            value = loss(y[j : j + 1], model(one, training=False))
        found = tape.gradient(value, [v.value for v in model.trainable_variables])
        dense = [np.ravel(tf.convert_to_tensor(part).numpy()) for part in found]
        rows.append(np.concatenate(dense).astype(np.float64))
    expected = np.array(rows) @ np.array(rows).T
    engine = GradientEngine(model, loss=loss)
    actual = engine.gram(x, y)
    np.testing.assert_allclose(actual.xi, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
