"""What the Triton example's models compute, without Triton: the fate of each item, and no thread left behind."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.triton.service import CodecService
from numpy.typing import NDArray
from PIL import Image
from tests.conftest import DATA, load_image

import glc

ROOT = Path(__file__).parents[2]
PINS = ("constraints-dev.txt", "examples/triton/requirements.txt")
_PIN = re.compile(r"^([\w-]+)==(\S+)$", re.MULTILINE)

NAME = "coffee_200x300.png"
PHOTO = (DATA / "images" / NAME).read_bytes()


@dataclass(frozen=True)
class FakeRequest:
    """A request as PyTriton's: named arrays (items, 1)."""

    data: dict[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.data[name]


def _column(*values: object, dtype: type = object) -> NDArray[Any]:
    return np.array([[value] for value in values], dtype=dtype)


def _errors(response: dict[str, NDArray[Any]]) -> list[str]:
    return [error.decode() for error in response["error"][:, 0]]


@pytest.fixture(scope="module")
def small_codec() -> Iterator[glc.Codec]:
    """The demonstration model with one thread."""
    with glc.Codec.open(threads=1) as opened:
        yield opened


@pytest.fixture
def service(small_codec: glc.Codec) -> Iterator[CodecService]:
    with ThreadPoolExecutor(2) as pool:
        yield CodecService(small_codec, pool, 1 << 17)


def test_requests_of_several_sizes_with_and_without_a_quality(service: CodecService, small_codec: glc.Codec) -> None:
    requests = [
        FakeRequest({"image": _column(PHOTO, PHOTO), "quality": _column(0, 3, dtype=np.float32)}),
        FakeRequest({"image": _column(PHOTO)}),
    ]
    first, second = service.encode(requests)
    assert _errors(first) == ["", ""]
    assert _errors(second) == [""]
    pixels = load_image(NAME)
    assert first["stream"][:, 0].tolist() == [small_codec.encode(pixels, 0), small_codec.encode(pixels, 3)]
    assert second["stream"].tolist() == [[small_codec.encode(pixels)]]


def test_the_hostile_item_alone_fails(service: CodecService, small_codec: glc.Codec) -> None:
    stream = small_codec.encode(load_image(NAME))
    good, mixed = service.decode(
        [FakeRequest({"stream": _column(stream)}), FakeRequest({"stream": _column(stream[:-9], b"", stream)})]
    )
    assert _errors(good) == [""]
    cut, empty, whole = _errors(mixed)
    assert cut.startswith("TruncatedBitstream: the bitstream was cut")
    assert empty == "NotABitstream: the bitstream is empty"
    assert whole == ""
    assert mixed["image"][:2, 0].tolist() == [b"", b""]
    for png in (good["image"][0, 0], mixed["image"][2, 0]):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), small_codec.decode(stream))


@pytest.mark.parametrize(
    ("photo", "quality", "expected"),
    [
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(64), 1, "ImageUnreadable: not an image that Pillow", id="garbage"),
        pytest.param(PHOTO[:5000], 1, "ImageUnreadable: not an image that Pillow can read, or damaged", id="cut"),
        pytest.param(PHOTO, 9, "ValueError: quality ", id="quality"),
        pytest.param(PHOTO, float("nan"), "ValueError: quality ", id="no number"),
    ],
)
def test_what_is_wrong_with_an_item_is_said_in_one_line(
    service: CodecService, photo: bytes, quality: float, expected: str
) -> None:
    request = FakeRequest({"image": _column(photo), "quality": _column(quality, dtype=np.float32)})
    (response,) = service.encode([request])
    (error,) = _errors(response)
    assert error.startswith(expected)
    assert "\n" not in error
    assert response["stream"].tolist() == [[b""]]


def test_a_large_image_is_refused_before_it_is_unpacked(service: CodecService) -> None:
    file = io.BytesIO()
    Image.new("1", (1 << 10, 1 << 8)).save(file, "PNG")
    (response,) = service.encode([FakeRequest({"image": _column(file.getvalue())})])
    assert _errors(response) == ["ImageUnreadable: the image has 1024x256 pixels; the limit is 131072"]


def test_the_servers_environment_has_the_versions_that_we_test_with() -> None:
    ours, theirs = (dict(_PIN.findall((ROOT / path).read_text())) for path in PINS)
    shared = (ours.keys() & theirs.keys()) - {"numpy"}  # PyTriton wants an older one
    assert shared == {"onnxruntime", "pillow"}
    assert {name: theirs[name] for name in shared} == {name: ours[name] for name in shared}


def test_a_defect_is_logged_and_not_told(service: CodecService, caplog: pytest.LogCaptureFixture) -> None:
    not_bytes = FakeRequest({"stream": _column(3)})
    (response,) = service.decode([not_bytes])
    assert _errors(response) == ["InternalError: the server failed on this item; its log says why"]
    assert "TypeError" in caplog.text
