"""The command `glc-export` as people run it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tests.conftest import DATA, CommandExport, invoke
from tests.golden.make_streams import golden_model

from glc.export.command import app
from glc.runtime import Bundle

COMMAND = [sys.executable, "-m", "glc.export"]


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=600)


def test_a_checkpoint_becomes_a_bundle(mini_export: CommandExport) -> None:
    assert re.search(r"exact arithmetic on the 3 images of calibration: [+-]\d\.\d+% of rate", mini_export.out)
    assert "ignored 1 training-only tensors" in mini_export.err
    for column in ("graph", "parameters", "bytes", "largest float difference", "integers changed"):
        assert column in mini_export.out
    assert Bundle.open(mini_export.path).verify() > 20_000_000
    folder = mini_export.path.parent
    assert {path.name for path in folder.iterdir() if path.suffix != ".txt"} == {"mini.pth", "mini.glcb"}


def test_a_report_tells_of_every_layer(tmp_path: Path) -> None:
    save_file(golden_model().state_dict(), tmp_path / "tiny.safetensors")
    (tmp_path / "photos").mkdir()
    shutil.copy(DATA / "images" / "coffee_200x300.png", tmp_path / "photos")
    out, report = tmp_path / "tiny.glcb", tmp_path / "layers.json"
    where = ("--ckpt", tmp_path / "tiny.safetensors", "-o", out, "--calibrate", tmp_path / "photos")
    done = invoke(app, *where, "--container", "zip", "--no-tiles", "--report", report)
    assert done.exit_code == 0, done.output
    assert "exact arithmetic on the 1 images of calibration" in done.stdout
    assert {layer["part"] for layer in json.loads(report.read_text())["layers"]} == {0, 1, 2, 3}
    assert zipfile.is_zipfile(out)
    assert Bundle.open(out).manifest.label == "tiny.safetensors"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is not a checkpoint", id="empty"),
        pytest.param(b"weights? what weights?", "is not a checkpoint", id="text"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    done = _run("--ckpt", tmp_path / "model.pth", "-o", tmp_path / "model.glcb")
    assert (done.returncode, done.stdout) == (1, "")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert re.match(rf"glc-export: error: .*model\.pth {message}", lines[0])
    assert not (tmp_path / "model.glcb").exists()


def test_an_output_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    done = _run("--synthetic", "mini", "-o", tmp_path / "nowhere" / "model.glcb")
    assert done.returncode == 1
    assert "there is no folder" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="nothing to export"),
        pytest.param(("--synthetic", "mini", "--ckpt", "model.pth"), id="two things to export"),
        pytest.param(("--synthetic", "huge"), id="unknown configuration"),
        pytest.param(("--synthetic", "mini", "--arithmetic", "int4"), id="unknown arithmetic"),
        pytest.param(("--synthetic", "mini", "--attention-patch", "0"), id="no attention patch"),
        pytest.param(("--synthetic", "mini", "--attention-patch", "all"), id="unknown attention patch"),
    ],
)
def test_a_mistake_in_the_call_exits_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = _run(*arguments, "-o", tmp_path / "model.glcb")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupt_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    command = [*COMMAND, "--synthetic", "mini", "-o", str(tmp_path / "model.glcb")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not any(tmp_path.rglob("analysis.onnx")):  # the temporary bundle holds its first graph
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []
