"""Which examples form the sample S^t of trial t."""

import numpy as np


def sample_indices(
    num_examples: int, num_samples: int, trial: int, *, seed: int, in_stored_order: bool = False
) -> np.ndarray:
    """Draws the sample S^t: N' of the N examples, without replacement.

    A repeated example would make xi singular, so there is none within a sample; samples of
    different trials are independent. The sample depends on (seed, trial) alone: trials can be run
    in any order, on any device, and more of them can be added to a finished run.

    Args:
        num_examples: N.
        num_samples: N'.
        trial: t, from 0.
        seed: reproduces the samples.
        in_stored_order: take examples `t N', ..., (t + 1) N' - 1` instead, as the authors do.

    Returns:
        int64 [N'], the indices into S.
    """
    if in_stored_order:
        return np.arange(trial * num_samples, (trial + 1) * num_samples)
    generator = np.random.default_rng([seed, trial])
    return generator.choice(num_examples, num_samples, replace=False)
