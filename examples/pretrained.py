"""A network of keras.applications with frozen BatchNorm: a new head, trained with the penalty.

    python examples/pretrained.py

Weights are random here, so that nothing is downloaded: take `weights="imagenet"` in earnest.
"""

import keras
import numpy as np

from infomcr_tf import FisherRegularizedModel, characterize


def main():
    """Freezes the backbone, trains the rest, measures the minimum."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 255, size=(64, 32, 32, 3)).astype(np.float32)
    y = generator.integers(3, size=64)
    x[np.arange(64), :, :, y] += 100  # the class is a colour

    backbone = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), alpha=0.35, include_top=False, pooling="avg", weights=None
    )
    for layer in backbone.layers:  # before `compile`; fine-tune the last block, but no BatchNorm
        layer.trainable = layer.name.startswith("block_16") and not isinstance(
            layer, keras.layers.BatchNormalization
        )
    inputs = keras.Input((32, 32, 3))
    features = backbone(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs), training=False)
    network = keras.Model(inputs, keras.layers.Dense(3)(features))

    model = FisherRegularizedModel(network, beta=10.0, num_sub_batches=4)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    before = [np.array(w) for w in backbone.non_trainable_variables]
    model.fit(x, y, batch_size=16, epochs=3, verbose=2)
    after = backbone.non_trainable_variables
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    print(characterize(network, x, y, num_trials=3, num_samples=20, metrics=["gamma_hat", "rank"]))


if __name__ == "__main__":
    main()
