"""Whether the clean loss may be assembled from the sub-batches' losses."""

from typing import Any

import keras

DATA_TERMS = ("auto", "batch", "sub_batches")
# Layers whose output for one example depends on the others in the batch.
COUPLING_LAYERS = (keras.layers.BatchNormalization, keras.layers.MixUp, keras.layers.CutMix)
MEAN_REDUCTIONS = ("sum_over_batch_size", "mean")


def resolve_data_term(data_term: str, model: keras.Model, loss: Any, num_sub_batches: int) -> str:
    """Decides what "auto" means: "sub_batches" where both give the same loss, else "batch".

    Cautious: "batch" unless the model is made of Keras' own layers without activity regularisers,
        and
    either there is only one sub-batch, or no layer mixes examples (a frozen BatchNorm does not) and
    the loss is one of Keras', averaged over the batch. Dropout counts as not mixing: its masks are
    drawn anew, from the same distribution.

    Args:
        data_term: "auto", "batch" or "sub_batches".
        model: The model to be trained.
        loss: What was passed to `compile`, possibly nested.
        num_sub_batches: How many sub-batches a replica's batch is cut into.
    """
    if data_term != "auto":
        return data_term
    layers = list(model._flatten_layers())
    if synchronized_layers(model) or any(map(_may_add_losses, layers)):
        return "batch"
    if num_sub_batches == 1:
        return "sub_batches"
    mixes = any(isinstance(layer, COUPLING_LAYERS) and layer.trainable for layer in layers)
    losses = [one for one in keras.tree.flatten(loss) if one is not None]
    alike = not mixes and not _has_bare_operations(layers) and all(map(_is_plain_mean, losses))
    return "sub_batches" if alike else "batch"


def synchronized_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that share their batch statistics between replicas."""
    return [one for one in model._flatten_layers() if getattr(one, "synchronized", False)]


def _may_add_losses(layer: keras.layers.Layer) -> bool:
    """Whether a layer adds, or being the user's own code may add, a loss of its own."""
    own_code = not type(layer).__module__.startswith("keras.")
    has_own_code = own_code or isinstance(layer, keras.layers.Lambda)
    return has_own_code or layer.activity_regularizer is not None


def _has_bare_operations(layers: list[keras.layers.Layer]) -> bool:
    """Whether a functional model applies a `keras.ops` function, which may mix examples."""
    operations = [operation for layer in layers for operation in getattr(layer, "operations", [])]
    return not all(isinstance(operation, keras.layers.Layer) for operation in operations)


def _is_plain_mean(loss: Any) -> bool:
    if isinstance(loss, keras.losses.Loss):
        own = type(loss).__module__.startswith("keras.") and type(loss).__name__ in dir(
            keras.losses
        )
        return own and loss.reduction in MEAN_REDUCTIONS
    return isinstance(loss, str) or getattr(loss, "__module__", "").startswith("keras.")
