"""TensorRT and TensorRT for RTX: which of the two is there, and what both share. Only trt*.py import them.

Both have one API; TensorRT for RTX compiles for another device than the one at hand, or with none at hand, and finishes
its kernels when an engine is first run.
"""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

from glc.errors import EngineUnavailable

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"

LIBRARIES = (TENSORRT, TENSORRT_RTX)
"""In the order in which they are looked for."""

_INSTALL = {
    TENSORRT: "pip install tensorrt",
    TENSORRT_RTX: "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}

# Package with the shared library, which must be loaded first -> package with the bindings.
_PACKAGES = {
    TENSORRT: ((None, "tensorrt"),),
    TENSORRT_RTX: ((None, "tensorrt_rtx"), ("tensorrt_rtx_libs", "tensorrt_rtx_bindings")),
}

_FIGURE = re.compile(r"Total (Weights|Activation) Memory: (\d+) bytes")


def library(name: str) -> ModuleType:
    """Import one of `LIBRARIES`.

    Raises:
        EngineUnavailable: it is not installed, or its shared library cannot be loaded.
    """
    reasons = []
    for libraries, bindings in _PACKAGES[name]:
        try:
            if libraries is not None:
                importlib.import_module(libraries)
            return importlib.import_module(bindings)
        except ModuleNotFoundError as error:
            reasons.append(str(error))
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineUnavailable(f"{name} is installed and cannot be loaded: {error}") from error
    raise EngineUnavailable(f"{name} is not installed ({reasons[-1]}); run: {_INSTALL[name]}")


def version(name: str) -> str:
    """Full version of a library, such as `1.7.1.116`; engines load under no other."""
    return str(library(name).__version__)


class Messages:
    """What a library logged: errors for ours to quote, and the sizes that it tells when it builds."""

    def __init__(self, trt: ModuleType) -> None:
        self.errors: list[str] = []
        self.bytes: dict[str, int] = {}
        """`Weights`, `Activation` -> bytes."""
        self.logger = _logger(trt, self)

    def take(self, severe: bool, text: str) -> None:
        """Keep a message."""
        if severe:
            self.errors.append(text)
        elif found := _FIGURE.search(text):
            self.bytes[found[1]] = int(found[2])

    def said(self) -> str:
        """The first error in one line."""
        first = self.errors[0] if self.errors else "it gave no reason"
        return " ".join(first.split())


def _logger(trt: ModuleType, messages: Messages) -> Any:
    severe = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined] # a class of a module chosen at run time
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, text: str) -> None:
            messages.take(severity in severe, text)

    return Logger()
