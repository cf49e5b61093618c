"""What an install holds, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import glc

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

LEAN = ("numpy",)
FORBIDDEN = ("torch", "onnx", "safetensors", "onnxruntime", "typer", "rich", "PIL", "matplotlib")


def _loaded_modules(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")
    return set(result.stdout.split())


@pytest.mark.parametrize("module", ["glc", "glc.runtime", "glc.engines", "glc.errors"])
def test_the_runtime_imports_no_framework(module: str) -> None:
    loaded = _loaded_modules(f"import {module}")
    assert not loaded & set(FORBIDDEN)


def test_opening_a_codec_imports_its_engine_and_neither_torch_nor_onnx(mini_bundle: Path) -> None:
    loaded = _loaded_modules(f"import glc\nglc.Codec.open({str(mini_bundle)!r}).warm_up()")
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "onnx", "safetensors", "typer", "PIL"}


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_the_commands(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("glc/")}
        entry_points = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    packages = {"engines", "runtime", "export", "bench", "batch", "service"}
    expected = {f"glc/{folder}/{path.name}" for folder in packages for path in (ROOT / folder).glob("*.py")}
    expected |= {f"glc/{path.name}" for path in (ROOT / "src/glc").iterdir() if path.is_file()}
    expected |= {f"glc/{f}/{p.name}" for f in ("default_model", "photos") for p in (ROOT / "src/glc" / f).iterdir()}
    compiled = {"glc/engines/_conv_chain", "glc/engines/_exact_chain", "glc/runtime/_range_coder"}
    expected |= {f"{module}{suffix}" for module in compiled for suffix in (".abi3.so", ".pyi")} | {
        "glc/service/page.html"
    }
    assert held == expected - {"glc/default_model/weights.safetensors"}
    assert set(re.findall(r"^(\S+) =", entry_points, re.MULTILINE)) == {"glc", "glc-export", "glc-bench"}


def test_every_package_folder_is_linked_and_listed() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    links = {path.name for path in (ROOT / "src/glc").iterdir() if path.is_symlink()}
    assert listed == {"glc"} | {f"glc.{name}" for name in links}
    for name in links:
        assert (ROOT / "src/glc" / name).resolve() == ROOT / name


def test_the_lean_install_needs_numpy_alone() -> None:
    requirements = PROJECT["project"]["dependencies"]
    assert [re.split(r"[<>=]", requirement)[0] for requirement in requirements] == list(LEAN)


def test_the_extras_are_those_that_the_readme_names() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    of_engines = {"cpu", "openvino", "gpu", "rtx", "onnxruntime-gpu"}
    of_commands = {"cli", "batch", "ray", "serve", "export", "int8", "bench", "jxl", "perceptual"}
    assert extras == of_engines | of_commands | {"dev", "all"}


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("glc", "typer", "cli,cpu"),
        ("glc", "PIL", "cli,cpu"),
        ("glc_export", "torch", "export"),
        ("glc_bench", "onnx", "bench"),
    ],
)
def test_a_command_without_its_packages_says_which_extra_to_install(command: str, module: str, extra: str) -> None:
    script = f"import sys; sys.modules[{module!r}] = None; from glc import commands; commands.{command}()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert f"{module} is not installed" in line
    assert f"pip install 'glc-deploy[{extra}]'" in line


def test_public_names() -> None:
    assert set(glc.__all__) == {
        "BitstreamError",
        "Bundle",
        "BundleError",
        "Codec",
        "EngineError",
        "ExportError",
        "FileError",
        "GlcError",
        "PartialImage",
        "StreamInfo",
        "__version__",
        "inspect",
    }
    assert glc.__version__ == PROJECT["project"]["version"]
