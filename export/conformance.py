"""Cases that every engine must reproduce, from the integer reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from glc.engines import Array
from glc.export.exact_priors import ExactPriors
from glc.export.exact_program import CONTEXT
from glc.export.exact_reference import hyper_prior_results, spatial_prior_results

_CELLS = (3, 2)
"""z indices of a case: 12x8 positions of the latent are wider than all convolutions' reach together."""
_SPREAD = (1.0, 4.0, 200.0)
"""Mean magnitude of y_hat in the cases of parts 1 to 3: usual, wide, and far beyond all limits."""


def conformance_cases(priors: ExactPriors) -> dict[str, Mapping[str, Array]]:
    """Graph -> inputs and outputs.

    Part 1 is given the context of the case of the hyper prior, parts 2 and 3 one drawn over its whole range, which
    drives sums and clamps to their ends.
    """
    random = np.random.default_rng(0)
    entries, channels = priors.codebook.shape
    z_indices = random.integers(0, entries, (1, *_CELLS)).astype(np.int32)
    cases: dict[str, Mapping[str, Array]] = {
        "hyper_prior": {"z_indices": z_indices, **hyper_prior_results(priors, z_indices)}
    }
    shape = (1, channels, 4 * _CELLS[0], 4 * _CELLS[1])
    limit = priors.hyper.program.limits[CONTEXT]
    for part, spread in enumerate(_SPREAD, start=1):
        y_hat = np.rint(random.laplace(0, spread, shape) * 256).astype(np.float32) / np.float32(256)
        context = cases["hyper_prior"]["context"]
        if part > 1:
            context = random.integers(-limit, limit + 1, shape).astype(np.float32)
        results = spatial_prior_results(priors, part, y_hat, context)
        cases[f"spatial_prior_{part}"] = {"y_hat": y_hat, "context": context, **results}
    return cases
