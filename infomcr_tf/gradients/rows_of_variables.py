"""From the gradients of operations' outputs to those of variables, for each example."""

from typing import Any

import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, Rows, dense_rows
from infomcr_tf.gradients.op_rules import RULES
from infomcr_tf.gradients.op_rules.layout import sum_of_calls
from infomcr_tf.gradients.uses import Use, origin


def by_op_rules(
    uses: list[Use],
    gradients: list[tf.Tensor],
    values: list[tf.Tensor],
    wanted: list[int],
    parameters: set[Any],
    n: tf.Tensor,
) -> dict[int, Block]:
    """The blocks of the variables all of whose uses have a rule that knows the case.

    Args:
        uses: all uses of variables.
        gradients: those of their outputs.
        values: what stands for the variables in the graph.
        wanted: the indices of the variables that blocks are wanted of.
        parameters: references to all tensors that depend on variables alone.
        n: the number of examples.
    """
    references = {value.ref(): i for i, value in enumerate(values)}
    groups: dict[tuple, list[tuple[Use, tf.Tensor]]] = {}
    for use, gradient in zip(uses, gradients, strict=True):
        source = origin(use.parameter, references)
        groups.setdefault(_kind_of_use(use, source), []).append((use, gradient))
    lost: set[int] = set()
    direct: dict[int, list[Block]] = {}
    derived: dict[Any, list[Block]] = {}
    for group in groups.values():
        use = group[0][0]
        if not use.variables & set(wanted) or use.variables & lost:
            continue
        block = _block([u for u, _ in group], [d for _, d in group])
        if block is None:
            lost |= use.variables
            continue
        source = origin(use.parameter, references).ref()
        if source in references:
            direct.setdefault(references[source], []).append(block)
        else:
            derived.setdefault(use.parameter.ref(), []).append(block)
    for index, rows in _pulled_back(derived, values, parameters).items():
        direct.setdefault(index, []).append(rows)
    for i in set(wanted) - lost - set(direct):  # variables that no example uses
        zeros = tf.zeros([n, values[i].shape.num_elements()], values[i].dtype)
        direct[i] = [Rows((zeros,))]
    return {i: _sum(direct[i]) for i in wanted if i not in lost}


def _kind_of_use(use: Use, source: tf.Tensor) -> tuple:
    """A key that is equal for uses of one parameter in one way, which a rule treats together."""
    shapes = tuple(
        (tuple(t.shape), t.dtype) for t in (*use.op.inputs, *use.op.outputs) if t.shape.rank
    )
    return (source.ref(), use.op.type, use.index, str(use.op.node_def.attr), shapes)


def _block(uses: list[Use], gradients: list[tf.Tensor]) -> Block | None:
    rule = RULES.get(uses[0].op.type)
    parameter = uses[0].parameter
    if rule is None or not parameter.shape.is_fully_defined():
        return None
    return rule(uses, gradients, parameter)


def _sum(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    rows = [dense_rows(block) for block in blocks]
    widest = max((r.dtype for r in rows), key=lambda dtype: dtype.size)  # casts come in between
    return sum_of_calls([[tf.cast(r, widest)] for r in rows])


def _pulled_back(
    derived: dict[Any, list[Block]], values: list[tf.Tensor], parameters: set[Any]
) -> dict[int, Block]:
    """From gradients of parameters computed from variables to those of the variables.

    What is computed from variables alone is the same for all examples, so it is differentiated
    once, with all examples' gradients side by side: simple steps directly, others vectorised by
    TensorFlow.
    """
    references = {value.ref(): i for i, value in enumerate(values)}
    found: dict[int, list[Block]] = {}
    left: dict[Any, list[Block]] = {}
    waiting = [(ref.deref(), dense_rows(_sum(blocks))) for ref, blocks in derived.items()]
    while waiting:
        parameter, rows = waiting.pop()
        source = origin(parameter, references)
        rows = tf.cast(rows, source.dtype)
        if source.ref() in references:
            found.setdefault(references[source.ref()], []).append(Rows((rows,)))
            continue
        step = _step(source, rows, parameters)
        if step is None:
            left.setdefault(source.ref(), []).append(Rows((rows,)))
        else:
            waiting += step
    for index, rows in _vectorised(left, values).items():
        found.setdefault(index, []).append(rows)
    return {index: _sum(blocks) for index, blocks in found.items()}


def _step(
    parameter: tf.Tensor, rows: tf.Tensor, parameters: set[Any]
) -> list[tuple[tf.Tensor, tf.Tensor]] | None:
    """The gradients [n, size] of the inputs of a simple operation; None for another."""
    op = parameter.op
    inputs = [i for i, tensor in enumerate(op.inputs) if tensor.ref() in parameters]
    if op.type == "Transpose":
        axes = tf.get_static_value(op.inputs[1])
        if axes is None:
            return None
        rows = tf.reshape(rows, [-1, *parameter.shape])
        back = [0, *(1 + list(axes).index(i) for i in range(len(axes)))]
        rows = tf.transpose(rows, back)
        return [(op.inputs[0], tf.reshape(rows, [-1, parameter.shape.num_elements()]))]
    if any(op.inputs[i].shape != parameter.shape for i in inputs):
        return None
    if op.type == "Neg":
        return [(op.inputs[0], -rows)]
    if op.type in ("AddV2", "Sub"):
        return [(op.inputs[i], -rows if op.type == "Sub" and i == 1 else rows) for i in inputs]
    if op.type == "Mul" and len(inputs) == 1:
        other = tf.broadcast_to(op.inputs[1 - inputs[0]], parameter.shape)
        return [(op.inputs[inputs[0]], rows * tf.reshape(other, [1, -1]))]
    return None


def _vectorised(derived: dict[Any, list[Block]], values: list[tf.Tensor]) -> dict[int, Block]:
    """The same for any computation, by `tf.vectorized_map` of its ordinary gradient."""
    if not derived:
        return {}
    parameters = [reference.deref() for reference in derived]
    rows = [dense_rows(_sum(blocks)) for blocks in derived.values()]
    connected = tf.gradients(parameters, values)
    targets = [i for i, g in enumerate(connected) if g is not None]

    def one(rows_of_one: list[tf.Tensor]) -> list[tf.Tensor]:
        gradients = [
            tf.cast(tf.reshape(row, p.shape), p.dtype)
            for row, p in zip(rows_of_one, parameters, strict=True)
        ]
        found = tf.gradients(parameters, [values[i] for i in targets], grad_ys=gradients)
        return [tf.reshape(tf.convert_to_tensor(g), [-1]) for g in found]

    if not targets:
        return {}
    found = tf.vectorized_map(one, rows, warn=False)
    sizes = [values[i].shape.num_elements() for i in targets]
    shaped = [tf.reshape(g, [-1, size]) for g, size in zip(found, sizes, strict=True)]
    return {i: Rows((rows,)) for i, rows in zip(targets, shaped, strict=True)}
