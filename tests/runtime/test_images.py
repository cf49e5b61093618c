"""Image files as people have them: what the codec is given, what the user is told, and what is refused."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from glc.errors import ImageUnreadable, TooManyPixels
from glc.runtime.images import STANDARD_STREAM, LoadedImage, encode_image, read_bytes, read_image

MANY = 1 << 20
GRAY = np.array([[0, 1, 128, 254, 255]], np.uint8)
GRAY_16 = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
GRAY_16_AS_8 = np.array([[0, 0, 1, 128, 255]])
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
NOISE = np.random.RandomState(0).randint(0, 256, (64, 48, 3)).astype(np.uint8)

Row = list[tuple[int, ...]]


def _saved(image: Image.Image, path: Path, **options: Any) -> LoadedImage:
    image.save(path, **options)
    return read_image(path, MANY)


def _row(loaded: LoadedImage) -> Row:
    """First row of the pixels, as tuples."""
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.shape[2:] == (3,)
    return [tuple(pixel) for pixel in loaded.pixels[0].tolist()]


def _palette_image() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.frombytes(bytes((0, 1, 2)))
    return image


def _png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG of kinds that Pillow reads but does not write; `rows` with their filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


_D50 = {"r": (0.4360, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7141)}


def _profile(name: str, primaries: str = "rgb", gamma: float = 2.2) -> bytes:
    """An ICC profile with sRGB's primaries in the given order: "gbr" shows red as green."""

    def fixed(values: tuple[float, ...]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed((0.9642, 1.0, 0.8249)),
    }
    for channel, primary in zip("rgb", primaries, strict=True):
        tags[f"{channel}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(_D50[primary])
        tags[f"{channel}TRC".encode()] = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed((0.9642, 1.0, 0.8249))
    return head + bytes(128 - len(head)) + table + body


def test_rgb_comes_back_as_it_is_and_says_nothing(tmp_path: Path) -> None:
    loaded = _saved(Image.fromarray(NOISE), tmp_path / "a.png")
    np.testing.assert_array_equal(loaded.pixels, NOISE)
    assert loaded.notes == ()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.fromarray(GRAY), [(v, v, v) for v in GRAY[0].tolist()], id="8-bit gray"),
        pytest.param(Image.fromarray(GRAY >= 128), [*2 * [(0, 0, 0)], *3 * [WHITE]], id="1-bit"),
        pytest.param(_palette_image(), [RED, GREEN, BLUE], id="palette"),
    ],
)
def test_simpler_kinds_become_rgb_with_the_same_colours(image: Image.Image, expected: Row, tmp_path: Path) -> None:
    assert _row(_saved(image, tmp_path / "a.png")) == expected


@pytest.mark.parametrize(
    ("name", "image"),
    [
        pytest.param("a.png", Image.fromarray(GRAY_16), id="PNG"),
        pytest.param("a.tif", Image.fromarray(GRAY_16), id="TIFF little-endian"),
        pytest.param("b.tif", Image.frombytes("I;16B", (5, 1), GRAY_16.astype(">u2").tobytes()), id="TIFF big-endian"),
    ],
)
def test_16_bit_gray_keeps_black_white_and_what_lies_between(name: str, image: Image.Image, tmp_path: Path) -> None:
    loaded = _saved(image, tmp_path / name)
    np.testing.assert_array_equal(loaded.pixels, np.stack([GRAY_16_AS_8] * 3, axis=2))
    assert "reduced 16 bits to 8" in loaded.notes


def test_16_bit_pgm_keeps_black_and_white(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 5 1 65535\n" + GRAY_16.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "a.pgm", MANY).pixels[..., 0], GRAY_16_AS_8)


def test_16_bit_rgb_png_keeps_its_high_bytes(tmp_path: Path) -> None:
    samples = np.array([0, 256, 32768, 65535, 4 << 8, 9 << 8], ">u2")
    (tmp_path / "a.png").write_bytes(_png(2, 1, 16, 2, b"\0" + samples.tobytes()))
    assert _row(read_image(tmp_path / "a.png", MANY)) == [(0, 1, 128), (255, 4, 9)]


def test_float_samples_are_refused_for_nobody_can_tell_what_white_is(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.25, 0.5, 0.75, 1.0]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageUnreadable, match=r"a\.tif"):
        read_image(tmp_path / "a.tif", MANY)


