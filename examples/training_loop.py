"""A training loop of one's own with `fisher_penalty`.

python examples/training_loop.py
"""

import keras
import tensorflow as tf

from infomcr_tf import fisher_penalty
from infomcr_tf.data import load_dataset

BETA = 10.0


def main():
    """L(B, w) + beta R_alpha(B, w), step by step."""
    keras.utils.set_random_seed(0)
    digits = load_dataset("digits")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        penalty, further = fisher_penalty(model, x, y, loss=loss_fn, num_sub_batches=4)
        optimizer.apply_gradients(
            (g + BETA * p, w)
            for g, p, w in zip(gradients, further, model.trainable_variables, strict=True)
        )
        return loss, penalty

    batches = (
        tf.data.Dataset.from_tensor_slices((digits.x_train[:300] / 255.0, digits.y_train[:300]))
        .shuffle(300, seed=0)
        .batch(60, drop_remainder=True)
    )
    for epoch in range(5):
        for x, y in batches:
            loss, penalty = step(tf.cast(x, tf.float32), y)
        print(f"epoch {epoch + 1}: loss {float(loss):.4f}, penalty {float(penalty):.3g}")


if __name__ == "__main__":
    main()
