"""Where the graph of a network uses its variables on examples.

Every tensor of the graph is one of three things: it holds examples along an axis, it depends on
variables alone (a *parameter*: the variable itself, its cast, a kernel with LoRA's product added),
or it depends on neither. A *use* is an operation that takes a parameter and gives something for
every example. The gradient of each example passes from the logits to the use's output by the
ordinary batched backward pass, and only there becomes one gradient an example.
"""

import math
from collections.abc import Container, Iterable
from typing import Any, NamedTuple

import tensorflow as tf

# What an operation may know of a tensor without its values.
_OF_SHAPE = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")
# The values of these, in their order, are those of their first input.
_SAME_VALUES = ("Identity", "Reshape", "ExpandDims", "Squeeze", "Cast")


class Use(NamedTuple):
    """An operation with a parameter and examples.

    Attributes:
        op: the operation.
        index: which of its inputs is the parameter.
        repeats: the rows that one example has along the first axis of the output.
        by_position: those rows are ordered by position first, then by example.
        parameter: the input that is the parameter, or an equal one computed earlier.
        variables: the indices of the variables that the parameter depends on.
    """

    op: tf.Operation
    index: int  # type: ignore[assignment]  # a tuple's method is not used
    repeats: int
    by_position: bool
    parameter: tf.Tensor
    variables: frozenset[int]


class _Kind(NamedTuple):
    """What a tensor is; for a parameter, of which variables."""

    examples: bool = False
    parameter: frozenset[int] = frozenset()
    of_shape: bool = False
    repeats: int = 1
    by_position: bool = False
    #: Numbers that an example has, where the static shape does not say how they lie.
    count: int | None = None  # type: ignore[assignment]  # a tuple's method is not used


def find_uses(
    operations: Iterable[tf.Operation], inputs: list[tf.Tensor], variables: list[tf.Tensor]
) -> tuple[list[Use], set[Any]]:
    """Returns the uses of variables among operations, and references to all parameters.

    Args:
        operations: those of the network, each after the operations it depends on.
        inputs: the network's inputs, examples along their first axis, which has no static length.
        variables: what stands for the variables in the graph.
    """
    kinds = {tensor.ref(): _Kind(examples=True) for tensor in inputs}
    for i, tensor in enumerate(variables):
        kinds[tensor.ref()] = _Kind(parameter=frozenset([i]))
    uses: list[Use] = []
    equal = _EqualParameters()
    for op in operations:
        given = [kinds.get(tensor.ref(), _Kind()) for tensor in op.inputs]
        parameters = {i: kind.parameter for i, kind in enumerate(given) if kind.parameter}
        examples = [kind for kind in given if kind.examples]
        for output in op.outputs:
            if output.ref() in kinds:
                continue
            kind = _Kind(of_shape=any(kind.of_shape for kind in given))
            if op.type in _OF_SHAPE:
                kind = _Kind(of_shape=bool(examples) or kind.of_shape)
            elif examples or (parameters and kind.of_shape and _without_length(output)):
                kind = _layout(op, examples or [_Kind(examples=True)], output)
            elif parameters:
                kind = _Kind(parameter=frozenset().union(*parameters.values()))
            kinds[output.ref()] = kind
            if kind.parameter:
                equal.add(output)
        if parameters and op.outputs and kinds[op.outputs[0].ref()].examples:
            kind = kinds[op.outputs[0].ref()]
            layout = (kind.repeats, kind.by_position)
            uses += [
                Use(op, i, *layout, equal.first(op.inputs[i]), variables)
                for i, variables in parameters.items()
            ]
    of_parameters = {reference for reference, kind in kinds.items() if kind.parameter}
    return [use for use in uses if use.op.outputs[0].dtype.is_floating], of_parameters


class _EqualParameters:
    """Finds parameters computed again in the same way, as by every step of a recurrent cell."""

    def __init__(self) -> None:
        self._first: dict[Any, tf.Tensor] = {}
        self._by_computation: dict[tuple, tf.Tensor] = {}

    def add(self, tensor: tf.Tensor) -> None:
        """Records a parameter; those it is computed from must have been added before."""
        op = tensor.op
        key = (op.type, str(op.node_def.attr), tensor.value_index, *map(self._value, op.inputs))
        self._first[tensor.ref()] = self._by_computation.setdefault(key, tensor)

    def first(self, tensor: tf.Tensor) -> tf.Tensor:
        """The earliest parameter that is equal to this one."""
        return self._first.get(tensor.ref(), tensor)

    def _value(self, tensor: tf.Tensor) -> Any:
        value = tf.get_static_value(tensor) if tensor.op.type == "Const" else None
        return self.first(tensor).ref() if value is None else (value.shape, value.tobytes())


def origin(parameter: tf.Tensor, variables: Container[Any]) -> tf.Tensor:
    """The tensor that a parameter has its values from, in the same order: a variable at the most.

    Args:
        parameter: the parameter.
        variables: references to what stands for the variables.
    """
    while parameter.ref() not in variables and parameter.op.type in _SAME_VALUES:
        before = parameter.op.inputs[0]
        if not before.dtype.is_floating:
            break
        parameter = before
    return parameter


def _without_length(tensor: tf.Tensor) -> bool:
    """Whether the length of the first axis is that of the examples: no other is unknown."""
    return tensor.shape.rank is None or (tensor.shape.rank > 0 and tensor.shape[0] is None)


def _layout(op: tf.Operation, examples: list[_Kind], output: tf.Tensor) -> _Kind:
    """How the examples lie in an output of an operation that some tensors with examples enter."""
    repeats = max(kind.repeats for kind in examples)
    by_position = any(kind.by_position for kind in examples)
    count = examples[0].count
    if op.type == "Reshape":
        before, after = op.inputs[0].shape, output.shape
        count = None if None in before[1:] else repeats * math.prod(before[1:])
        if None not in after[1:] and count and math.prod(after[1:]):
            repeats, count = max(1, count // math.prod(after[1:])), None
    elif op.type == "MatMul" and count is not None:
        inner = op.inputs[1].shape[1 if op.get_attr("transpose_b") else 0]
        repeats, count = (count // inner, None) if inner else (1, count)
    elif op.type == "SpaceToBatchND":
        block = tf.get_static_value(op.inputs[1])
        if block is not None:
            repeats, by_position = repeats * int(block.prod()), True
    elif op.type == "BatchToSpaceND":
        repeats, by_position = 1, False
    return _Kind(examples=True, repeats=repeats, by_position=by_position, count=count)