def _rgba(*alpha: int) -> Image.Image:
    return Image.fromarray(np.array([[[*RED, a] for a in alpha]], np.uint8))


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        pytest.param(_rgba(255, 128, 0), {}, [RED, (255, 127, 127), WHITE], id="RGBA"),
        pytest.param(_rgba(255, 128, 0).convert("LA"), {}, [(76,) * 3, (165,) * 3, WHITE], id="LA"),
        pytest.param(_palette_image(), {"transparency": 1}, [RED, WHITE, BLUE], id="palette, one colour"),
        pytest.param(
            _palette_image(), {"transparency": b"\xff\x80\0"}, [RED, (127, 255, 127), WHITE], id="palette, alphas"
        ),
        pytest.param(
            Image.fromarray(GRAY), {"transparency": 0}, [WHITE, *[(v,) * 3 for v in (1, 128, 254, 255)]], id="gray key"
        ),
    ],
)
def test_transparent_pixels_show_white_and_the_user_is_told(
    image: Image.Image, options: dict[str, Any], expected: Row, tmp_path: Path
) -> None:
    loaded = _saved(image, tmp_path / "a.png", **options)
    assert _row(loaded) == expected
    assert "composited alpha on white" in loaded.notes


@pytest.mark.parametrize(
    ("image", "options"),
    [
        pytest.param(_rgba(255, 255), {}, id="RGBA"),
        pytest.param(_palette_image(), {"transparency": b"\xff\xff\xff"}, id="palette"),
    ],
)
def test_an_alpha_channel_that_hides_nothing_is_not_worth_a_note(
    image: Image.Image, options: dict[str, Any], tmp_path: Path
) -> None:
    loaded = _saved(image, tmp_path / "a.png", **options)
    assert _row(loaded)[0] == RED
    assert loaded.notes == ()


def test_cmyk_jpeg_becomes_the_colour_that_was_printed(tmp_path: Path) -> None:
    loaded = _saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(loaded.pixels, np.broadcast_to(RED, (16, 16, 3)), atol=4)
    assert any("CMYK" in note for note in loaded.notes)


def _red_left_blue_right() -> Image.Image:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16], pixels[:, 16:] = RED, BLUE
    return Image.fromarray(pixels)


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_a_photo_on_its_side_is_turned_upright_and_the_user_is_told(tmp_path: Path) -> None:
    loaded = _saved(_red_left_blue_right(), tmp_path / "a.jpg", exif=_orientation(6), quality=95, subsampling=0)
    upright = np.zeros((32, 16, 3), np.uint8)
    upright[:16], upright[16:] = RED, BLUE
    np.testing.assert_allclose(loaded.pixels, upright, atol=4)
    assert any("EXIF" in note for note in loaded.notes)


def test_a_mirrored_photo_is_turned_though_its_size_stays(tmp_path: Path) -> None:
    loaded = _saved(_red_left_blue_right(), tmp_path / "a.png", exif=_orientation(2))
    assert _row(loaded) == [*16 * [BLUE], *16 * [RED]]
    assert any("EXIF" in note for note in loaded.notes)


@pytest.mark.parametrize("value", [0, 1, 9])
def test_an_orientation_that_turns_nothing_is_not_worth_a_note(value: int, tmp_path: Path) -> None:
    loaded = _saved(_red_left_blue_right(), tmp_path / "a.png", exif=_orientation(value))
    assert _row(loaded) == [*16 * [RED], *16 * [BLUE]]
    assert loaded.notes == ()


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_an_animation_gives_its_first_frame_and_the_user_is_told(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    loaded = _saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(loaded.pixels, np.broadcast_to(RED, (4, 4, 3)))
    assert any("first of several frames" in note for note in loaded.notes)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_an_embedded_profile_is_applied(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), RED).convert(mode)
    loaded = _saved(image, tmp_path / "a.png", icc_profile=_profile("swapped", "gbr"))
    np.testing.assert_allclose(_row(loaded), [GREEN, GREEN], atol=2)
    assert any("swapped" in note for note in loaded.notes)


def test_a_profile_whose_name_merely_contains_srgb_is_applied(tmp_path: Path) -> None:
    loaded = _saved(
        Image.new("RGB", (1, 1), (128,) * 3), tmp_path / "a.png", icc_profile=_profile("Linear sRGB", gamma=1)
    )
    np.testing.assert_allclose(_row(loaded), [(188, 188, 188)], atol=2)


def test_the_srgb_profile_changes_nothing_and_says_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = _saved(Image.fromarray(NOISE), tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(loaded.pixels, NOISE)
    assert loaded.notes == ()


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"junk" * 50, id="damaged"),
        pytest.param(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), id="of another colour space"),
    ],
)
def test_a_profile_that_cannot_be_applied_is_passed_over_and_the_user_is_told(profile: bytes, tmp_path: Path) -> None:
    loaded = _saved(Image.new("RGB", (1, 1), (200, 100, 50)), tmp_path / "a.png", icc_profile=profile)
    assert _row(loaded) == [(200, 100, 50)]
    assert any("ignored its colour profile" in note for note in loaded.notes)


def test_notes_are_one_line_of_printable_text_whatever_a_profile_is_called(tmp_path: Path) -> None:
    profile = _profile("two\nlines \x1b[31m", "gbr")
    loaded = _saved(Image.new("RGB", (1, 1), RED), tmp_path / "a.png", icc_profile=profile)
    assert loaded.notes
    assert all(note.isprintable() for note in loaded.notes)


