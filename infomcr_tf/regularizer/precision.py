"""Where the precision of a model is enough for the finite difference."""

import keras

LOW_PRECISION = ("float16", "bfloat16")


def check_precision(model: keras.Model, estimator: str) -> None:
    """Refuses a model that computes in fewer than 24 bits where alpha g_i would be lost.

    Casting `w - alpha g_i` to float16 or bfloat16 rounds the displacement away. "hessian_vector"
    has no displacement and works in bfloat16; in float16 the gradients underflow.

    Raises:
        ValueError: If a layer computes in a format too short for `estimator`.
    """
    allowed = ("bfloat16",) if estimator == "hessian_vector" else ()
    for layer in model._flatten_layers():
        if layer.compute_dtype in LOW_PRECISION and layer.compute_dtype not in allowed:
            raise ValueError(
                "The finite difference needs float32: in a shorter format the step `alpha * g` "
                "rounds to nothing. Use `keras.config.set_dtype_policy('float32')` before building "
                "the model, or `estimator='hessian_vector'` with 'mixed_bfloat16'. "
                f"Received: estimator={estimator!r} and layer {layer.name!r} computing in "
                f"{layer.compute_dtype}"
            )
