import numpy as np
from numpy.typing import NDArray

def kernels() -> list[str]:
    """Names of the kernels that this processor computes: `plain` or `amx`, and `f16` or `bf16`; `avx2 f32`."""

def run(layers: NDArray[np.void], tensors: NDArray[np.void], threads: int, kernel: str, /) -> None:
    """Compute layers in turn; see conv_chain.c for both tables.

    Raises:
        OverflowError: an activation left the range of its type.
        ValueError: no such kernel is here, or threads is not positive.
    """
