"""Golden streams (tests/golden/make_streams.py): every version must read them, on every engine."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.golden.make_streams import BUNDLE, FACTS, REFINEMENTS, STREAMS, Facts, Reader, make_bundle, make_streams
from tests.golden.make_streams import main as make_golden

from glc.engines import engine_loader
from glc.runtime.bitstream import inspect
from glc.runtime.bundle import Bundle

GOLDEN = Path(__file__).parent.parent / "golden"

EXPECTED = {name: Facts(**facts) for name, facts in json.loads((GOLDEN / FACTS).read_text()).items()}
MEANS = {name: facts.channel_means for name, facts in EXPECTED.items() if facts.channel_means is not None}


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLC_CACHE", "")
        opened = Reader(Bundle.open(GOLDEN / BUNDLE), engine_loader(request.param, 1, "f32"))
        yield opened
        opened.close()


@pytest.mark.parametrize("name", EXPECTED)
def test_the_golden_stream_decodes_to_its_symbols_and_latent(name: str, reader: Reader) -> None:
    expected = EXPECTED[name]
    found = reader.facts((GOLDEN / STREAMS / name).read_bytes(), expected.form)
    assert found == dataclasses.replace(expected, channel_means=None)


@pytest.mark.parametrize("name", MEANS)
def test_the_golden_stream_shows_its_image(name: str, reader: Reader) -> None:
    expected = EXPECTED[name]
    image = reader.codec.decode((GOLDEN / STREAMS / name).read_bytes(), form=expected.form)
    assert image.shape == (expected.height, expected.width, 3)
    np.testing.assert_allclose(image.mean((0, 1)), MEANS[name], atol=1)


def test_the_golden_progressive_stream_shows_its_refinements(reader: Reader) -> None:
    data = (GOLDEN / STREAMS / "progressive.glc").read_bytes()
    info = inspect(data)
    assert (info.version, info.header.refinements) == (2, REFINEMENTS)
    places = [0, 100, 200, 400]
    shown = [reader.codec.decode_partial(data[: info.header_bytes + place + 99]) for place in places]
    shares = [partial.symbols for partial in shown]
    assert shares[0] == 0
    assert sorted(set(shares)) == shares
    np.testing.assert_array_equal(shown[0].image, reader.codec.preview(data))
    before = reader.codec.decode_partial(data[: info.header_bytes + 399])
    assert before.symbols == shares[2]  # 300 is none of them


def test_every_golden_stream_is_read_and_all_kinds_are_there() -> None:
    assert sorted(path.name for path in (GOLDEN / STREAMS).iterdir()) == sorted(EXPECTED)
    assert {facts.form for facts in EXPECTED.values()} == {"file", "bare"}
    assert {0, 1, 2, 3} < {facts.quality for facts in EXPECTED.values()}


def test_golden_streams_are_never_overwritten(tmp_path: Path) -> None:
    make_streams(GOLDEN / BUNDLE, tmp_path)
    made = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sorted(path.name for path in made) == sorted([FACTS, *EXPECTED])
    with pytest.raises(FileExistsError):
        make_streams(GOLDEN / BUNDLE, tmp_path)
    with pytest.raises(FileExistsError):
        make_golden(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == made


def test_the_golden_bundle_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / BUNDLE
    shutil.copy(GOLDEN / BUNDLE, path)
    with pytest.raises(FileExistsError, match=BUNDLE):
        make_bundle(path)
    with pytest.raises(FileExistsError, match=BUNDLE):
        make_golden(tmp_path)
    assert path.read_bytes() == (GOLDEN / BUNDLE).read_bytes()
    assert list(tmp_path.iterdir()) == [path]
