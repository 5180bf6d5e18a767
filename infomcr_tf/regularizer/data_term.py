"""Whether the clean loss may be assembled from the sub-batches' losses."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

DATA_TERMS = ("auto", "batch", "sub_batches")
MEAN_REDUCTIONS = ("sum_over_batch_size", "mean")

# Layers that are known to treat every example alone, to assign nothing in training, and to add no
# losses; of exactly these classes, for a subclass may do anything.
_SAFE_LAYERS_NAMES = """
Activation AdditiveAttention AlphaDropout Attention Add Average AveragePooling1D
AveragePooling2D AveragePooling3D Bidirectional Concatenate Conv1D Conv1DTranspose Conv2D
Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D
Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dropout ELU Embedding EinsumDense Flatten GRU
GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
GroupNormalization GroupQueryAttention Identity InputLayer LSTM LSTMCell LayerNormalization
LeakyReLU MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum MultiHeadAttention Multiply
PReLU Permute RMSNormalization RNN ReLU RepeatVector Rescaling Reshape SeparableConv1D
SeparableConv2D SimpleRNN SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D
SpatialDropout3D StackedRNNCells Subtract TimeDistributed UnitNormalization UpSampling1D
UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
_SAFE_LAYERS = {keras.Sequential} | {getattr(layers, name) for name in _SAFE_LAYERS_NAMES.split()}
# Losses that give each example a value of its own, whose mean they take.
_SAFE_LOSSES_NAMES = """
BinaryCrossentropy BinaryFocalCrossentropy CategoricalCrossentropy CategoricalFocalCrossentropy
CategoricalGeneralizedCrossEntropy CategoricalHinge CosineSimilarity Hinge Huber KLDivergence
LogCosh MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredError
MeanSquaredLogarithmicError Poisson SparseCategoricalCrossentropy SquaredHinge
"""
_SAFE_LOSSES = {getattr(keras.losses, name) for name in _SAFE_LOSSES_NAMES.split()}
_SAFE_FUNCTIONS_NAMES = """
binary_crossentropy binary_focal_crossentropy categorical_crossentropy
categorical_focal_crossentropy categorical_generalized_cross_entropy categorical_hinge
cosine_similarity hinge huber kl_divergence log_cosh mean_absolute_error
mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error poisson
sparse_categorical_crossentropy squared_hinge
"""
_SAFE_FUNCTIONS = {getattr(keras.losses, name) for name in _SAFE_FUNCTIONS_NAMES.split()}


def resolve_data_term(
    data_term: str,
    model: keras.Model,
    loss: Any,
    num_sub_batches: int,
    batch: tuple[Any, Any, Any],
) -> str:
    """Decides what "auto" means: "sub_batches" where both give the same loss, else "batch".

    By a list of what is safe. "sub_batches" takes Keras' own layers (no BatchNorm unless it is
    frozen, no masks, no states), joined by layers alone, with outputs of one row an example; Keras'
    losses of single examples, averaged over the batch; and a batch of tensors, whose weights are
    one an example. Where there is only one sub-batch, any loss and BatchNorm are safe too. Dropout
    is safe: its masks are drawn anew, from the same distribution.

    Args:
        data_term: "auto", "batch" or "sub_batches".
        model: The model to be trained.
        loss: What was passed to `compile`, possibly nested.
        num_sub_batches: How many sub-batches a replica's batch is cut into.
        batch: `(x, y, sample_weight)`.
    """
    if data_term != "auto":
        return data_term
    whole = num_sub_batches == 1
    if not all(_is_safe_layer(layer, whole) for layer in model._flatten_layers()):
        return "batch"
    if whole:
        return "sub_batches"
    losses = [one for one in keras.tree.flatten(loss) if one is not None]
    safe = all(map(_is_safe_loss, losses)) and _treats_rows_alone(model)
    return "sub_batches" if safe and _is_safe_batch(model, batch) else "batch"


def synchronized_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that share their batch statistics between replicas."""
    return [one for one in model._flatten_layers() if getattr(one, "synchronized", False)]


def _is_safe_layer(layer: keras.layers.Layer, whole: bool) -> bool:
    if type(layer) is layers.BatchNormalization:
        return not layer.synchronized if whole else not layer.trainable
    return (
        (type(layer) in _SAFE_LAYERS or _is_functional(layer))
        and "call" not in vars(layer)
        and layer.activity_regularizer is None
        and not getattr(layer, "mask_zero", False)
        and getattr(layer, "noise_shape", None) is None
        and _are_own_activations(layer)
    )


def _is_functional(layer: keras.layers.Layer) -> bool:
    """Whether a model was made by `keras.Model(inputs, outputs)`, not by a class of one's own."""
    own = type(layer)
    return (own.__module__, own.__name__) == ("keras.src.models.functional", "Functional")


def _are_own_activations(layer: keras.layers.Layer) -> bool:
    used = [getattr(layer, name, None) for name in ("activation", "recurrent_activation")]
    known = [None, *vars(keras.activations).values()]
    return all(any(one is other for other in known) for one in used)


def _treats_rows_alone(model: keras.Model) -> bool:
    """Whether nothing in a model but layers acts, and none of them along the batch.

    Of `keras.ops` functions anything may come. `axis=-1` is the batch's where a tensor has no other
    (`keras.Input(())`), `axis=-2` where it has two.
    """
    parts = list(model._flatten_layers())
    graphs = [getattr(part, "_functional", part) for part in parts]
    operations = [one for graph in graphs for one in getattr(graph, "operations", [])]
    if not all(isinstance(one, layers.Layer) for one in operations):
        return False
    seen = set(map(id, operations))
    hidden = [axis for part in parts if id(part) not in seen for axis in _axes_of(part)]
    if any(axis == 0 or axis < -1 for axis in hidden):
        return False
    for one in operations:
        for tensor in (t for node in one._inbound_nodes for t in node.input_tensors):
            rank = len(tensor.shape)
            if rank < 2 or any(axis % rank == 0 for axis in _axes_of(one)):
                return False
    outputs = _outputs(model)
    return bool(outputs) and all(len(one.shape) >= 2 for one in outputs)


def _axes_of(layer: keras.layers.Layer) -> list[int]:
    """The axes over which a layer reduces or joins."""
    return [axis for axis in keras.tree.flatten(getattr(layer, "axis", None)) if axis is not None]


def _outputs(model: keras.Model) -> list[Any]:
    return getattr(getattr(model, "_functional", model), "outputs", None) or []


def _is_safe_loss(loss: Any) -> bool:
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if not isinstance(loss, keras.losses.Loss):
        return any(loss is function for function in _SAFE_FUNCTIONS)
    options = getattr(loss, "_fn_kwargs", {})
    return (
        type(loss) in _SAFE_LOSSES
        and "call" not in vars(loss)
        and loss.reduction in MEAN_REDUCTIONS
        and options.get("axis", -1) == -1
        and options.get("ignore_class") is None
    )


def _is_safe_batch(model: keras.Model, batch: tuple[Any, Any, Any]) -> bool:
    """Whether all are tensors of one row an example, and weights multiply one value an example."""
    x, y, sample_weight = batch
    rows = [leaf for leaf in tf.nest.flatten((x, y)) if leaf is not None]
    if not all(isinstance(leaf, tf.Tensor) and leaf.shape.rank for leaf in rows):
        return False
    weights = [leaf for leaf in tf.nest.flatten(sample_weight) if leaf is not None]
    one_each = all(w.shape.rank == 1 or w.shape[1:].as_list() == [1] for w in weights)
    return not weights or (one_each and all(len(one.shape) == 2 for one in _outputs(model)))
