"""Runs that end early: killed, interrupted or refused; the same command goes on from there."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sqlite3
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.batch.conftest import (
    GLC,
    PHOTO,
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
from tests.runtime.bundle_files import add_stand_ins

import glc
from glc.runtime.default_model import default_bundle

COUNT = 36


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, int]:
    """Output -> number of the piece, of a folder, half of it in a tar file."""
    files = {tmp_path / f"photos/{n:02d}.png": image_bytes(n) for n in range(COUNT // 2)}
    write(files)
    write_tar(tmp_path / "photos/shard.tar", [(f"{n:02d}.png", image_bytes(n)) for n in range(COUNT // 2, COUNT)])
    first = {f"{n:02d}.glc": n for n in range(COUNT // 2)}
    return first | {f"shard/{n:02d}.glc": n for n in range(COUNT // 2, COUNT)}


def _require_all(out: Path, photos: dict[str, int], demo: glc.Codec) -> None:
    assert outputs(out) == {name: demo.encode(pixels(number), 1) for name, number in photos.items()}
    rows = table(out)
    assert {row["output"] for row in rows.values()} == set(photos)
    assert {row["status"] for row in rows.values()} == {"done"}
    assert {row["output"]: row["bytes"] for row in rows.values()} == {n: len(d) for n, d in outputs(out).items()}
    assert list((out / ".glc-batch/parts").iterdir()) == []


def test_a_batch_that_is_killed_at_any_moment_goes_on(
    photos: dict[str, int], demo: glc.Codec, tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [*GLC, "batch", "photos", "-o", "out", "--workers", "2", "--json"]
    moments = random.Random(9)
    for round_ in range(4):
        enough = round_ * COUNT // 5 + moments.randrange(1, 5)
        with started(command, cwd=tmp_path, env=environment) as process:
            wait_for_outputs(tmp_path / "out", enough, process)
            time.sleep(moments.random() / 50)
            process.send_signal(signal.SIGKILL)
            assert process.wait(60) == -signal.SIGKILL
        for data in outputs(tmp_path / "out").values():
            demo.decode(data)  # whole, or not there
    (tmp_path / "out/.glc-batch/parts/half-written").write_bytes(b"half")
    with started(command, cwd=tmp_path, env=environment) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["done"] + summary["there_before"] == COUNT
    _require_all(tmp_path / "out", photos, demo)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_what_was_done(
    sent: signal.Signals,
    status: int,
    batch: Callable[..., Run],
    photos: dict[str, int],
    demo: glc.Codec,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    Image.fromarray(PHOTO).resize((1536, 1536)).save(tmp_path / "photos/30.bmp")  # seconds of work
    command = [*GLC, "batch", "photos", "-o", "out", "--workers", "1"]
    with started(command, cwd=tmp_path, env=environment, preexec_fn=_with_interrupts) as process:
        wait_for_outputs(tmp_path / "out", 2, process)
        process.send_signal(sent)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (status, ""), err
    assert "Traceback" not in err
    if sent == signal.SIGINT:
        assert "interrupted; out keeps what was done: the same command goes on from there" in err
    assert not (tmp_path / "out/results.parquet").exists()
    made = len(outputs(tmp_path / "out"))
    assert 2 <= made < COUNT
    (tmp_path / "photos/30.bmp").unlink()
    summary = json.loads(batch("photos", "-o", "out", "--json").out)
    assert summary["done"] + summary["there_before"] == COUNT
    assert summary["there_before"] >= made - 2  # the last two may have been written, but not written down
    _require_all(tmp_path / "out", photos, demo)


def test_a_second_run_does_what_is_missing_alone(
    batch: Callable[..., Run], photos: dict[str, int], demo: glc.Codec, tmp_path: Path
) -> None:
    write({tmp_path / "photos/00.png": b"broken"})
    first = batch("photos", "-o", "out", "--json")
    assert first.status == 1
    (tmp_path / "out/01.glc").unlink()
    (tmp_path / "out/02.glc").write_bytes(b"short")
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in outputs(tmp_path / "out")}
    write({tmp_path / "photos/00.png": image_bytes(0), tmp_path / "photos/new.png": image_bytes(77)})
    second = batch("photos", "-o", "out", "--json")
    assert second.status == 0, second.err
    summary = json.loads(second.out)
    assert (summary["done"], summary["failed"], summary["there_before"]) == (4, 0, COUNT - 3)
    after = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in outputs(tmp_path / "out")}
    assert {name for name in after if after[name] != times.get(name)} == {"00.glc", "01.glc", "02.glc", "new.glc"}
    _require_all(tmp_path / "out", photos | {"new.glc": 77}, demo)


def test_a_name_that_was_given_stays_when_another_input_would_come_first(
    batch: Callable[..., Run], demo: glc.Codec, tmp_path: Path
) -> None:
    write({tmp_path / "photos/a.png": image_bytes(1)})
    assert batch("photos", "-o", "out").status == 0
    write({tmp_path / "photos/a.bmp": image_bytes(2, "BMP")})
    assert batch("photos", "-o", "out").status == 0
    assert outputs(tmp_path / "out") == {"a.glc": demo.encode(pixels(1), 1), "a.bmp.glc": demo.encode(pixels(2), 1)}


def test_other_settings_in_the_same_folder_are_refused(batch: Callable[..., Run], tmp_path: Path) -> None:
    write({tmp_path / "photos/a.png": image_bytes(1)})
    assert batch("photos", "-o", "out", "-q", "1").status == 0
    before = outputs(tmp_path / "out")
    for arguments, told in (
        (("-q", "2"), "quality 1 before, 2 now"),
        (("-b", Path(__file__).parent.parent / "golden/tiny.glcb"), r"model "),
        (("--decode",), "work encoding before, decoding now"),
    ):
        run = batch("photos", "-o", "out", *arguments)
        assert run.status == 1
        assert told in run.err
        assert "take another -o" in run.err
    assert outputs(tmp_path / "out") == before


def test_two_batches_do_not_share_a_folder(
    batch: Callable[..., Run], tmp_path: Path, environment: dict[str, str]
) -> None:
    write({tmp_path / "photos/a.png": image_bytes(1)})
    assert batch("photos", "-o", "out").status == 0
    other = sqlite3.connect(tmp_path / "out/.glc-batch/journal.sqlite", isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")  # as a batch holds it
        run = batch("photos", "-o", "out")
    finally:
        other.close()
    assert run.status == 1
    assert "another glc batch works in out" in run.err


def test_a_folder_keeps_its_encoder_and_its_decoder(batch: Callable[..., Run], tmp_path: Path) -> None:
    with zipfile.ZipFile(default_bundle()) as archive:
        archive.extractall(tmp_path / "model.glcb")
    add_stand_ins(tmp_path / "model.glcb")
    write({tmp_path / "photos/a.png": image_bytes(0)})
    coding = ("photos", "-o", "out", "-b", "model.glcb")
    assert batch(*coding, "--encoder", "restore").status == 0
    with glc.Codec.open(tmp_path / "model.glcb", threads=1) as codec:
        stream = codec.encode(pixels(0), 1, encoder="restore")
        styled = codec.decode(stream, decoder="scream")
    assert outputs(tmp_path / "out") == {"a.glc": stream}
    refused = batch(*coding)
    assert refused.status == 1
    assert "encoder" in refused.err
    assert batch(*coding, "--encoder", "scream").status == 2
    assert batch(*coding, "--decoder", "scream").status == 2
    assert batch("out", "-o", "back", "-b", "model.glcb", "--decode", "--encoder", "restore").status == 2
    assert batch("out", "-o", "back", "-b", "model.glcb", "--decode", "--decoder", "scream").status == 0
    with Image.open(tmp_path / "back/a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), styled)


def test_a_folder_of_progressive_streams_stays_one(batch: Callable[..., Run], demo: glc.Codec, tmp_path: Path) -> None:
    write({tmp_path / "photos/a.png": image_bytes(0)})
    assert batch("photos", "-o", "out", "--progressive").status == 0
    assert outputs(tmp_path / "out") == {"a.glc": demo.encode(pixels(0), 1, progressive=True)}
    assert "streams progressive before, none now" in batch("photos", "-o", "out").err
    assert batch("photos", "-o", "out", "--progressive").status == 0
    assert batch("out", "-o", "back", "--decode", "--progressive").status == 2


def test_a_journal_that_is_damaged_is_refused_in_a_line(batch: Callable[..., Run], tmp_path: Path) -> None:
    write({tmp_path / "photos/a.png": image_bytes(1), tmp_path / "out/.glc-batch/journal.sqlite": b"words" * 99})
    run = batch("photos", "-o", "out")
    assert run.status == 1
    assert "the journal of out is damaged" in run.err


def test_a_full_disk_ends_the_batch_and_is_no_failure_of_the_images(
    batch: Callable[..., Run], photos: dict[str, int], demo: glc.Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = os.fsync
    calls = iter(range(COUNT))

    def fsync(descriptor: int) -> None:
        if next(calls) >= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    run = batch("photos", "-o", "out", "--workers", "1")
    assert run.status == 1
    assert "No space left on device" in run.err
    assert len(outputs(tmp_path / "out")) == 5
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert batch("photos", "-o", "out").status == 0
    _require_all(tmp_path / "out", photos, demo)


def _with_interrupts() -> None:
    """A process that a shell starts in the background ignores them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
