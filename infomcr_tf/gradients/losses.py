"""Which loss the per-example gradients are of: what the argument `loss` means.

"auto" is the cross-entropy of one softmax over K >= 2 classes, computed in closed form by `Head`,
and refused where the model was compiled with another loss. Everything else is a `LossHead`.
"""

import hashlib
from types import CodeType
from typing import Any

import keras

from infomcr_tf.gradients.head import HOW_TO_PASS, Head
from infomcr_tf.gradients.loss_head import LossHead
from infomcr_tf.gradients.output_losses import FunctionLoss, as_loss, map_leaves

_CROSS_ENTROPIES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
)
_CROSS_ENTROPY_FUNCTIONS = (
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.categorical_crossentropy,
)


def make_head(
    model: keras.Model,
    loss: Any = "auto",
    *,
    loss_weights: Any = None,
    normalize_logits: float | None = None,
    equalize_loss: float | None = None,
) -> Head | LossHead:
    """Returns what turns outputs of a model into losses and their gradients.

    Args:
        model: the model. It may wrap another one, if it is it that was compiled.
        loss: "auto": the cross-entropy of K >= 2 logits, or of a softmax. "compiled": the losses
            and weights given to `compile`. A Keras loss, its name, or a list or dict of these for
            the outputs of the model: an example's loss is what Keras computes for a batch of this
            example alone. A function `(y, y_pred) -> [n]`, of all outputs together. A head is
            returned as it is.
        loss_weights: a list or dict of numbers for the outputs, as in `compile`.
        normalize_logits: see `Head`.
        equalize_loss: see `Head`.

    Raises:
        TypeError: if `loss` is nothing of this.
        ValueError: if "auto" is not the loss that the model was compiled with, "compiled" is used
            without any, or an argument needs classes and the loss has none.
    """
    if isinstance(loss, (Head, LossHead)):
        return loss
    if isinstance(loss, str) and loss == "compiled":
        loss, loss_weights = compiled_loss(model), _compiled_weights(model)
        # `compile` applies a function of one's own to every output, and takes the mean.
        loss = map_leaves(as_loss, loss)
        if loss is None:
            raise ValueError(
                '`loss="compiled"` needs a model that was compiled with a loss. '
                "Received: a model without one"
            )
    if isinstance(loss, str) and loss == "auto":
        _check_compiled(model)
        if loss_weights is not None:
            raise ValueError('`loss_weights` needs a `loss`. Received: loss="auto"')
        return Head(
            normalize_logits, equalize_loss, needs_softmax=_needs_softmax(compiled_loss(model))
        )
    if loss_weights is None and _is_cross_entropy_of_logits(loss, model):
        return Head(normalize_logits, equalize_loss, trusted=True)
    for name, value in (("normalize_logits", normalize_logits), ("equalize_loss", equalize_loss)):
        if value is not None:
            raise ValueError(
                f"`{name}` acts on the logits of a softmax over classes: it must be None with this "
                f'`loss`, or `loss="auto"`. Received: {name}={value!r}, loss={describe(loss)}'
            )
    return LossHead(loss, loss_weights, getattr(_inner(model), "output_names", None))


def compiled_loss(model: keras.Model) -> Any:
    """The `loss` that a model was compiled with; None where there is none."""
    return getattr(model, "loss", None) if getattr(model, "compiled", False) else None


def smoothing_of(model: keras.Model) -> float:
    """The label smoothing of the loss that a model was compiled with, which "auto" leaves out."""
    loss = _only(compiled_loss(model))
    return float(getattr(loss, "_fn_kwargs", {}).get("label_smoothing", 0.0))


def _inner(model: keras.Model) -> keras.Model:
    """The model that a wrapper trains; others as they are."""
    inner = getattr(model, "model", None)
    return inner if isinstance(inner, keras.Model) else model


def _compiled_weights(model: keras.Model) -> Any:
    return getattr(getattr(model, "_compile_loss", None), "_user_loss_weights", None)


def describe(loss: Any) -> str:
    """A loss in words, for messages and reports."""
    if isinstance(loss, dict):
        return "{" + ", ".join(f"{key}: {describe(one)}" for key, one in loss.items()) + "}"
    if isinstance(loss, (list, tuple)):
        return "[" + ", ".join(map(describe, loss)) + "]"
    if isinstance(loss, keras.losses.Loss) and not isinstance(loss, FunctionLoss):
        try:
            config = {k: v for k, v in loss.get_config().items() if k not in ("name", "fn")}
        except Exception:  # a loss of the user's own that cannot be serialised
            config = {}
        return f"{type(loss).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"
    if loss is None or isinstance(loss, str):
        return str(loss)
    code = getattr(loss, "__code__", None)
    if code is not None:  # two functions of one name are two losses
        digest = hashlib.blake2b(_code_text(code).encode(), digest_size=4).hexdigest()
        return f"{loss.__qualname__} (code {digest})"
    return getattr(loss, "name", type(loss).__name__)


def _code_text(code: CodeType) -> str:
    """What a function does, as text; the same in every process."""
    constants = [_code_text(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return repr((code.co_code, code.co_names, constants))


def _check_compiled(model: keras.Model) -> None:
    loss = _only(compiled_loss(model))
    if loss is not None and not _is_cross_entropy(loss):
        raise ValueError(
            '`loss="auto"` is the cross-entropy of one softmax over K >= 2 classes. Received: a '
            f"model compiled with {describe(loss)}. {HOW_TO_PASS}"
        )


def _only(loss: Any) -> Any:
    """The one loss in a list or dict of one."""
    leaves = list(loss.values()) if isinstance(loss, dict) else loss
    return leaves[0] if isinstance(leaves, (list, tuple)) and len(leaves) == 1 else loss


def _is_cross_entropy(loss: Any) -> bool:
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, _CROSS_ENTROPIES):
        config = loss.get_config()
        return config.get("ignore_class") is None and config.get("axis", -1) == -1
    return loss in _CROSS_ENTROPY_FUNCTIONS


def _needs_softmax(loss: Any) -> bool:
    """Whether the loss takes probabilities: then a model without softmax was trained on others."""
    loss = _only(loss)
    if isinstance(loss, keras.losses.Loss):
        return not loss.get_config().get("from_logits", False)
    return loss is not None


def _is_cross_entropy_of_logits(loss: Any, model: keras.Model) -> bool:
    """Whether `Head` computes this loss, more accurately than `LossHead`."""
    outputs: Any = getattr(_inner(model), "outputs", None)
    return (
        isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        and _is_cross_entropy(loss)
        and not _needs_softmax(loss)
        and bool(outputs)
        and len(outputs) == 1
        and len(outputs[0].shape) == 2
        and outputs[0].shape[1] != 1
    )
