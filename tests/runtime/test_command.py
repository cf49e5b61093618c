"""The command `glc` as people run it: what it prints, what it leaves behind and how it exits."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import DATA, load_image

import glc

PHOTO = DATA / "images" / "coffee_200x300.png"
PIXELS = load_image(PHOTO.name)


@dataclass(frozen=True)
class Run:
    """What came of one command."""

    status: int
    out: bytes
    err: str

    def failed(self, status: int = 1) -> str:
        """The one line that says why; nothing else may have been printed."""
        assert "Traceback" not in self.err
        assert self.out == b""
        lines = [line for line in self.err.splitlines() if line.strip()]
        if status == 1:
            assert len(lines) == 1, self.err
            assert lines[0].startswith("glc: error: ")
        assert self.status == status, self.err
        return lines[-1]

    def succeeded(self) -> str:
        """Standard output as text."""
        assert self.status == 0, self.err
        return self.out.decode()


def _environment(bundle: Path | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "GLC_BUNDLE"}
    return environment if bundle is None else environment | {"GLC_BUNDLE": str(bundle)}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """Run `glc` in an empty folder; `bundle` goes into its environment."""

    def call(*arguments: str | Path, stdin: bytes = b"", bundle: Path | None = None) -> Run:
        command = [sys.executable, "-m", "glc.runtime", *map(str, arguments)]
        done = subprocess.run(
            command, input=stdin, capture_output=True, cwd=tmp_path, env=_environment(bundle), timeout=120, check=False
        )
        return Run(done.returncode, done.stdout, done.stderr.decode())

    return call


@pytest.fixture(scope="module")
def stream(codec: glc.Codec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo, encoded by this process; commands read it with `--threads 2` as the codec has."""
    path = tmp_path_factory.mktemp("stream") / "photo.glc"
    path.write_bytes(codec.encode(PIXELS, 1))
    return path


def _read(data: bytes | Path) -> tuple[str | None, np.ndarray]:
    """Format and pixels of an image."""
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return image.format, np.asarray(image)


# What works


def test_one_process_encodes_and_another_decodes(
    run: Callable[..., Run], mini_bundle: Path, codec: glc.Codec, tmp_path: Path
) -> None:
    options = ("--bundle", mini_bundle, "--threads", 2)
    encoded = run("encode", PHOTO, "photo.glc", "-q", "1.5", *map(str, options))
    assert re.search(r"^photo\.glc: .*width 300, height 200, quality 1\.524, ", encoded.succeeded())
    data = (tmp_path / "photo.glc").read_bytes()
    assert data == codec.encode(PIXELS, 1.5)

    decoded = run("decode", "photo.glc", "photo.png", *map(str, options))
    assert decoded.succeeded() == decoded.err == ""
    kind, pixels = _read(tmp_path / "photo.png")
    assert kind == "PNG"
    np.testing.assert_array_equal(pixels, codec.decode(data))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.glc", "photo.png"]


def test_a_dash_is_standard_input_and_output_both_ways(
    run: Callable[..., Run], mini_bundle: Path, codec: glc.Codec, stream: Path
) -> None:
    encoded = run("encode", "-", "-", "--threads", "2", stdin=PHOTO.read_bytes(), bundle=mini_bundle)
    assert encoded.status == 0, encoded.err
    assert encoded.out == stream.read_bytes()
    assert "width 300" in encoded.err  # the report goes where it does not mix with the data

    decoded = run("decode", "-", "-", "--threads", "2", stdin=encoded.out, bundle=mini_bundle)
    assert decoded.status == 0, decoded.err
    kind, pixels = _read(decoded.out)
    assert kind == "PNG"
    np.testing.assert_array_equal(pixels, codec.decode(encoded.out))


