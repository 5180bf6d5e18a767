"""
The Hessian's spectrum of your own model
========================================

From a Keras model to the largest eigenvalues, the trace and the spectral density of the Hessian of its training loss,
whole and layer by layer.
"""

# %%
# A small network on scikit-learn's handwritten digits. Any Keras model will do.

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

# %%
# The Hessian of the mean loss over these images. It is never formed: what follows only multiplies it with vectors.

hessian = HessianOperator(model, x, y)
values, vectors = top_eigenvalues(hessian, k=3, progress=False)
print(hessian.shape, values)

# %%
# The trace is estimated from random vectors, and comes with its standard error.

whole = trace(hessian, num_probes=30, progress=False)
print(f"{whole.value:.4f} ± {whole.standard_error:.4f}")

# %%
# Which layer is it? The diagonal blocks have a trace and eigenvalues of their own.

for name, block in layer_blocks(hessian).items():
    top, _ = top_eigenvalues(block, progress=False)
    print(
        f"{name}: trace {trace(block, progress=False).value:.4f}, largest eigenvalue {top[0]:.4f}"
    )

# %%
# The density of all eigenvalues, on a logarithmic axis: nearly all lie close to zero, a few stand out.

density = spectral_density(hessian, num_steps=40, progress=False)
density.plot()
