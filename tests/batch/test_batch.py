"""`glc batch` on every kind of input, and what it makes of those that are wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.batch.conftest import GLC, Run, image_bytes, outputs, pixels, started, table, write, write_tar

import glc
from glc.runtime.default_model import default_bundle


def test_a_folder_is_mirrored_and_every_photograph_has_a_row(
    batch: Callable[..., Run], demo: glc.Codec, tmp_path: Path
) -> None:
    write(
        {
            tmp_path / "photos/a.png": image_bytes(1),
            tmp_path / "photos/deep/er/b.PNG": image_bytes(2),
            tmp_path / "photos/notes.txt": b"passed over",
            tmp_path / "photos/.hidden.png": b"passed by",
        }
    )
    run = batch("photos", "-o", "out", "-q", "1.5", "--json")
    assert run.status == 0, run.err
    summary = json.loads(run.out)
    assert (summary["done"], summary["failed"], summary["passed_over"]) == (2, 0, 1)
    made = outputs(tmp_path / "out")
    assert made == {"a.glc": demo.encode(pixels(1), 1.5), "deep/er/b.glc": demo.encode(pixels(2), 1.5)}
    assert summary["bytes"] == sum(map(len, made.values()))
    row = table(tmp_path / "out")[str(tmp_path / "photos/a.png")]
    assert row.pop("milliseconds") > 0
    assert row.pop("bpp") == pytest.approx(8 * len(made["a.glc"]) / (48 * 64))
    assert row.pop("quality") == pytest.approx(glc.inspect(made["a.glc"]).header.quality)
    assert row == {
        "input": str(tmp_path / "photos/a.png"),
        "output": "a.glc",
        "width": 64,
        "height": 48,
        "bytes": len(made["a.glc"]),
        "status": "done",
        "error": None,
        "message": None,
        "sha256": hashlib.sha256(made["a.glc"]).hexdigest(),
    }


def test_inputs_of_every_kind_go_into_one_folder(batch: Callable[..., Run], demo: glc.Codec, tmp_path: Path) -> None:
    write(
        {
            tmp_path / "one/a.png": image_bytes(0),
            tmp_path / "two/a.png": image_bytes(1),
            tmp_path / "many/x/b.png": image_bytes(2),
            tmp_path / "many/x/b.txt": b"no match",
            tmp_path / "single.dat": image_bytes(3, "WEBP"),
        }
    )
    write_tar(tmp_path / "shard-00.tar", [("k1.png", image_bytes(4)), ("k1.json", b"{}"), ("d/k2.png", image_bytes(5))])
    binary = pa.table({"jpg": [image_bytes(6), None], "name": ["cats/c6.png", "c7"]})
    pq.write_table(binary, tmp_path / "binary.parquet")
    run = batch(
        *("one", "two", "many/**/*.png", "single.dat", "shard-00.tar", "binary.parquet"),
        *("--column", "jpg", "--key", "name", "-o", "out"),
    )
    assert run.status == 1
    assert "1 failed" in run.err
    with Image.open(tmp_path / "single.dat") as webp:
        lossy = np.asarray(webp)
    expected = {"one/a.glc": 0, "two/a.glc": 1, "x/b.glc": 2, "shard-00/k1.glc": 4, "shard-00/d/k2.glc": 5}
    expected["binary/cats/c6.glc"] = 6
    streams = {name: demo.encode(pixels(number), 1) for name, number in expected.items()}
    assert outputs(tmp_path / "out") == streams | {"single.glc": demo.encode(lossy, 1)}
    rows = table(tmp_path / "out")
    failed = rows.pop(f"{tmp_path}/binary.parquet#000000001")
    assert (failed["status"], failed["error"]) == ("failed", "ImageUnreadable")
    assert "no bytes in row 1" in failed["message"]
    assert f"{tmp_path}/shard-00.tar/d/k2.png" in rows
    assert len(rows) == 7


def test_hugging_face_rows_are_named_by_their_path_or_number(
    batch: Callable[..., Run], demo: glc.Codec, tmp_path: Path
) -> None:
    images = [
        {"bytes": image_bytes(0), "path": "n01/first.png"},
        {"bytes": image_bytes(1), "path": None},
        {"bytes": None, "path": "elsewhere.png"},
        {"bytes": image_bytes(3), "path": "n01/first.png"},
    ]
    column = pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": column, "label": [0, 1, 2, 3]}), tmp_path / "train.parquet", row_group_size=2)
    run = batch("train.parquet", "-o", "out")
    assert run.status == 1
    made = outputs(tmp_path / "out")
    assert made.pop("train/n01/first.glc") == demo.encode(pixels(0), 1)
    assert made.pop("train/n01/first.png.glc") == demo.encode(pixels(3), 1)
    assert made == {"train/000000001.glc": demo.encode(pixels(1), 1)}


def test_what_batch_made_batch_decodes(batch: Callable[..., Run], demo: glc.Codec, tmp_path: Path) -> None:
    write({tmp_path / "photos/a.png": image_bytes(1), tmp_path / "photos/b/c.png": image_bytes(2)})
    assert batch("photos", "-o", "coded").status == 0
    (tmp_path / "coded/cut.glc").write_bytes((tmp_path / "coded/a.glc").read_bytes()[:-9])
    run = batch("coded", "--decode", "-o", "back", "--json")
    assert run.status == 1
    assert json.loads(run.out)["failed"] == 1
    made = outputs(tmp_path / "back")
    assert sorted(made) == ["a.png", "b/c.png"]
    with Image.open(io.BytesIO(made["a.png"])) as image:
        np.testing.assert_array_equal(np.asarray(image), demo.decode((tmp_path / "coded/a.glc").read_bytes()))
    rows = table(tmp_path / "back")
    assert rows[str(tmp_path / "coded/cut.glc")]["error"] == "TruncatedBitstream"
    assert rows[str(tmp_path / "coded/a.glc")]["bytes"] == (tmp_path / "coded/a.glc").stat().st_size


def test_names_that_differ_in_their_ending_or_case_alone_do_not_overwrite_each_other(
    batch: Callable[..., Run], demo: glc.Codec, tmp_path: Path
) -> None:
    names = ("a.bmp", "a.png", "A.tif", "a.png.bmp")
    kinds = ("BMP", "PNG", "TIFF", "BMP")
    for number, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        write({tmp_path / "photos" / name: image_bytes(number, kind)})
    assert batch("photos", "-o", "out").status == 0
    rows = table(tmp_path / "out")
    made = {name: rows[str(tmp_path / "photos" / name)]["output"] for name in names}
    assert made == {"A.tif": "A.glc", "a.bmp": "a.bmp.glc", "a.png": "a.png.glc", "a.png.bmp": "a.png.bmp.glc"}
    for number, name in enumerate(names):
        assert (tmp_path / "out" / made[name]).read_bytes() == demo.encode(pixels(number), 1)


def test_an_input_that_is_named_twice_is_done_once(batch: Callable[..., Run], tmp_path: Path) -> None:
    write({tmp_path / "photos/a.png": image_bytes(1)})
    run = batch("photos", "photos/*.png", "./photos/a.png", "-o", "out", "--json")
    assert run.status == 0
    summary = json.loads(run.out)
    assert (summary["done"], summary["repeated"]) == (1, 2)
    assert list(outputs(tmp_path / "out")) == ["photos/a.glc"]


def test_the_output_folder_may_lie_among_the_photographs(batch: Callable[..., Run], tmp_path: Path) -> None:
    write({tmp_path / "photos/a.png": image_bytes(1), tmp_path / "photos/out/b.png": image_bytes(2)})
    for _ in range(2):
        assert batch("photos", "-o", "photos/out").status == 0
    assert list(table(tmp_path / "photos/out")) == [str(tmp_path / "photos/a.png")]
    assert batch("photos", "-o", "photos", "-q", "2").status == 0
    assert batch("photos", "-o", "photos", "-q", "2", "--json").out.count('"there_before": 2')
    assert (tmp_path / "photos/a.glc").is_file()
    assert batch("photos/**", "-o", "photos", "-q", "2", "--json").out.count('"there_before": 2')
    assert batch("photos/*", "-o", "photos/out").status == 0
    assert list(table(tmp_path / "photos/out")) == [str(tmp_path / "photos/a.png")]


# What is wrong with inputs


def test_damaged_images_are_listed_and_hold_nobody_up(
    batch: Callable[..., Run], demo: glc.Codec, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200)).save(buffer, format="PNG")
    one = np.full((1, 1, 3), 77, np.uint8)
    Image.fromarray(one).save(tmp_path / "one.png")
    write(
        {
            tmp_path / "photos/bomb.png": buffer.getvalue(),
            tmp_path / "photos/cut.png": image_bytes(1)[:-700],
            tmp_path / "photos/empty.png": b"",
            tmp_path / "photos/good.png": image_bytes(2),
            tmp_path / "photos/one.png": (tmp_path / "one.png").read_bytes(),
            tmp_path / "photos/words.jpg": b"only words",
        }
    )
    run = batch("photos", "-o", "out", "--max-pixels", "10000", "--json")
    assert run.status == 1
    assert json.loads(run.out)["failed"] == 4
    assert "4 failed" in run.err
    assert "results.parquet" in run.err
    assert outputs(tmp_path / "out") == {"good.glc": demo.encode(pixels(2), 1), "one.glc": demo.encode(one, 1)}
    messages = {Path(name).name: row["message"] for name, row in table(tmp_path / "out").items() if row["error"]}
    assert set(messages) == {"bomb.png", "cut.png", "empty.png", "words.jpg"}
    assert "300x200 pixels; the limit is 10000" in messages["bomb.png"]
    assert "is empty" in messages["empty.png"]


def test_members_of_a_hostile_tar_stay_in_the_output_folder(batch: Callable[..., Run], tmp_path: Path) -> None:
    names = [
        *("../up.png", "/etc/root.png", "a/../../b.png", ".glc-batch/journal.png", "C:\\windows\\w.png"),
        *("results.parquet/r.png", "new\nline\x1b[31m.png", "long" * 60 + ".png", "../../../up.png"),
    ]
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/bad.tar", [(name, image_bytes(n)) for n, name in enumerate(names)])
    before = set(tmp_path.iterdir())
    run = batch("in/bad.tar", "-o", "sub/out")
    assert run.status == 0, run.err
    assert set(tmp_path.iterdir()) - before == {tmp_path / "sub"}
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["out"]
    made = sorted(outputs(tmp_path / "sub/out"))
    assert len(made) == len(names)
    assert all(name.startswith("bad/") and name.isprintable() for name in made)
    assert set(made) >= {f"bad/{name}.glc" for name in ("up", "up.png", "etc/root", "a/b", "results.parquet/r")}
    assert len(table(tmp_path / "sub/out")) == len(names)


def test_a_tar_that_ends_early_gives_what_is_before_the_cut(
    batch: Callable[..., Run], demo: glc.Codec, tmp_path: Path
) -> None:
    write_tar(tmp_path / "whole.tar", [(f"{n}.png", image_bytes(n)) for n in range(3)])
    whole = (tmp_path / "whole.tar").read_bytes()
    last = whole.index(image_bytes(2))
    (tmp_path / "cut.tar").write_bytes(whole[: last + 100])
    run = batch("cut.tar", "-o", "out")
    assert run.status == 1
    assert outputs(tmp_path / "out") == {f"cut/{n}.glc": demo.encode(pixels(n), 1) for n in range(2)}
    rows = table(tmp_path / "out")
    assert "no whole tar file" in rows[str(tmp_path / "cut.tar")]["message"]
    assert "ends in the middle of a member" in rows[f"{tmp_path}/cut.tar/2.png"]["message"]

    (tmp_path / "cut.tar").write_bytes(whole)  # the download is done now
    assert batch("cut.tar", "-o", "out").status == 0
    assert {row["status"] for row in table(tmp_path / "out").values()} == {"done"}
    assert len(table(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words.parquet", "cannot be read as Parquet"),
        ("other.parquet", "no column 'image'; choose among picture with --column"),
        ("numbers.parquet", "column 'image' of .* holds int64; expected binary"),
        ("packed.tar.gz", "is compressed"),
        ("words.tar", "no whole tar file"),
    ],
)
def test_a_container_that_cannot_be_read_is_listed(
    name: str, message: str, batch: Callable[..., Run], tmp_path: Path
) -> None:
    match name:
        case "other.parquet":
            pq.write_table(pa.table({"picture": [b"x"]}), tmp_path / name)
        case "numbers.parquet":
            pq.write_table(pa.table({"image": [1]}), tmp_path / name)
        case "packed.tar.gz":
            write_tar(tmp_path / name, [("a.png", image_bytes(1))], "w:gz")
        case _:
            (tmp_path / name).write_bytes(b"only words")
    write({tmp_path / "good.png": image_bytes(1)})
    run = batch(name, "good.png", "-o", "out")
    assert run.status == 1
    assert list(outputs(tmp_path / "out")) == ["good.glc"]
    row = table(tmp_path / "out")[str(tmp_path / name)]
    assert row["error"] == "ImageUnreadable"
    assert re.search(message, row["message"])


# Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing", "-o", "out"), "no file, folder or match of a pattern is called 'missing'"),
        (("photos", "-o", "out", "-q", "9"), "quality must lie in 0..3"),
        (("photos", "-o", "out", "-q", "1", "--decode"), "--quality is for encoding"),
        (("photos", "-o", "out", "--format", "png"), "--format and --decoder are for --decode"),
        (("photos", "-o", "out", "--decode", "--format", "docx"), "no image format"),
        (("photos", "-o", "out", "--precision", "f8"), "no precision is called 'f8'"),
        (("photos",), "--output"),
    ],
)
def test_usage_errors_are_told_before_anything_is_made(
    arguments: tuple[str, ...], message: str, batch: Callable[..., Run], tmp_path: Path
) -> None:
    write({tmp_path / "photos/a.png": image_bytes(1)})
    run = batch(*arguments)
    assert run.status == 2
    assert message in " ".join(run.err.replace("│", " ").split())
    assert run.out == ""
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_says_what_was_expected(batch: Callable[..., Run], tmp_path: Path) -> None:
    write({tmp_path / "photos/notes.txt": b"words"})
    run = batch("photos", "-o", "out")
    assert run.status == 1
    assert "nothing to do in photos; expected files that end in .avif, .bmp" in run.err


def test_an_output_folder_that_cannot_be_one_is_told_in_a_line(batch: Callable[..., Run], tmp_path: Path) -> None:
    write({tmp_path / "photos/a.png": image_bytes(1), tmp_path / "out": b"a file"})
    run = batch("photos", "-o", "out", "-b", default_bundle())
    assert run.status == 1
    assert run.err.startswith("cannot write out: ")


@pytest.mark.parametrize(("module", "extra", "option"), [("pyarrow", "batch", ()), ("ray", "ray", ("--ray", "local"))])
def test_without_its_packages_it_says_which_extra_to_install(
    module: str, extra: str, option: tuple[str, ...], tmp_path: Path, environment: dict[str, str]
) -> None:
    write({tmp_path / "a.png": image_bytes(1)})
    script = f"import sys; sys.modules[{module!r}] = None; from glc import commands; commands.glc()"
    command = [sys.executable, "-c", script, "batch", "a.png", "-o", "out", *option]
    with started(command, cwd=tmp_path, env=environment) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    (line,) = err.splitlines()
    assert f"{module} is not installed; run: pip install 'glc-deploy[{extra}]'" in line


def test_help_imports_neither_pyarrow_nor_ray(tmp_path: Path, environment: dict[str, str]) -> None:
    script = "import sys; import glc.batch.command; print(*({'pyarrow', 'ray', 'sqlite3'} & set(sys.modules)))"
    with started([GLC[0], "-c", script], cwd=tmp_path, env=environment) as process:
        out, err = process.communicate(timeout=60)
    assert (out.strip(), err) == ("", "")


def test_names_of_any_bytes_and_links_to_nowhere_hold_nothing_up(batch: Callable[..., Run], tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"photos/bad\xff.png")
    write({odd: image_bytes(1), tmp_path / "photos/new\nline.png": image_bytes(2)})
    write({odd.with_suffix(".tar"): b"words"})
    (tmp_path / "photos/loop.png").symlink_to("loop.png")
    (tmp_path / "photos/gone.png").symlink_to("nowhere.png")
    (tmp_path / "photos/again").symlink_to(tmp_path / "photos")
    run = batch("photos", "-o", "out", "--json")
    assert run.status == 1
    assert json.loads(run.out)["failed"] == 1
    assert sorted(outputs(tmp_path / "out")) == ["bad_.glc", "new_line.glc"]
    assert table(tmp_path / "out")[f"{tmp_path}/photos/bad\\xff.tar"]["status"] == "failed"


def test_a_terminal_shows_how_far_it_is(tmp_path: Path, environment: dict[str, str]) -> None:
    write({tmp_path / f"photos/{n}.png": image_bytes(n) for n in range(5)})
    reader, writer = pty.openpty()
    try:
        done = subprocess.run(
            [*GLC, "batch", "photos", "-o", "out", "--json"],
            stdout=subprocess.PIPE,
            stderr=writer,
            cwd=tmp_path,
            env=environment | {"TERM": "xterm", "COLUMNS": "120"},
            timeout=60,
            check=True,
        )
        shown = os.read(reader, 1 << 20).decode()
    finally:
        os.close(writer)
        os.close(reader)
    assert "5/5" in shown
    assert "images/s, 0 failed" in shown
    assert json.loads(done.stdout)["done"] == 5


def test_a_limit_on_memory_needs_tiles_and_gives_the_same_streams(
    batch: Callable[..., Run], mini_bundle: Path, tmp_path: Path
) -> None:
    write({tmp_path / f"photos/{n}.png": image_bytes(n) for n in (1, 2)})
    refused = batch("photos", "-o", "out", "--max-memory", "8G")
    assert refused.status == 1
    assert "tile" in refused.err
    run = batch("photos", "-o", "out", "-b", mini_bundle, "--engine", "onnxruntime", "--max-memory", "8G")
    assert run.status == 0, run.err
    with glc.Codec.open(mini_bundle, engine="onnxruntime") as codec:
        assert outputs(tmp_path / "out") == {f"{n}.glc": codec.encode(pixels(n)) for n in (1, 2)}


def test_an_image_beyond_the_limit_on_memory_is_listed(
    batch: Callable[..., Run], mini_bundle: Path, tmp_path: Path
) -> None:
    write({tmp_path / "a.png": image_bytes(1)})
    run = batch("a.png", "-o", "out", "-b", mini_bundle, "--engine", "onnxruntime", "--max-memory", "1M")
    assert run.status == 1
    assert table(tmp_path / "out")[str(tmp_path / "a.png")]["error"] == "MemoryLimitTooSmall"
