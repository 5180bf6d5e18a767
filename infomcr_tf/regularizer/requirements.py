"""What the regulariser needs of a model and a loss; all else is refused in one line."""

from typing import Any

import keras
import tensorflow as tf

LOW_PRECISION = ("float16", "bfloat16")
# Methods by which a model says how it is trained, which its wrapper would leave out.
OWN_TRAINING = ("train_step", "test_step", "compute_loss", "compute_metrics")
SUMS = ("sum", "none", None)


def check_model(model: keras.Model, wrapper: type) -> None:
    """Raises unless `model` is a `keras.Model` that can be trained inside a wrapper.

    Raises:
        TypeError: If it is no `keras.Model`.
        ValueError: If it is a `wrapper` already, or trains in a way of its own.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a `keras.Model`. Received: {type(model).__name__}")
    if isinstance(model, wrapper):
        raise ValueError(
            f"`model` must not be wrapped: it is already a `{wrapper.__name__}`; wrap its `.model` "
            f"instead. Received: {type(model).__name__}"
        )
    own = [name for name in OWN_TRAINING if _is_overridden(type(model), name)]
    if own:
        raise ValueError(
            f"`model` must be trained by a loss given to `compile`: its own `{own[0]}` would not "
            "be called. Move what it computes into a loss, or into `call` with `add_loss`. "
            f"Received: {type(model).__name__}"
        )


def _is_overridden(model: type, method: str) -> bool:
    definer = next(base for base in model.__mro__ if method in vars(base))
    return not definer.__module__.startswith("keras.")


def is_precise_enough(dtype: str, estimator: str) -> bool:
    """Whether the penalty's gradient can be computed in a network of this dtype.

    Casting `w - alpha g_i` to float16 or bfloat16 rounds the displacement away. "hessian_vector"
    has no displacement and works in bfloat16; in float16 the gradients underflow.
    """
    return dtype not in LOW_PRECISION or (dtype == "bfloat16" and estimator == "hessian_vector")


def check_layers(model: keras.Model, estimator: str) -> None:
    """Refuses layers that cannot be evaluated in sub-batches or at displaced weights.

    Raises:
        ValueError: Naming a layer that is quantised or not `is_precise_enough`.
    """
    for layer in model._flatten_layers():
        quantized = getattr(layer.dtype_policy, "quantization_mode", None)
        if quantized is not None:
            raise ValueError(
                "`model` must not be quantized: in so short a format the step `alpha * g` rounds "
                "to nothing, and scales are no weights to take a gradient's norm of. Train the "
                f"model before `quantize`. Received: layer {layer.name!r} in {quantized}"
            )
        if not is_precise_enough(layer.compute_dtype, estimator):
            raise ValueError(
                "The finite difference needs float32: in a shorter format the step `alpha * g` "
                "rounds to nothing. Use `keras.config.set_dtype_policy('float32')` before building "
                "the model, or `estimator='hessian_vector'` with 'mixed_bfloat16'. "
                f"Received: estimator={estimator!r} and layer {layer.name!r} computing in "
                f"{layer.compute_dtype}"
            )
    for variable in model.trainable_variables:
        if variable.overwrite_with_gradient:
            raise ValueError(
                "`model` must not have variables that are overwritten with their gradient (as in "
                f"float8 training). Received: {variable.path!r}"
            )


def check_stateless(model: keras.Model) -> None:
    """Refuses to train recurrent layers that carry a state from batch to batch.

    Raises:
        ValueError: Naming the layer.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            raise ValueError(
                "`model` must not hold stateful recurrent layers, whose state is that of a whole "
                "batch: sub-batches have none. Use `stateful=False`. "
                f"Received: layer {layer.name!r}"
            )


def check_loss(loss: Any, data_term: str) -> None:
    """Refuses to compile without a loss, or with a sum over the batch made of its sub-batches.

    Args:
        loss: What was passed to `compile`, possibly nested.
        data_term: As the user asked for.
    """
    losses = [one for one in keras.tree.flatten(loss) if one is not None]
    if not losses:
        raise ValueError(
            f"`loss` must be given: the penalty is computed from it. Received: loss={loss}"
        )
    sums = [one.reduction for one in losses if getattr(one, "reduction", "mean") in SUMS]
    if sums and data_term == "sub_batches":
        raise ValueError(
            "`data_term` must be 'batch' or 'auto' with a loss that is not averaged over the "
            "batch, since the mean over the sub-batches is not its sum. "
            f"Received: data_term='sub_batches', reduction={sums[0]!r}"
        )


def check_outputs(outputs: list[Any], has_added_losses: bool) -> None:
    """Refuses to take L(B, w) from the sub-batches where their outputs do not make up the batch's.

    Args:
        outputs: The outputs and masks of one sub-batch, or their specifications.
        has_added_losses: Whether layers have added losses.
    """
    if has_added_losses:
        raise ValueError(
            "`data_term` must be 'batch' or 'auto' with `add_loss` or activity regularizers, which "
            "belong to the whole batch. Received: data_term='sub_batches'"
        )
    for one in outputs:
        if not isinstance(one, (tf.Tensor, tf.TensorSpec)) or one.shape.rank in (0, None):
            raise ValueError(
                "`data_term` must be 'batch' or 'auto' with a model whose outputs are not tensors "
                "with one row an example. "
                f"Received: data_term='sub_batches', an output {type(one).__name__} of shape "
                f"{one.shape}"
            )