def test_a_preview_can_be_had_of_a_cut_stream(
    run: Callable[..., Run], mini_bundle: Path, codec: glc.Codec, stream: Path, tmp_path: Path
) -> None:
    cut = stream.read_bytes()[:200]
    result = run("preview", "-", "preview.png", "--threads", "2", stdin=cut, bundle=mini_bundle)
    assert result.succeeded() == result.err == ""
    np.testing.assert_array_equal(_read(tmp_path / "preview.png")[1], codec.preview(cut))


def test_transparency_that_is_lost_is_told(run: Callable[..., Run], mini_bundle: Path, tmp_path: Path) -> None:
    half = np.full((20, 30, 1), 128, np.uint8)
    Image.fromarray(np.dstack([PIXELS[:20, :30], half])).save(tmp_path / "alpha.png")
    result = run("encode", "alpha.png", "alpha.glc", "--json", bundle=mini_bundle)
    assert json.loads(result.succeeded())["width"] == 30
    assert re.fullmatch(r"glc: alpha\.png: composited alpha on white\n", result.err)


def test_info_tells_of_bundles_and_streams_for_people_and_programs(
    run: Callable[..., Run], mini_bundle: Path, stream: Path
) -> None:
    text = run("info", stream).succeeded()
    assert "width 300" in text
    assert text.count("\n") == 1
    of_stream = json.loads(run("info", stream, "--json").succeeded())
    assert of_stream["kind"] == "bitstream"
    assert (of_stream["width"], of_stream["height"], of_stream["bytes"]) == (300, 200, stream.stat().st_size)
    of_bundle = json.loads(run("info", mini_bundle, "--json").succeeded())
    assert of_bundle["kind"] == "bundle"
    assert (of_bundle["qualities"], of_bundle["label"]) == (4, glc.Bundle.open(mini_bundle).manifest.label)
    assert "analysis" in of_bundle["graphs"]


def test_a_progressive_stream_is_asked_for_by_name(
    run: Callable[..., Run], stream: Path, mini_bundle: Path, codec: glc.Codec, tmp_path: Path
) -> None:
    Image.fromarray(PIXELS[:40, :70]).save(tmp_path / "small.png")
    options = ("--threads", "2", "--progressive")
    encoded = json.loads(run("encode", "small.png", "small.glc", *options, "--json", bundle=mini_bundle).succeeded())
    assert (encoded["version"], encoded["progressive"]) == (2, True)
    assert (tmp_path / "small.glc").read_bytes() == codec.encode(PIXELS[:40, :70], 1, progressive=True)
    assert json.loads(run("info", stream, "--json").succeeded())["progressive"] is False
    refused = run("encode", "small.png", "bare.glc", *options, "--bare", bundle=mini_bundle)
    assert refused.status == 2
    assert "leave out --bare" in refused.err


def test_info_of_standard_input_goes_to_standard_output(run: Callable[..., Run], stream: Path) -> None:
    result = run("info", "-", "--json", stdin=stream.read_bytes())
    assert json.loads(result.succeeded())["width"] == 300


def test_verify_says_that_a_bundle_is_intact(run: Callable[..., Run], mini_bundle: Path) -> None:
    assert re.search(r"13 graphs are intact on onnxruntime", run("verify", mini_bundle).succeeded())


def test_a_cut_stream_is_shown_on_request_and_told(
    run: Callable[..., Run], mini_bundle: Path, stream: Path, tmp_path: Path
) -> None:
    cut = stream.read_bytes()[:-20]
    result = run("decode", "-", "part.png", "--allow-partial", stdin=cut, bundle=mini_bundle)
    result.succeeded()
    share = re.search(r"([\d.]+) % of the symbols were there", result.err)
    assert share is not None
    assert 0 < float(share[1]) < 100
    assert _read(tmp_path / "part.png")[1].shape == (200, 300, 3)


def test_without_a_bundle_the_embedded_model_codes_and_is_named(run: Callable[..., Run], tmp_path: Path) -> None:
    Image.fromarray(PIXELS[:64, :96]).save(tmp_path / "small.png")
    encoded = run("encode", "small.png", "small.glc")
    assert "no bundle given: demonstration" in encoded.err
    assert run("decode", "small.glc", "back.png").succeeded() == ""
    assert _read(tmp_path / "back.png")[1].shape == (64, 96, 3)


