"""`glc-bench quality`: real files of the demonstration model and of other codecs on two small crops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import load_image
from typer.testing import CliRunner, Result

import glc
from glc.bench.command import app
from glc.bench.image_codecs import folder_contender, pillow_contender
from glc.bench.image_metrics import finite_psnr_db, ms_ssim
from glc.bench.pictures import Conditions, Denoiser, load_picture
from glc.errors import ImageUnreadable

LARGE, SMALL = "large.png", "small.png"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image that is large enough for MS-SSIM, and one that is not."""
    folder = tmp_path_factory.mktemp("photographs")
    image = load_image("astronaut_256.png")
    Image.fromarray(image[20:196, 40:216]).save(folder / LARGE)
    Image.fromarray(image[:90, :100]).save(folder / SMALL)
    return folder


def run(photographs: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["quality", "--data", str(photographs), *options])


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def first(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The document of a run against JPEG and WebP, and its folder, with `run.txt` and `curves.png`."""
    folder = tmp_path_factory.mktemp("first")
    result = run(photographs, "--against", "jpeg", "--against", "webp", "--plot", str(folder / "curves.png"))
    (folder / "run.txt").write_text(result.stdout)
    return document(result), folder


def test_bytes_and_quality_are_those_of_real_files(first: tuple[Any, Path], photographs: Path) -> None:
    found, folder = first
    rows = [row for row in found["rows"] if row["codec"] == "GLC"]
    assert [(row["image"], row["point"]) for row in rows] == [
        (name, str(quality)) for name in (LARGE, SMALL) for quality in range(4)
    ]
    with glc.Codec.open() as codec, Image.open(photographs / LARGE) as image:
        pixels = np.asarray(image)
        data = codec.encode(pixels, 2)
        assert rows[2]["file_bytes"] == len(data)
        assert rows[2]["bpp"] == pytest.approx(8 * len(data) / 176**2)
        assert rows[2]["psnr_db"] == pytest.approx(finite_psnr_db(pixels, codec.decode(data)))
        assert rows[2]["ms_ssim"] == pytest.approx(ms_ssim(pixels, codec.decode(data)))
    assert all(row["lpips_alex"] is row["lpips_vgg"] is row["dists"] is None for row in rows)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_means_are_over_the_images_that_have_a_value(first: tuple[Any, Path]) -> None:
    found, _ = first
    (point,) = (p for p in found["points"] if (p["codec"], p["point"]) == ("GLC", "1"))
    large, small = (row for row in found["rows"] if (row["codec"], row["point"]) == ("GLC", "1"))
    assert point["images"] == 2
    assert point["bpp"] == pytest.approx((large["bpp"] + small["bpp"]) / 2)
    assert point["psnr_db"] == pytest.approx((large["psnr_db"] + small["psnr_db"]) / 2)
    assert small["ms_ssim"] is None
    assert point["ms_ssim"] == pytest.approx(large["ms_ssim"])
    assert any("too small for MS-SSIM" in note and "small.png (90x100)" in note for note in found["notes"])
    assert [(row["anchor"], row["metric"], row["images"]) for row in found["bd"]] == [
        (codec, metric, images) for codec in ("JPEG", "WebP") for metric, images in (("psnr_db", 2), ("ms_ssim", 1))
    ]


def test_what_has_no_weights_is_named_and_has_no_number(photographs: Path, tmp_path: Path) -> None:
    found = document(run(photographs, "-q", "0", "--weights", str(tmp_path)))
    for title in ("LPIPS (AlexNet)", "LPIPS (VGG16), DISTS", "FID, KID"):
        assert any(note.startswith(f"missing: {title}: ") for note in found["notes"])
    assert all(point[name] is None for point in found["points"] for name in ("lpips_vgg", "dists", "fid", "kid"))


def test_a_run_against_an_earlier_run_of_itself_differs_by_nothing(first: tuple[Any, Path], photographs: Path) -> None:
    found = document(run(photographs, "--against", str(first[1] / "run.txt")))
    assert {row["anchor"] for row in found["bd"]} == {"GLC (run)"}
    for row in found["bd"]:
        assert (row["rate_percent"], row["difference"]) == (pytest.approx(0), pytest.approx(0))
        assert row["rate_shared"] == pytest.approx(1)


def test_an_earlier_run_on_other_pixels_is_not_compared(first: tuple[Any, Path], photographs: Path) -> None:
    found = document(run(photographs, "-q", "0", "--max-side", "80", "--against", str(first[1] / "run.txt")))
    assert found["bd"] == []
    assert "no image in common with GLC (run)" in found["notes"]


def test_a_folder_of_another_codec_is_measured_like_any_other(
    first: tuple[Any, Path], photographs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    with glc.Codec.open() as codec:
        for quality in (0, 3):
            (rate := folder / f"q{quality}").mkdir(parents=True)
            sizes = []
            for name in (LARGE, SMALL):
                with Image.open(photographs / name) as image:
                    data = codec.encode(np.asarray(image), quality)
                Image.fromarray(codec.decode(data)).save(rate / name)
                sizes.append(f"{name},{len(data)}\n")
                if quality:
                    (rate / name).with_suffix(".bin").write_bytes(data)
            if not quality:
                (rate / "bytes.csv").write_text("image,bytes\n" + "".join(sizes))
    found = document(run(photographs, "-q", "0", "-q", "3", "--against", str(folder)))
    ours, theirs = ([p for p in found["points"] if p["codec"] == codec] for codec in ("GLC", "mine"))
    assert [point["point"] for point in theirs] == ["q0", "q3"]
    for field in ("bpp", "psnr_db", "ms_ssim"):
        assert [point[field] for point in theirs] == pytest.approx([point[field] for point in ours])


def test_a_folder_that_lacks_something_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match="no rate in"):
        folder_contender(tmp_path, ["a.png"])
    (rate := tmp_path / "r").mkdir()
    with pytest.raises(ImageUnreadable, match=r"has no a\.png"):
        folder_contender(tmp_path, ["a.jpg"])
    Image.new("RGB", (4, 4)).save(rate / "a.png")
    with pytest.raises(ImageUnreadable, match="0 coded files of a"):
        folder_contender(tmp_path, ["a.jpg"])
    (rate / "bytes.csv").write_text("image,size\na,4\n")
    with pytest.raises(ImageUnreadable, match="expected the columns image and bytes"):
        folder_contender(tmp_path, ["a.jpg"])
    with pytest.raises(ImageUnreadable, match="two originals are called a"):
        folder_contender(tmp_path, ["a.jpg", "a.png"])


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif", "jxl"])
def test_more_bits_of_a_codec_of_pillow_are_better(photographs: Path, name: str) -> None:
    picture = load_picture(photographs / LARGE, Conditions())
    contender = pillow_contender(name)
    coded = [point.code(picture) for point in (contender.points[0], contender.points[-1])]
    assert coded[0].size_bytes < coded[1].size_bytes
    low, high = (finite_psnr_db(picture.clean, one.pixels) or math.inf for one in coded)
    assert 18 < low < high < 45


def test_a_codec_that_is_not_installed_is_named(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_jxl", None)
    found = document(run(photographs, "-q", "0", "--against", "jxl"))
    assert any(note.startswith("not compared: JPEG XL: ") and "glc-deploy[jxl]" in note for note in found["notes"])
    assert {point["codec"] for point in found["points"]} == {"GLC"}


def test_noise_is_on_what_is_encoded_and_repeatable(photographs: Path) -> None:
    clean = load_picture(photographs / LARGE, Conditions())
    noisy, again, other = (
        load_picture(photographs / LARGE, Conditions(noise_sigma=20, seed=seed)) for seed in (0, 0, 1)
    )
    assert (noisy.clean == clean.clean).all()
    assert noisy.pixels_id == clean.pixels_id
    assert (noisy.given == again.given).all()
    assert (noisy.given != other.given).any()
    assert np.std(noisy.given.astype(float) - noisy.clean) == pytest.approx(20, rel=0.1)
    denoised = load_picture(photographs / LARGE, Conditions(noise_sigma=20, denoiser=Denoiser.NLM))
    assert (finite_psnr_db(clean.clean, denoised.given) or 0) > (finite_psnr_db(clean.clean, noisy.given) or 0) + 3


def test_noise_is_measured_against_the_clean_image(first: tuple[Any, Path], photographs: Path) -> None:
    found = document(run(photographs, "-q", "3", "--noise", "30"))
    before = [row for row in first[0]["rows"] if (row["codec"], row["point"]) == ("GLC", "3")]
    for row, was in zip(found["rows"], before, strict=True):
        assert row["pixels_id"] == was["pixels_id"]
        assert row["psnr_db"] < was["psnr_db"]
    assert any("noise of sigma 30" in note for note in found["notes"])


def test_an_encoder_that_the_bundle_has_not_is_a_usage_error(photographs: Path) -> None:
    result = run(photographs, "--encoder", "restore")
    assert result.exit_code == 2
    assert "restore" in result.output
    assert "default" in result.output


def test_images_that_are_equal_have_no_finite_psnr() -> None:
    image = load_image("astronaut_256.png")
    assert finite_psnr_db(image, image) is None
    assert ms_ssim(image, image) == pytest.approx(1)
    assert ms_ssim(image[:175], image[:175]) is None
    assert ms_ssim(image[:176, :176], image[:176, :176]) == pytest.approx(1)


def test_ms_ssim_is_that_of_its_definition() -> None:
    image = load_image("astronaut_256.png")
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 25, image.shape), 0, 255).astype(np.uint8)
    assert ms_ssim(image, noisy) == pytest.approx(_ms_ssim_written_out(image, noisy), abs=2e-4)


def _ms_ssim_written_out(x: Any, y: Any) -> float:
    """Wang, Simoncelli and Bovik (2003) in float64, the terms of each scale averaged over all channels."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    kernel = torch.tensor(np.outer(window, window) / window.sum() ** 2)[None, None]
    a, b = (torch.tensor(image.astype(np.float64)).permute(2, 0, 1)[:, None] for image in (x, y))
    result = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        ma, mb, aa, bb, ab = (torch.nn.functional.conv2d(z, kernel) for z in (a, b, a * a, b * b, a * b))
        term = (2 * (ab - ma * mb) + 58.5225) / (aa - ma**2 + bb - mb**2 + 58.5225)
        if scale == 4:
            term = term * (2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025)
        result *= float(term.mean()) ** weight
        a, b = (torch.nn.functional.avg_pool2d(z, 2) for z in (a, b))
    return result


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--denoise", "nlm"), "give --noise too"),
        (("--against", "gif"), "expected one of jpeg, webp, avif, jxl, a folder or a file"),
        (("--quality", "9"), "quality"),
        (("--name", "JPEG", "--against", "jpeg"), "two codecs are called 'JPEG'"),
        (("--csv", "--latex"), "give one of"),
    ],
)
def test_mistakes_are_usage_errors(photographs: Path, options: tuple[str, ...], message: str) -> None:
    result = run(photographs, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"command": "table"}', '{"command": "quality", "rows": [], "points": []}']
)
def test_a_file_that_is_no_earlier_run_is_a_usage_error(photographs: Path, tmp_path: Path, text: str) -> None:
    (path := tmp_path / "run.json").write_text(text)
    result = run(photographs, "--against", str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected the JSON document that glc-bench quality prints" in " ".join(result.stderr.split())
