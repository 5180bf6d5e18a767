"""
Measure a fine-tuned transformer
================================

A BERT from KerasHub, small and with random weights so that nothing has to be downloaded, is fine-tuned to tell two kinds
of sentences apart, and its minimum is measured. With ``from_preset`` in the place of the constructor the rest is the same.
"""

# %%
# Sentences of 12 tokens out of 50, of two kinds: those of kind 1 hold token 7 before token 8.

import keras
import keras_hub
import numpy as np

from infomcr_tf import characterize

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)
tokens = generator.integers(10, 50, size=(256, 12))
labels = generator.integers(2, size=256)
for sentence, label in zip(tokens, labels, strict=True):
    first, second = sorted(generator.choice(12, size=2, replace=False))
    sentence[[first, second]] = (7, 8) if label else (8, 7)

x = {
    "token_ids": tokens.astype("int32"),
    "segment_ids": np.zeros((256, 12), "int32"),
    "padding_mask": np.ones((256, 12), "int32"),
}

# %%
# The backbone and a head. Dropout is inactive while the network is measured.

backbone = keras_hub.models.BertBackbone(
    vocabulary_size=50,
    num_layers=2,
    num_heads=2,
    hidden_dim=32,
    intermediate_dim=64,
    max_sequence_length=12,
    dropout=0.0,
)
logits = keras.layers.Dense(2, name="logits")(backbone.output["pooled_output"])
classifier = keras.Model(backbone.input, logits)
classifier.compile(
    keras.optimizers.Adam(2e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = classifier.fit(x, labels, batch_size=32, epochs=30, verbose=0)
print(
    f"training accuracy {history.history['accuracy'][-1]:.3f}, loss {history.history['loss'][-1]:.4f}"
)

# %%
# ``characterize`` takes inputs as ``fit`` does: here a dictionary of arrays. The robustness is left out: tokens have no
# derivative.

report = characterize(
    classifier,
    x,
    labels,
    num_trials=10,
    num_samples=32,
    progress=False,
    metrics=["gamma_hat", "spectral_radius", "frobenius_norm", "trace", "rank"],
)
print(report)

# %%

report.plot()

# %%
# With the backbone frozen, only the head's weights are differentiated. Their gradients have 66 numbers, but those of the
# two logits are opposite, so that at most 33 of an example's directions are independent. With N' = 32 most samples are
# singular: gamma_hat is ``-inf``, and the report says in how many. Nothing is added to the diagonal to hide it.

backbone.trainable = False
head = characterize(
    classifier,
    x,
    labels,
    num_trials=10,
    num_samples=32,
    progress=False,
    metrics=["gamma_hat", "rank"],
)
print(head)

# %%
# A smaller N' has room enough. It makes another number: compare values of one N' only.

head = characterize(
    classifier,
    x,
    labels,
    num_trials=10,
    num_samples=12,
    progress=False,
    metrics=["gamma_hat", "rank"],
)
print(head)
