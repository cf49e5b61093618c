"""What the service codes is what the codec codes, and the headers tell the truth about it."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.runtime.bundle_files import add_stand_ins
from tests.service.conftest import LIMITS, PIXELS, Client, GatedCodec, packed, served

import glc
from glc.runtime.default_model import default_bundle
from glc.service.stage_times import StageTimes


def test_encode_gives_the_bytes_of_the_codec_and_describes_them(client: Client, demo_codec: GatedCodec) -> None:
    reply = client.post("/encode?quality=1.5", packed(PIXELS), {"Content-Type": "image/png"})
    assert reply.status == 200, reply.body
    assert reply.body == demo_codec.encode(PIXELS, 1.5)
    info = glc.inspect(reply.body)
    assert reply.headers["content-type"] == "application/x-glc"
    assert int(reply.headers["glc-bytes"]) == int(reply.headers["content-length"]) == len(reply.body)
    assert float(reply.headers["glc-bpp"]) == pytest.approx(info.bpp, abs=1e-5)
    assert (reply.headers["glc-width"], reply.headers["glc-height"]) == ("96", "64")
    assert float(reply.headers["glc-quality"]) == pytest.approx(info.header.quality, abs=1e-3)
    assert "glc-notes" not in reply.headers


def test_an_encoder_and_a_decoder_can_be_asked_for(times: StageTimes, tmp_path: Path) -> None:
    with zipfile.ZipFile(default_bundle()) as archive:
        archive.extractall(tmp_path)
    add_stand_ins(tmp_path)
    with (
        glc.Codec.open(tmp_path, threads=1, max_pixels=LIMITS.pixels, on_stage=times.add) as codec,
        served(codec, times, LIMITS) as client,
    ):
        told = json.loads(client.get("/info").body)["model"]
        assert (told["encoders"], told["decoders"]) == (["default", "restore", "twin"], ["default", "scream"])
        restored = client.post("/encode?encoder=restore", packed(PIXELS)).body
        assert restored == codec.encode(PIXELS, 1, encoder="restore") != codec.encode(PIXELS, 1)
        decoded = client.post("/decode?decoder=scream", restored).pixels()
        np.testing.assert_array_equal(decoded, codec.decode(restored, decoder="scream"))
        rough = client.post("/preview?decoder=scream", restored).pixels()
        np.testing.assert_array_equal(rough, codec.preview(restored, decoder="scream"))
        for path in ("/encode?encoder=scream", "/decode?decoder=twin", "/preview?decoder="):
            assert client.post(path, restored).problem() == (422, "invalid_query")


def test_quality_is_one_where_none_is_asked_for(client: Client, stream: bytes) -> None:
    assert client.post("/encode", packed(PIXELS)).body == stream


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})])
def test_other_formats_are_read(kind: str, options: dict[str, int], client: Client, demo_codec: GatedCodec) -> None:
    reply = client.post("/encode", packed(PIXELS, kind, **options), {"Content-Type": f"image/{kind.lower()}"})
    assert reply.status == 200
    if kind == "WEBP":
        assert reply.body == demo_codec.encode(PIXELS, 1)


def test_a_body_in_chunks_needs_no_length(client: Client, stream: bytes) -> None:
    data = packed(PIXELS)
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    assert client.post("/encode", pieces, {"Content-Type": "application/octet-stream"}).body == stream


def test_decode_gives_the_pixels_of_the_codec(client: Client, demo_codec: GatedCodec, stream: bytes) -> None:
    reply = client.post("/decode", stream, {"Content-Type": "application/x-glc"})
    assert reply.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(reply.pixels(), demo_codec.decode(stream))
    assert reply.headers["glc-symbols"] == "1.0000"
    assert int(reply.headers["glc-bytes"]) == len(stream)


@pytest.mark.parametrize(
    ("query", "accept", "expected"),
    [
        ("", "*/*", "image/png"),
        ("", "image/*;q=0.5, text/html", "image/png"),
        ("", "image/jpeg", "image/jpeg"),
        ("", "image/png;q=0.3, image/webp;q=0.8, */*;q=0.1", "image/webp"),
        ("", "image/png;q=0, */*", "image/jpeg"),
        ("?format=webp", "image/jpeg", "image/webp"),
    ],
)
def test_query_and_accept_choose_the_format(
    query: str, accept: str, expected: str, client: Client, demo_codec: GatedCodec, stream: bytes
) -> None:
    reply = client.post(f"/decode{query}", stream, {"Accept": accept})
    assert reply.headers["content-type"] == expected
    if expected != "image/jpeg":
        np.testing.assert_array_equal(reply.pixels(), demo_codec.decode(stream))


def test_a_preview_and_a_part_can_be_had_of_a_cut_stream(client: Client, demo_codec: GatedCodec, stream: bytes) -> None:
    cut = stream[: 3 * len(stream) // 4]
    rough = client.post("/preview", cut)
    np.testing.assert_array_equal(rough.pixels(), demo_codec.preview(cut))
    assert rough.headers["glc-symbols"] == "0.0000"

    assert client.post("/decode", cut).problem() == (422, "damaged_bitstream")
    partial = demo_codec.decode_partial(cut)
    part = client.post("/decode?allow_partial=true", cut)
    np.testing.assert_array_equal(part.pixels(), partial.image)
    assert float(part.headers["glc-symbols"]) == pytest.approx(partial.symbols, abs=1e-4)
    assert 0 < partial.symbols < 1


def test_stages_of_each_request_are_its_own(client: Client, stream: bytes) -> None:
    def stages(reply_headers: dict[str, str]) -> list[str]:
        timing = reply_headers["server-timing"]
        assert re.fullmatch(r"\w+;dur=\d+\.\d(, \w+;dur=\d+\.\d)*", timing)
        return re.findall(r"(\w+);", timing)

    encoded = stages(client.post("/encode", packed(PIXELS)).headers)
    assert encoded[:4] == ["receive", "queue", "read_image", "analysis"]
    assert "synthesis" not in encoded
    decoded = stages(client.post("/decode", stream).headers)
    assert decoded[-2:] == ["synthesis", "write_image"]
    assert "analysis" not in decoded
    assert len(set(decoded)) == len(decoded)


def test_what_was_changed_in_reading_is_told(client: Client) -> None:
    half = np.full((64, 96, 1), 128, np.uint8)
    reply = client.post("/encode", packed(np.dstack([PIXELS, half])))
    assert reply.headers["glc-notes"] == "composited alpha on white"

    exif = Image.Exif()
    exif[0x0112] = 6
    turned = client.post("/encode", packed(PIXELS, "JPEG", exif=exif))
    assert (turned.headers["glc-width"], turned.headers["glc-height"]) == ("64", "96")
    assert "EXIF" in turned.headers["glc-notes"]
