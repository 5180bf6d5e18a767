"""Networks of many kinds of layer for `gram.py`, with random examples."""

import keras
import numpy as np
from keras import layers

from infomcr_tf import models

NUM_CLASSES = 10


def _paper(name):
    return lambda: (getattr(models, name)(), "images")


def _images(side, *body):
    head = [layers.GlobalAveragePooling2D(), layers.Dense(NUM_CLASSES)]
    return keras.Sequential([keras.Input((side, side, 3)), *body, *head]), "images"


def _attention_block(h, width, heads, mask=None):
    normal = layers.LayerNormalization()(h)
    h = h + layers.MultiHeadAttention(heads, width // heads)(normal, normal, attention_mask=mask)
    wide = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(h))
    return h + layers.Dense(width)(wide)


class Positions(layers.Layer):
    """A class token in front, and learned positions."""

    def build(self, shape):
        """Makes the variables."""
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
        self.positions = self.add_weight(shape=(shape[1] + 1, shape[-1]), name="positions")

    def call(self, x):
        """Returns the tokens."""
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(x)[0], 1, x.shape[-1]))
        return keras.ops.concatenate([token, x], axis=1) + self.positions


def vit(width=128, blocks=6):
    """Patches of 4 x 4 of images of 32 x 32, six blocks of four heads."""
    images = keras.Input((32, 32, 3))
    h = layers.Reshape((64, width))(layers.Conv2D(width, 4, strides=4)(images))
    h = Positions()(h)
    for _ in range(blocks):
        h = _attention_block(h, width, 4)
    return keras.Model(images, layers.Dense(NUM_CLASSES)(h[:, 0])), "images"


def bert(width=128, blocks=4):
    """64 tokens of 8,000, with a mask where the sentence has ended."""
    tokens = keras.Input((64,), dtype="int32")
    mask = keras.ops.not_equal(tokens, 0)[:, None, :]
    h = layers.LayerNormalization()(layers.Embedding(8000, width)(tokens))
    for _ in range(blocks):
        h = _attention_block(h, width, 4, mask)
    return keras.Model(tokens, layers.Dense(NUM_CLASSES)(h[:, 0])), "tokens"


def _recurrent(layer):
    def build():
        body = [layer(64, return_sequences=True), layer(64)]
        return keras.Sequential([keras.Input((50, 32)), *body, layers.Dense(NUM_CLASSES)]), "series"

    return build


def conv_lstm():
    """Eight frames of 16 x 16."""
    body = [layers.ConvLSTM2D(16, 3, return_sequences=True), layers.ConvLSTM2D(16, 3)]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(NUM_CLASSES)]
    return keras.Sequential([keras.Input((8, 16, 16, 3)), *body, *head]), "series"


def separable():
    """Four separable convolutions with BatchNorm."""
    body = []
    for filters, strides in ((32, 1), (64, 2), (128, 2), (128, 1)):
        body.append(layers.SeparableConv2D(filters, 3, strides=strides, padding="same"))
        body += [layers.BatchNormalization(), layers.ReLU()]
    return _images(32, *body)


def transposed():
    """Down by convolutions, up by transposed ones, with PReLU."""
    body = []
    for convolution, filters in (
        (layers.Conv2D, 32),
        (layers.Conv2D, 64),
        (layers.Conv2DTranspose, 32),
        (layers.Conv2DTranspose, 16),
    ):
        body += [convolution(filters, 3, strides=2, padding="same"), layers.PReLU()]
    return _images(32, *body)


def lora():
    """The transformer of `bert`, its Dense layers adapted with rank 4, all else frozen."""
    model, kind = bert()
    for layer in model.layers:
        layer.trainable = isinstance(layer, layers.Dense)
        if isinstance(layer, layers.Dense):
            layer.enable_lora(4)
    return model, kind


def _application(name, side):
    def build():
        application = getattr(keras.applications, name)
        arguments = {"weights": None, "classes": NUM_CLASSES, "classifier_activation": None}
        return application(input_shape=(side, side, 3), **arguments), "images"

    return build


MODELS = {
    **{name: _paper(name) for name in ("cnn", "resnet20", "wrn28_2", "densenet_bc_100_12")},
    "vit": vit,
    "bert": bert,
    "lora": lora,
    "separable": separable,
    "transposed": transposed,
    "lstm": _recurrent(layers.LSTM),
    "gru": _recurrent(layers.GRU),
    "simple_rnn": _recurrent(layers.SimpleRNN),
    "conv_lstm": conv_lstm,
    "xception": _application("Xception", 96),
    "convnext_tiny": _application("ConvNeXtTiny", 64),
    "densenet121": _application("DenseNet121", 64),
}


def make(name):
    """A model and a function that gives n examples and their labels."""
    keras.utils.set_random_seed(0)
    model, kind = MODELS[name]()
    shape = model.inputs[0].shape[1:]

    def examples(n):
        rng = np.random.default_rng(0)
        y = rng.integers(NUM_CLASSES, size=n)
        if kind == "tokens":
            ends = rng.integers(shape[0] // 2, shape[0] + 1, size=(n, 1))
            tokens = rng.integers(1, 8000, size=(n, *shape))
            return np.where(np.arange(shape[0]) < ends, tokens, 0).astype(np.int32), y
        return rng.normal(size=(n, *shape)).astype(np.float32), y

    return model, examples
