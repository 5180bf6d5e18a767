"""All variables that the next training step depends on."""

import itertools

import keras
import tensorflow as tf

# Under a strategy a metric and BatchNorm's moving averages differ between the replicas of one
# variable, so all that follows works on the replicas' own copies.


def build_metrics(model: keras.Model, batch: tuple[tf.TensorSpec, tf.TensorSpec]) -> None:
    """Makes the metrics' variables, which Keras else makes with the first batch.

    Args:
        model: compiled.
        batch: what (inputs, labels) look like.
    """
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=batch)


def model_variables(model: keras.Model) -> list[tf.Variable]:
    """Weights, moving averages, random seeds, and the optimizer's variables, of all replicas."""
    return _copies(model, [*model.variables, *model.optimizer.variables])


def metric_variables(model: keras.Model) -> dict[str, list[tf.Variable]]:
    """The running sums of each of the model's metrics, by its name, of all replicas."""
    return {metric.name: _copies(model, metric.variables) for metric in model.metrics}


def all_variables(model: keras.Model) -> list[tf.Variable]:
    """All variables of the model, its optimizer and its metrics, which must have been built."""
    of_metrics = itertools.chain.from_iterable(metric_variables(model).values())
    return [*model_variables(model), *of_metrics]


def variables_without(model: keras.Model, metric: str) -> list[tf.Variable]:
    """`all_variables` but for those of one of the compiled metrics."""
    compiled = model._compile_metrics.metrics
    own = [v for m in compiled if m.name == metric for v in _copies(model, m.variables)]
    return [v for v in all_variables(model) if not any(v is other for other in own)]


def _copies(model: keras.Model, variables: list[keras.Variable]) -> list[tf.Variable]:
    """This process's copies of the variables."""
    local = model.distribute_strategy.experimental_local_results
    return [copy for variable in variables for copy in local(variable.value)]