def test_demo_prints_a_table_and_draws_a_sheet(run: Callable[..., Run], mini_bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(PIXELS[:64, :96]).save(tmp_path / "small.png")
    text = run("demo", "small.png", "-o", "sheet.png", bundle=mini_bundle).succeeded()
    rows = re.findall(r"small\.png .* 96x64 .* (\d) .* (\d+) .* (\d\.\d+) ", text)
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert "sheet.png" in text
    assert _read(tmp_path / "sheet-rd.png")[0] == "PNG"
    kind, pixels = _read(tmp_path / "sheet.png")
    assert kind == "PNG"
    assert pixels.shape[1] > 5 * 300  # the original, a preview and four qualities side by side
    assert len(np.unique(pixels)) > 100


def test_the_console_script_is_the_same_command(mini_bundle: Path) -> None:
    script = Path(sys.executable).with_name("glc")
    if not script.exists():
        pytest.skip("not installed with its scripts")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=120, check=True)
    for command in ("encode", "decode", "preview", "info", "verify", "demo"):
        assert command in done.stdout


# What does not


def _cut(data: bytes) -> bytes:
    return data[:-50]


def _flipped(data: bytes) -> bytes:
    return data[:100] + bytes((data[100] ^ 4,)) + data[101:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ("encode", PHOTO, "out", "-b", "missing.glcb"), r"no bundle at missing\.glcb", id="missing bundle"
        ),
        pytest.param(("encode", PHOTO, "out", "-b", "."), r"no manifest\.json", id="directory without manifest"),
        pytest.param(("decode", PHOTO, "out.png", "-b", "text.png"), r"text\.png", id="a file that is no bundle"),
    ],
)
def test_without_a_usable_bundle_one_line_says_so(
    arguments: tuple[str | Path, ...], message: str, run: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("only words")
    assert re.search(message, run(*arguments).failed())
    assert [path.name for path in tmp_path.iterdir()] == ["text.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("encode", "empty.png", "out"), r"empty\.png is empty", id="empty file"),
        pytest.param(("encode", "text.png", "out"), r"text\.png is not an image", id="text named .png"),
        pytest.param(("encode", "none.png", "out"), r"cannot read none\.png", id="missing file"),
        pytest.param(("encode", PHOTO, "none/out"), r"cannot write none/out", id="missing folder"),
        pytest.param(("encode", PHOTO, "photos"), r"photos", id="output is a folder"),
        pytest.param(("encode", PHOTO, "out", "--engine", "abacus"), r"'abacus'.*onnxruntime", id="unknown engine"),
        pytest.param(("encode", PHOTO, "out", "--max-pixels", "9"), r"300x200.*limit is 9", id="too many pixels"),
        pytest.param(("encode", PHOTO, "out", "--max-memory", "20M"), r"needs a memory limit of", id="little memory"),
        pytest.param(("decode", "empty.png", "out.png"), r"empty", id="empty stream"),
        pytest.param(("decode", PHOTO, "out.png"), r"not a GLC bitstream", id="an image as stream"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    arguments: tuple[str | Path, ...], message: str, run: Callable[..., Run], mini_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("only words")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "precious.jpg").touch()
    before = sorted(tmp_path.rglob("*"))
    assert re.search(message, run(*arguments, bundle=mini_bundle).failed())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_cut, r"cut or damaged", id="truncated"),
        pytest.param(_flipped, r"damaged", id="bit-flipped"),
    ],
)
def test_a_damaged_stream_is_refused_in_one_line_and_leaves_nothing(
    damage: Callable[[bytes], bytes],
    message: str,
    run: Callable[..., Run],
    mini_bundle: Path,
    stream: Path,
    tmp_path: Path,
) -> None:
    result = run("decode", "-", "out.png", "--threads", "2", stdin=damage(stream.read_bytes()), bundle=mini_bundle)
    assert re.search(message, result.failed())
    assert list(tmp_path.iterdir()) == []


