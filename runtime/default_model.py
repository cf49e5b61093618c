"""The demonstration model that the package carries: what `Codec.open()` takes where no bundle is named."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from glc.errors import BundleNotFound

BUNDLE_VARIABLE = "GLC_BUNDLE"
"""Environment variable that names another default."""

_FOLDER = "default_model"


def default_bundle() -> Path:
    """Path of the bundle that GLC_BUNDLE names, else of the embedded one.

    Raises:
        BundleNotFound: neither is there.
    """
    named = os.environ.get(BUNDLE_VARIABLE)
    return Path(named) if named else _packaged("demo.glcb")


def default_photo() -> Path:
    """Path of the photograph that `glc demo` takes where none is given.

    Raises:
        BundleNotFound: the installation is incomplete.
    """
    return _packaged("coffee.png")


def _packaged(name: str) -> Path:
    path = Path(str(files("glc"))) / _FOLDER / name
    if not path.is_file():
        raise BundleNotFound(
            f"{path} is missing from the installation: install glc-deploy again, or name a bundle in {BUNDLE_VARIABLE}"
        )
    return path
