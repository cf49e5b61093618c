"""`glc serve` as people run it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tests.service.conftest import PIXELS, packed

import glc

GLC = (sys.executable, "-c", "from glc import commands; commands.glc()")


@contextlib.contextmanager
def _started(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`glc serve` on a free port, and the port that it says; killed if it still runs behind the block."""
    command = [*GLC, "serve", "--port", "0", "--threads", "1", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = ""
            while (found := re.search(r"^glc: http://127\.0\.0\.1:(\d+) serves ", told, re.MULTILINE)) is None:
                line = process.stderr.readline()
                assert line, f"it ended: {told}"
                told += line
            yield process, int(found[1])
        finally:
            process.kill()


def _post(port: int, body: bytes) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/encode", body)
    return connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_when_it_says_so_and_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    image = packed(PIXELS)
    with _started("--workers", "1") as (process, port):
        with contextlib.closing(_post(port, image)) as connection:
            assert glc.inspect(connection.getresponse().read()).header.width == PIXELS.shape[1]
        with contextlib.closing(_post(port, packed(PIXELS.repeat(4, 0).repeat(4, 1)))) as connection:
            time.sleep(0.1)  # usually it is under way then; where it is not, it is served all the same
            process.send_signal(number)
            answer = connection.getresponse()
            assert (answer.status, glc.inspect(answer.read()).header.width) == (200, 4 * PIXELS.shape[1])
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out == ""
        assert err.splitlines()[-1] == "glc: stopped"
        assert "Traceback" not in err


def _failed(*arguments: str, status: int = 1) -> str:
    """The last line on stderr of a command that fails."""
    done = subprocess.run([*GLC, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()[-1]


def test_an_address_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert re.match(
            rf"glc: error: cannot listen on 127\.0\.0\.1, port {port}: ", _failed("serve", "--port", str(port))
        )
    assert _failed("serve", "--host", "no.such.host.invalid").startswith(
        "glc: error: cannot listen on no.such.host.inv"
    )


def test_options_out_of_range_are_usage_errors() -> None:
    for option in (("--workers", "0"), ("--max-queue", "-1"), ("--port", "65536"), ("--timeout", "0")):
        assert option[0] in _failed("serve", *option, status=2)


def test_without_its_extra_it_says_which_one_and_other_commands_work() -> None:
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(('fastapi', 'uvicorn', 'starlette', 'prometheus_client')))\n"
    )
    script = f"{blocked}from glc import commands; commands.glc()"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)

    refused = run("serve", "--port", "0")
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == ["glc: error: fastapi is not installed; run: pip install 'glc-deploy[serve]'"]
    assert "serve" in run("--help").stdout
    assert "--max-body" in run("serve", "--help").stdout


def test_help_imports_no_web_framework() -> None:
    script = (
        "import sys\nfrom glc import commands\nsys.argv = ['glc', '--help']\n"
        "try:\n    commands.glc()\nexcept SystemExit:\n    pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert "serve" in done.stdout
    assert not set(done.stderr.split()) & {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"}
