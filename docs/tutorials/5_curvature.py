"""From a Keras model of your own to the spectral density of its Hessian, in about a minute.

python examples/spectral_density.py
"""

import keras

from infomcr_tf.curvature import (
    HessianOperator,
    layer_blocks,
    spectral_density,
    top_eigenvalues,
    trace,
)
from infomcr_tf.data import load_dataset

digits = load_dataset("digits")
x, y = digits.x_train[:300] / 255.0, digits.y_train[:300]

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10),  # logits
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.005), loss)
model.fit(x, y, batch_size=50, epochs=20, verbose=0)

# The Hessian of the mean loss over these images, never formed.
hessian = HessianOperator(model, x, y)
values, _ = top_eigenvalues(hessian, k=3)
whole = trace(hessian)
print(
    f"largest eigenvalues: {values.round(3)}; trace: {whole.value:.3f} ± {whole.standard_error:.3f}"
)

for name, block in layer_blocks(hessian).items():
    print(f"{name}: trace {trace(block, progress=False).value:.3f}")

spectral_density(hessian, num_steps=40).plot("spectral_density.png")
print("picture: spectral_density.png")
