"""The demonstration model that the package carries: what `Codec.open()` takes where no bundle is named."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from glc.errors import BundleNotFound

BUNDLE_VARIABLE = "GLC_BUNDLE"
"""Environment variable that names another default."""


def default_bundle() -> Path:
    """Path of the bundle that GLC_BUNDLE names, else of the embedded one.

    Raises:
        BundleNotFound: neither is there.
    """
    named = os.environ.get(BUNDLE_VARIABLE)
    return Path(named) if named else _packaged("default_model/demo.glcb")


def default_weights() -> Path:
    """Path of the weights that the embedded bundle was exported from.

    Raises:
        BundleNotFound: this is an installed package, which does not carry them.
    """
    path = Path(str(files("glc"))) / "default_model" / "weights.safetensors"
    if not path.is_file():
        raise BundleNotFound(
            f"{path} is missing: installed packages do without these weights; take a checkout of glc-deploy"
        )
    return path


def packaged_photos() -> list[Path]:
    """Paths of the photographs that `glc demo` shows and `glc-export` calibrates on; the first is for the demo.

    Raises:
        BundleNotFound: the installation is incomplete.
    """
    return [_packaged(f"photos/{name}.png") for name in ("coffee", "chelsea", "astronaut")]


def _packaged(name: str) -> Path:
    path = Path(str(files("glc"))) / name
    if not path.is_file():
        raise BundleNotFound(f"{path} is missing from the installation: install glc-deploy again")
    return path
