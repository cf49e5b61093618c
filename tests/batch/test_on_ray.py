"""The same batch on a Ray cluster of this machine: same outputs, same table, same resumption."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from tests.batch.conftest import (
    GLC,
    Run,
    image_bytes,
    outputs,
    pixels,
    started,
    table,
    wait_for_outputs,
    write,
    write_tar,
)

import glc
from glc.batch import on_ray
from glc.batch.work import Decoding
from glc.runtime.default_model import default_bundle

pytestmark = pytest.mark.slow

RAY = ("--ray", "local", "--workers", "1")


@pytest.fixture
def ray_environment(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Ray's files where they can be removed, below a name that is short enough for its sockets."""
    folder = tempfile.mkdtemp(prefix="glc-ray-", dir="/tmp")
    yield environment | {"RAY_TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


def _run(arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> Run:
    """In a process group of its own, which Ray's processes belong to."""
    with started([*GLC, "batch", *arguments], cwd=folder, env=environment) as process:
        out, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    return Run(process.returncode, out, err)


def test_a_local_cluster_makes_the_same_files_and_goes_on_after_a_kill(
    demo: glc.Codec, tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    write({tmp_path / f"photos/{n}.png": image_bytes(n) for n in range(30)} | {tmp_path / "photos/bad.png": b"words"})
    write_tar(tmp_path / "photos/shard.tar", [(f"{n}.png", image_bytes(n)) for n in range(30, 60)])
    names = {f"{n}.glc": n for n in range(30)} | {f"shard/{n}.glc": n for n in range(30, 60)}
    command = ("photos", "-o", "out", *RAY, "--json")
    with started([*GLC, "batch", *command], cwd=tmp_path, env=ray_environment) as process:
        wait_for_outputs(tmp_path / "out", 5, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    run = _run(command, tmp_path, ray_environment)
    assert run.status == 1, run.err
    summary = json.loads(run.out)
    assert (summary["failed"], summary["done"] + summary["there_before"]) == (1, 60)
    assert outputs(tmp_path / "out") == {name: demo.encode(pixels(number), 1) for name, number in names.items()}
    rows = table(tmp_path / "out")
    assert len(rows) == 61
    bad = rows[str(tmp_path / "photos/bad.png")]
    assert (bad["status"], bad["error"], bad["output"]) == ("failed", "ImageUnreadable", None)
    assert list((tmp_path / "out/.glc-batch/parts").iterdir()) == []

    (tmp_path / "photos/bad.png").unlink()
    here = _run(("photos", "-o", "out", "--json"), tmp_path, ray_environment)  # nothing is left to do
    assert json.loads(here.out)["there_before"] == 60


def test_an_actor_that_cannot_work_says_why_in_a_row(tmp_path: Path) -> None:
    cluster = on_ray.Cluster("local", 1, str(default_bundle()), "onnxruntime", 1, "bf16", 9, None, "model")
    actor = on_ray._Actor(cluster, Decoding(".png"), str(tmp_path), str(tmp_path))
    (rows,) = actor(pa.table({}))
    (row,) = rows.to_pylist()
    assert (row["input"], row["error"]) == ("", "EngineUnavailable")
    assert "f32 only, not in bf16" in row["message"]


def test_a_cluster_that_is_not_there_is_told_in_a_line(tmp_path: Path, ray_environment: dict[str, str]) -> None:
    write({tmp_path / "a.png": image_bytes(1)})
    run = _run(("a.png", "-o", "out", "--ray", "auto"), tmp_path, ray_environment)
    assert run.status == 1
    assert "no Ray cluster at 'auto'" in run.err