def _encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("text.png", b"only words\n", id="text named .png"),
        pytest.param("empty.png", b"", id="empty"),
        pytest.param("cut.png", _encoded("PNG")[:-2000], id="truncated PNG"),
        pytest.param("cut.jpg", _encoded("JPEG")[:-500], id="truncated JPEG"),
        pytest.param("head.png", _encoded("PNG")[:20], id="PNG cut in its header"),
        pytest.param("flip.png", _encoded("PNG")[:999] + b"\0\0\0" + _encoded("PNG")[1002:], id="damaged PNG"),
        pytest.param("none.png", _png(0, 5, 8, 2, b""), id="no pixels"),
    ],
)
def test_what_is_no_whole_image_is_refused_by_name(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageUnreadable) as caught:
        read_image(path, MANY)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(ImageUnreadable) as caught:
            read_image(path, MANY)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_too_many_pixels_are_refused_from_the_header_alone(side: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(_png(side, side, 8, 2, b""))  # unpacking it would find a truncated image instead
    with pytest.raises(TooManyPixels, match=f"{side}x{side} pixels; the limit is 1000$") as caught:
        read_image(path, 1000)
    assert str(path) in str(caught.value)


def test_the_limit_on_pixels_counts_the_last_one(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", NOISE.shape[0] * NOISE.shape[1]).pixels.shape == NOISE.shape
    with pytest.raises(TooManyPixels):
        read_image(tmp_path / "a.png", NOISE.shape[0] * NOISE.shape[1] - 1)


def test_the_callers_limit_counts_and_not_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", MANY).pixels, NOISE)


def test_a_file_larger_than_the_limit_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(11))
    assert read_bytes(path, most_bytes=11) == bytes(11)
    with pytest.raises(ImageUnreadable, match="larger than 10 bytes") as caught:
        read_bytes(path, most_bytes=10)
    assert str(path) in str(caught.value)


def test_reading_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(1000))
    tracemalloc.start()
    try:
        assert read_bytes(path) == bytes(1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_encoded("PNG"), id="PNG"),
        pytest.param(_encoded("JPEG", exif=_orientation(6)), id="JPEG"),
        pytest.param(_encoded("TIFF"), id="TIFF"),
        pytest.param(_encoded("GIF", save_all=True, append_images=[Image.fromarray(NOISE[::-1])]), id="GIF"),
        pytest.param(_encoded("WEBP", exif=_orientation(6)), id="WebP"),
        pytest.param(_encoded("BMP"), id="BMP"),
    ],
)
def test_damaged_files_raise_nothing_else(data: bytes, tmp_path: Path) -> None:
    draw = random.Random(0)
    path = tmp_path / "damaged"
    refused = unnamed = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.choice((1, 2, 4))):
            # Structure lies at both ends of a file more than in between.
            at = draw.choice((draw.randrange(400), draw.randrange(-400, 0), draw.randrange(len(data))))
            damaged[at] = draw.choice((0, 255, damaged[at] ^ (1 << draw.randrange(8))))
        path.write_bytes(damaged)
        try:
            read_image(path, MANY)
        except ImageUnreadable as error:
            refused += 1
            unnamed += str(path) not in str(error)
    assert refused
    assert unnamed == 0


def _reread(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "-"])
def test_png_is_what_its_ending_says_and_what_a_pipe_gets(name: str) -> None:
    image = _reread(encode_image(NOISE, Path(name)))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), NOISE)


def test_the_name_for_a_pipe_is_a_dash() -> None:
    assert Path("-") == STANDARD_STREAM


@pytest.mark.parametrize("name", ["a", "a.glc", "a.png.txt", ".png"])
def test_an_ending_of_no_image_format_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"choose one of \.png"):
        encode_image(NOISE, Path(name))


def _outcome(ending: str, pixels: NDArray[np.uint8]) -> str:
    try:
        data = encode_image(pixels, Path(f"a{ending}"))
        return "written" if _reread(data).size == (pixels.shape[1], pixels.shape[0]) else "size changed"
    except ValueError:
        return "refused"
    except Exception as error:
        return repr(error)


def test_every_ending_is_refused_or_gives_a_picture_of_the_same_size() -> None:
    Image.init()
    pixels = np.zeros((200, 300, 3), np.uint8)
    outcomes = {ending: _outcome(ending, pixels) for ending in sorted(Image.registered_extensions())}
    assert {ending: found for ending, found in outcomes.items() if found not in ("written", "refused")} == {}
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm"} <= {
        e for e, found in outcomes.items() if found == "written"
    }


@pytest.mark.parametrize("read", [lambda p: read_image(p, MANY), read_bytes], ids=["read_image", "read_bytes"])
def test_a_name_too_long_for_any_file_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match="xxx"):
        read(tmp_path / ("x" * 300))
