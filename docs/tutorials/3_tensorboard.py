"""
Follow gamma_hat in TensorBoard
===============================

``CharacterizeCallback`` measures the model while it is trained, and writes what TensorBoard shows.
"""

# %%

import tempfile

import keras

from infomcr_tf import CharacterizeCallback
from infomcr_tf.data import load_dataset

keras.utils.set_random_seed(0)
digits = load_dataset("digits")
x, y = digits.x_train[:300] / 255.0, digits.y_train[:300]
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
)
model.compile(
    keras.optimizers.SGD(0.05, momentum=0.9),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)

# %%
# The callback measures after every fifth epoch. It changes nothing in the training: neither weights nor random numbers.
# Its values appear in ``History`` too, so that ``CSVLogger`` and the like write them.

logs = tempfile.mkdtemp()
follow = CharacterizeCallback(
    x, y, every=5, metrics=["gamma_hat", "trace"], num_trials=5, num_samples=50, log_dir=logs
)
history = model.fit(x, y, batch_size=60, epochs=40, verbose=0, callbacks=[follow])
print({name: values[-1] for name, values in history.history.items()})

# %%
# ``tensorboard --logdir DIR`` shows the curves in a browser. What it reads can be read here as well:

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorflow import make_ndarray

events = EventAccumulator(str(next(Path(logs).rglob("events.*")).parent)).Reload()
for tag in events.Tags()["tensors"]:
    print(tag, [round(float(make_ndarray(e.tensor_proto)), 1) for e in events.Tensors(tag)])

# %%
# Raw gamma_hat falls with the training loss: gradients become small near the end of training, and gamma_hat is a sum of
# their logarithms. With ``equalize_loss=0.01`` (an argument that the callback passes on to ``characterize``), what is left
# is the geometry. Each report is kept, with the values of its samples:

from infomcr_tf import compare

comparison = compare(
    {f"epoch {epoch + 1}": follow.reports[epoch] for epoch in sorted(follow.reports)}
)
comparison.plot()
