"""A KerasHub backbone with dictionary inputs, fine-tuned with the penalty.

    pip install 'infomcr-tf[examples]'
    python examples/keras_hub_text.py

Small and with random weights: `BertBackbone.from_preset(...)` takes a pretrained one.
"""

import keras
import keras_hub
import numpy as np

from infomcr_tf import FisherRegularizedModel, characterize


def main():
    """Trains and measures a classifier of token sequences."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 30, size=(64, 8)).astype("int32")
    y = (tokens == 7).any(axis=1).astype("int32")
    x = {
        "token_ids": tokens,
        "segment_ids": np.zeros_like(tokens),
        "padding_mask": np.ones_like(tokens),
    }
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=8,
        dropout=0.0,
    )
    logits = keras.layers.Dense(2)(backbone.output["pooled_output"])
    network = keras.Model(backbone.input, logits)

    model = FisherRegularizedModel(network, beta=1.0, num_sub_batches=4)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=16, epochs=3, verbose=2)
    metrics = ["gamma_hat", "trace", "rank"]  # tokens have no derivative: no robustness
    print(characterize(network, x, y, num_trials=3, num_samples=20, metrics=metrics))


if __name__ == "__main__":
    main()
