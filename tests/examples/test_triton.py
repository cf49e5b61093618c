"""The codec behind a real Triton Inference Server, in the environment that `make triton-test` builds."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import DATA, load_image

import glc

EXAMPLE = Path(__file__).parents[2] / "examples" / "triton"
PHOTOS = sorted((DATA / "images").glob("*.png"))
PYTHON_VARIABLE = "GLC_TRITON_PYTHON"
"""Names the interpreter that has PyTriton; set, everything must work."""
MAX_PIXELS = 400_000
"""More than any photo has."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON_VARIABLE not in os.environ, reason="needs PyTriton: make triton-test"),
]


@dataclass(frozen=True)
class Server:
    """Where the server listens."""

    http_port: int
    grpc_port: int
    metrics_port: int

    @property
    def urls(self) -> tuple[str, str]:
        return f"http://127.0.0.1:{self.http_port}", f"grpc://127.0.0.1:{self.grpc_port}"

    def start_client(self, verb: str, files: list[Path], output: Path, *options: str) -> subprocess.Popen[str]:
        """One client process, over HTTP unless `--url` is among the options."""
        command = [_python(), str(EXAMPLE / "client.py"), verb, *map(str, files), "-o", str(output)]
        return subprocess.Popen(
            [*command, "--url", self.urls[0], *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ask(self, verb: str, files: list[Path], output: Path, *options: str) -> list[str]:
        """Run one client to its end; returns its lines of errors."""
        return _errors(self.start_client(verb, files, output, *options))


def _python() -> str:
    return os.environ[PYTHON_VARIABLE]


def _errors(client: subprocess.Popen[str]) -> list[str]:
    try:
        out, err = client.communicate(timeout=120)
    finally:
        client.kill()
    assert "Traceback" not in err, err
    assert out == ""
    assert client.returncode == (1 if err else 0), err
    return err.splitlines()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        assert response.status == 200
        return str(response.read().decode())


def _answers(port: int, path: str) -> bool:
    try:
        _get(port, path)
    except (urllib.error.URLError, OSError):
        return False
    return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers; it must end in order when it is told to."""
    found = Server(*_free_ports(3))
    folder = tmp_path_factory.mktemp("triton")
    log = folder / "log"
    command = [_python(), str(EXAMPLE / "server.py"), "--workers=2", f"--max-pixels={MAX_PIXELS}", "--max-batch=4"]
    command += [f"--http-port={found.http_port}", f"--grpc-port={found.grpc_port}"]
    command += [f"--metrics-port={found.metrics_port}", "--queue-delay-ms=50"]
    with log.open("wb") as file:
        environment = os.environ | {"PYTRITON_HOME": str(folder / "home")}  # else it works in the user's cache
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not all(_answers(found.http_port, f"/v2/models/{name}/ready") for name in ("glc_encode", "glc_decode")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield found
        process.terminate()
        assert process.wait(90) == 0, log.read_text()
        assert not _answers(found.http_port, "/v2/health/live")
        assert list((folder / "home").iterdir()) == []
    finally:
        process.terminate()  # Triton's own process ends with this one, and in order only so
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def direct() -> Iterator[glc.Codec]:
    """What the server has, in this process."""
    with glc.Codec.open(threads=1) as codec:
        yield codec


def test_clients_at_once_get_what_a_codec_gives_and_a_hostile_one_changes_nothing(
    server: Server, direct: glc.Codec, tmp_path: Path
) -> None:
    garbage = tmp_path / "garbage.png"
    garbage.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    qualities = {"0": "http", "1.5": "grpc", "3": "http"}
    clients = [
        server.start_client("encode", PHOTOS, tmp_path / quality, "--url", url, "--quality", quality)
        for quality, scheme in qualities.items()
        for url in server.urls
        if url.startswith(scheme)
    ]
    hostile = server.start_client("encode", [garbage] * 5, tmp_path / "hostile", "--url", server.urls[1])
    assert [_errors(client) for client in clients] == [[], [], []]
    assert _errors(hostile) == ["garbage.png: ImageUnreadable: not an image that Pillow can read, or damaged"] * 5
    assert list((tmp_path / "hostile").iterdir()) == []
    for quality in qualities:
        for photo in PHOTOS:
            made = (tmp_path / quality / f"{photo.stem}.glc").read_bytes()
            assert made == direct.encode(load_image(photo.name), float(quality)), (photo.name, quality)


def test_one_request_of_several_streams_tells_each_its_own_fate(
    server: Server, direct: glc.Codec, tmp_path: Path
) -> None:
    streams = {}
    for photo in PHOTOS[2:4]:
        streams[photo.stem] = direct.encode(load_image(photo.name))
        (tmp_path / f"{photo.stem}.glc").write_bytes(streams[photo.stem])
    first, second = (tmp_path / f"{stem}.glc" for stem in streams)
    cut, longer, other = tmp_path / "cut.glc", tmp_path / "longer.glc", tmp_path / "other.glc"
    cut.write_bytes(first.read_bytes()[:-40])
    longer.write_bytes(first.read_bytes() + bytes(3))  # zeros at the end, which some arrays of bytes would drop
    other.write_bytes(b"")
    for url in server.urls:
        output = tmp_path / url[:4]
        errors = server.ask("decode", [first, cut, longer, second], output, "--url", url, "--together", "4")
        assert [": ".join(error.split(": ")[:2]) for error in errors] == [
            "cut.glc: TruncatedBitstream",
            "longer.glc: CorruptBitstream",
        ], errors
        assert server.ask("decode", [other], output, "--url", url)[0].startswith("other.glc: ")
        assert sorted(path.stem for path in output.iterdir()) == sorted(streams)
        for stem, data in streams.items():
            with Image.open(output / f"{stem}.png") as image:
                np.testing.assert_array_equal(np.asarray(image), direct.decode(data))


def test_images_and_qualities_that_are_refused_say_why(server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.new("1", (1000, MAX_PIXELS // 1000 + 1)).save(large)
    assert server.ask("encode", [large], tmp_path / "out") == [
        f"large.png: ImageUnreadable: the image has 1000x401 pixels; the limit is {MAX_PIXELS}"
    ]
    for quality in ("7", "nan"):
        (error,) = server.ask("encode", PHOTOS[:1], tmp_path / "out", "--quality", quality)
        assert error.startswith(f"{PHOTOS[0].name}: ValueError: quality")


def test_health_and_metrics(server: Server, tmp_path: Path) -> None:
    assert _get(server.http_port, "/v2/health/ready") == ""
    before, asked = _served(server, "glc_encode"), PHOTOS[3:4] * 2
    assert server.ask("encode", asked, tmp_path) == []
    assert _served(server, "glc_encode") == before + len(asked)


def _served(server: Server, model: str) -> int:
    """Requests that the server counts as successful."""
    metrics = _get(server.metrics_port, "/metrics")
    found = re.search(rf'^nv_inference_request_success{{model="{model}",version="1"}} (\d+)$', metrics, re.MULTILINE)
    assert found, metrics
    return int(found[1])
