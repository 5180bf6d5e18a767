"""Loss and error of a model on un-augmented images."""

import keras
import numpy as np
from scipy.special import logsumexp

from infomcr_tf.data import Examples, Normalization, evaluation_dataset


def evaluate(
    model: keras.Model, examples: Examples, normalization: Normalization, *, batch_size: int = 256
) -> dict[str, float]:
    """Mean cross-entropy (natural logarithm, no weight decay) and error of `model`.

    Args:
        model: ends in logits [n, K]; evaluated in inference mode.
        examples: uint8 images and their labels; at least one.
        normalization: of the images.
        batch_size: images in memory at a time.

    Returns:
        `loss`, `error` (the fraction of wrong predictions) and `num_examples`.
    """
    dataset = evaluation_dataset(
        examples.images, examples.labels, batch_size=batch_size, normalization=normalization
    )
    logits = np.asarray(model.predict(dataset, verbose=0), np.float64)
    own = logits[np.arange(len(logits)), examples.labels]
    return {
        "loss": float(np.mean(logsumexp(logits, axis=1) - own)),
        "error": float(np.mean(np.argmax(logits, axis=1) != examples.labels)),
        "num_examples": len(logits),
    }
