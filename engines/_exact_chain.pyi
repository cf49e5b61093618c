import numpy as np
from numpy.typing import NDArray

def kernels() -> list[str]:
    """Names of the kernels that this processor computes: `plain`, `avx2`, `vnni` (of AVX-512), `amx`."""

def run(
    layers: NDArray[np.void], tensors: NDArray[np.void], height: int, width: int, threads: int, kernel: str, /
) -> None:
    """Compute layers in turn; see exact_chain.c for both tables.

    Raises:
        ValueError: no such kernel is here, or threads is not positive.
    """