def _altered_graph(bundle: Path) -> None:
    path = bundle / "graphs" / "synthesis.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def _other_model(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(re.sub(r'"model_id": "\w{8}', '"model_id": "abababab', path.read_text()))


def _newer_schema(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))


@pytest.mark.parametrize(
    ("change", "command", "message"),
    [
        pytest.param(_altered_graph, "decode", r"synthesis\.onnx.*altered", id="altered graph"),
        pytest.param(_altered_graph, "verify", r"synthesis\.onnx.*altered", id="altered graph, verified"),
        pytest.param(_newer_schema, "decode", r"schema 2.*upgrade", id="newer schema"),
        pytest.param(_other_model, "decode", r"abab", id="another model"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused_in_one_line_and_leaves_nothing(
    change: Callable[[Path], None],
    command: str,
    message: str,
    run: Callable[..., Run],
    mini_bundle: Path,
    stream: Path,
    tmp_path: Path,
) -> None:
    change(shutil.copytree(mini_bundle, tmp_path / "changed.glcb"))
    paths: tuple[str | Path, ...] = (
        ("changed.glcb",) if command == "verify" else (stream, "out.png", "-b", "changed.glcb")
    )
    assert re.search(message, run(command, *paths, "--threads", "2").failed())
    assert [path.name for path in tmp_path.iterdir()] == ["changed.glcb"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("encode", PHOTO, "out", "-q", "4"), r"quality must lie in 0\.\.3", id="quality out of range"),
        pytest.param(("encode", PHOTO, "out", "-q", "high"), r"--quality.*number", id="quality is no number"),
        pytest.param(("encode", PHOTO, "out", "--nonsense"), r"--nonsense", id="unknown option"),
        pytest.param(("decode", "missing.glc", "out.xyz"), r"\.xyz.*choose one of \.png", id="unknown ending"),
        pytest.param(
            ("decode", "missing.glc", "out.xbm"), r"\.xbm.*choose one of \.png", id="an ending that cannot hold colours"
        ),
        pytest.param(("encode", PHOTO), r"destination|DESTINATION", id="no destination"),
    ],
)
def test_a_mistake_in_the_call_exits_with_2_and_says_which(
    arguments: tuple[str | Path, ...], message: str, run: Callable[..., Run], mini_bundle: Path, tmp_path: Path
) -> None:
    assert re.search(message, run(*arguments, bundle=mini_bundle).failed(2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status", "moment"),
    [
        pytest.param(signal.SIGINT, 130, "reading", id="interrupted while it reads"),
        pytest.param(signal.SIGINT, 130, "computing", id="interrupted while it computes"),
        pytest.param(signal.SIGTERM, 143, "computing", id="terminated while it computes"),
    ],
)
def test_a_signal_ends_it_and_leaves_nothing(
    sent: signal.Signals, status: int, moment: str, mini_bundle: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "glc.runtime", "encode", str(pipe), "out.glc", "--threads", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=_environment(mini_bundle), text=True
    )
    try:
        with pipe.open("wb") as file:  # returns once the command has opened the other end: it is under way
            if moment == "computing":
                side = 1536  # seconds of work
                file.write(b"P6 %d %d 255\n" % (side, side) + np.resize(PIXELS, (side, side, 3)).tobytes())
                file.close()
                time.sleep(0.3)
            process.send_signal(sent)
            out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status
    assert out == ""
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(run: Callable[..., Run], mini_bundle: Path) -> None:
    for arguments in (("encode", PHOTO, "nowhere/a.glc"), ("decode", "missing.glc", "nowhere/a.png")):
        assert "there is no folder nowhere" in run(*arguments, bundle=mini_bundle).failed()


def test_the_version_is_that_of_the_package(run: Callable[..., Run]) -> None:
    assert run("--version").succeeded().split() == ["glc-deploy", glc.__version__]
