"""What the package carries, and what only a checkout has."""

from __future__ import annotations

from pathlib import Path

import pytest

from glc.errors import BundleNotFound
from glc.runtime import default_model


def test_a_checkout_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(default_model.BUNDLE_VARIABLE, raising=False)
    for path in (default_model.default_bundle(), default_model.default_weights(), *default_model.packaged_photos()):
        assert path.is_file()


def test_the_environment_names_another_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(default_model.BUNDLE_VARIABLE, "/elsewhere/model.glcb")
    assert default_model.default_bundle() == Path("/elsewhere/model.glcb")


def test_an_installed_package_says_where_the_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(default_model, "files", lambda _: tmp_path)
    with pytest.raises(BundleNotFound, match="take a checkout"):
        default_model.default_weights()
    with pytest.raises(BundleNotFound, match="install glc-deploy again"):
        default_model.packaged_photos()
