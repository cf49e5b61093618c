"""Options of `glc-export` that do not go together are told of before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import invoke

from glc.export.command import app


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bundle", "m.glcb"), "--bundle goes with --target"),
        (("--bundle", "m.glcb", "--target", "sm80", "--synthetic", "mini"), "--bundle goes with --target"),
        (("--synthetic", "mini"), "name the bundle to write"),
        (("--synthetic", "mini", "-o", "m.glcb", "--typical", "9x"), "expected height x width"),
        (("--bundle", "m.glcb", "--target", "sm80", "--typical", "99x99", "--largest", "64x64"), "larger than"),
        (("--into", "m.glcb"), "--into goes with --encoder, --decoder or --int8"),
        (
            ("--into", "m.glcb", "--encoder", "a=a.pth", "-o", "n.glcb"),
            "--into goes with --encoder, --decoder or --int8",
        ),
        (
            ("--into", "m.glcb", "--encoder", "a=a.pth", "--label", "x"),
            "--into goes with --encoder, --decoder or --int8",
        ),
        (("--bundle", "m.glcb", "--target", "sm80", "--encoder", "a=a.pth"), "--bundle goes with --target"),
        (("--into", "m.glcb", "--encoder", "restore.pth"), "expected NAME=FILE"),
        (("--into", "m.glcb", "--encoder", "a="), "expected NAME=FILE"),
        (("--into", "m.glcb", "--encoder", "default=a.pth"), "a name is at most 32 letters"),
        (("--into", "m.glcb", "--decoder", "../a=a.pth"), "a name is at most 32 letters"),
        (("--into", "m.glcb", "--decoder", "a=a.pth", "--decoder", "A=b.pth"), "a is given 2 times"),
        (("--into", "m.glcb", "--encoder", "a=a.pth", "--calibrate", "."), "--calibrate goes with --int8"),
        (("--bundle", "m.glcb", "--target", "sm80", "--int8"), "--bundle goes with --target"),
        (("--into", "m.glcb", "--int8", "-o", "n.glcb"), "--into goes with --encoder, --decoder or --int8"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(app, *arguments)
    assert result.exit_code == 2
    assert message in result.output
