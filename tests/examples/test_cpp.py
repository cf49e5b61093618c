"""The C++ example builds without a warning, and what it says of itself is true."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def _require_tools() -> None:
    """Fail with what is missing: without a compiler nothing would be proved."""
    missing = [f"{tool} (apt-get install {tool})" for tool in ("cmake", "g++") if shutil.which(tool) is None]
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append(f"headers of {sys.base_prefix}'s Python (Debian: apt-get install python3-dev)")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        missing.append(f"libpython in {sys.base_prefix} (a Python that was configured with --enable-shared)")
    if missing:
        pytest.fail(f"the C++ example needs {', '.join(missing)}")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built (about 20 s)."""
    _require_tools()
    build = tmp_path_factory.mktemp("cpp")
    options = [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"]
    configure = ["cmake", "-S", str(ROOT / "examples" / "cpp"), "-B", str(build), *options]
    for command in (configure, ["cmake", "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "glc_embed"


def _run(program: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])  # the second imports what would take SIGINT
def test_buffers_threads_errors_and_signals(program: Path, engine: str) -> None:
    done = _run(program, GLC_ENGINE=engine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.removesuffix(": yes") for line in lines if line.endswith(": yes")] == [
        "numpy sees the memory of the C++ buffer",
        "padded and packed rows give one stream",
        "the images of all threads are equal",
        "the padding of rows is untouched",
        "the pixels are written",
        "Python left SIGINT alone",
        "at its end too",
    ]
    rest = "\n".join(line for line in lines if not line.endswith(": yes"))
    assert re.fullmatch(
        rf"engine: {engine} .*\n"
        r"stream: 300x200, \d+ bytes\n"
        r"cut stream: the bitstream was cut or damaged: .*\n"
        r"other file: NotABitstream: not a GLC bitstream: .*\n"
        r"mistake: quality must lie in 0\.\.3; got 99\.0\n"
        r"done",
        rest,
    ), rest


def test_what_is_missing_is_one_line_and_an_exit_code(program: Path) -> None:
    for done, expected in (
        (_run(program, "/no/such.glcb"), r"BundleNotFound: no bundle at /no/such\.glcb.*"),
        (_run(program, GLC_ENGINE="abacus"), r"EngineUnavailable: no engine is called 'abacus'.*"),
        (_run(program, GLC_PYTHON="/no/such/python"), r"no Python at /no/such/python: name bin/python of .*"),
    ):
        assert done.returncode == 1
        assert re.fullmatch(rf"glc_embed: error: {expected}\n", done.stderr), done.stderr
        assert "Traceback" not in done.stdout + done.stderr
