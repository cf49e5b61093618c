"""What codecs make of photographs: bytes of real files, and how far what they decode to is from the original.

photographs -> each codec at each of its points -> one row each -> means over the photographs, FID and KID of all
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from glc.bench.image_codecs import Coded, Contender, Point
from glc.bench.image_metrics import (
    DISTS,
    FID,
    LPIPS_ALEX,
    LPIPS_VGG,
    MS_SSIM,
    MS_SSIM_SIDE,
    OF_IMAGES,
    PSNR,
    Metric,
    finite_psnr_db,
    ms_ssim,
)
from glc.bench.perceptual import NETWORK_SIDE, PATCH, PerceptualNetworks, frechet_distance, kernel_distance
from glc.bench.pictures import Conditions, Picture, load_picture
from glc.runtime.codec import Codec


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One photograph, coded once. A metric is None where it cannot be computed; the notes say why."""

    codec: str
    point: str
    """The setting of the codec."""
    image: str
    pixels_id: str
    """Tells the pixels of the original: equal in two runs that may be compared."""
    height: int
    width: int
    file_bytes: int
    bpp: float
    """Bits of the whole file per pixel of the original."""
    psnr_db: float | None
    """None: equal to the original."""
    ms_ssim: float | None
    """On RGB; 1 for equal images."""
    lpips_alex: float | None
    lpips_vgg: float | None
    dists: float | None

    @property
    def key(self) -> str:
        """Names the photograph."""
        return f"{self.image} {self.pixels_id}"


@dataclass(frozen=True, slots=True)
class PointRow:
    """One setting of a codec over all photographs: means over those that have a value."""

    codec: str
    point: str
    images: int
    bpp: float
    """Mean of the bits per pixel of each."""
    psnr_db: float | None
    ms_ssim: float | None
    lpips_alex: float | None
    lpips_vgg: float | None
    dists: float | None
    fid: float | None
    """Of the patches of all photographs."""
    kid: float | None
    patches: int
    """That FID and KID compare; 0 where there is no network for it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What `measure_quality` found."""

    rows: tuple[QualityRow, ...]
    points: tuple[PointRow, ...]
    notes: tuple[str, ...]
    """What has no value and why."""


@dataclass(slots=True)
class _PatchFeatures:
    original: list[torch.Tensor]
    decoded: list[torch.Tensor]


def glc_contender(codec: Codec, name: str, qualities: Sequence[float], encoder: str, decoder: str) -> Contender:
    """A codec of this package: each picture becomes the bytes of a file, which are decoded."""

    def point(quality: float) -> Point:
        def code(picture: Picture) -> Coded:
            data = codec.encode(picture.given, quality, encoder=encoder)
            return Coded(len(data), codec.decode(data, decoder=decoder))

        return Point(f"{quality:g}", code)

    return Contender(name, tuple(point(quality) for quality in qualities))


def measure_quality(
    contenders: Sequence[Contender],
    images: Sequence[Path],
    conditions: Conditions,
    networks: PerceptualNetworks,
    on_progress: Callable[[float], None],
) -> Measured:
    """Code each photograph at every point of every codec.

    Args:
        contenders: codecs, of different names.
        images: files of photographs; one at a time is in memory.
        conditions: what is done to them before.
        networks: what the metrics with trained networks are computed with.
        on_progress: is told the share that is done.

    Raises:
        GlcError: an image cannot be read, or a codec failed.
        MissingExtra: a package that a metric needs is not installed.
    """
    rows: list[QualityRow] = []
    features: dict[tuple[str, str], _PatchFeatures] = {}
    for done, path in enumerate(images):
        picture = load_picture(path, conditions)
        original = networks.features(picture.clean)
        for contender in contenders:
            for point in contender.points:
                coded = point.code(picture)
                rows.append(_row(contender.name, point.label, picture, coded, networks))
                decoded = networks.features(coded.pixels)
                if original is not None and decoded is not None:
                    kept = features.setdefault((contender.name, point.label), _PatchFeatures([], []))
                    kept.original.append(original)
                    kept.decoded.append(decoded)
        on_progress((done + 1) / len(images))
    points = tuple(
        _point(contender.name, point.label, rows, features.get((contender.name, point.label)))
        for contender in contenders
        for point in contender.points
    )
    return Measured(tuple(rows), points, tuple(_notes(rows, points, networks)))


def mean_of(rows: Sequence[QualityRow], metric: Metric) -> float | None:
    """Mean of one metric of images over the rows that have it; None where none has."""
    values = [value for row in rows if (value := getattr(row, metric.field)) is not None]
    return fmean(values) if values else None


def _row(codec: str, point: str, picture: Picture, coded: Coded, networks: PerceptualNetworks) -> QualityRow:
    height, width = picture.clean.shape[:2]
    lpips_alex, lpips_vgg, dists = (
        networks.distance(metric.field, picture.clean, coded.pixels) for metric in (LPIPS_ALEX, LPIPS_VGG, DISTS)
    )
    return QualityRow(
        codec=codec,
        point=point,
        image=picture.name,
        pixels_id=picture.pixels_id,
        height=height,
        width=width,
        file_bytes=coded.size_bytes,
        bpp=8 * coded.size_bytes / (height * width),
        psnr_db=finite_psnr_db(picture.clean, coded.pixels),
        ms_ssim=ms_ssim(picture.clean, coded.pixels),
        lpips_alex=lpips_alex,
        lpips_vgg=lpips_vgg,
        dists=dists,
    )


def _point(codec: str, point: str, rows: Sequence[QualityRow], features: _PatchFeatures | None) -> PointRow:
    own = [row for row in rows if (row.codec, row.point) == (codec, point)]
    fid = kid = None
    patches = 0
    if features is not None:
        original, decoded = torch.cat(features.original), torch.cat(features.decoded)
        patches = len(original)
        if patches > 1:
            fid, kid = frechet_distance(original, decoded), kernel_distance(original, decoded)
    return PointRow(
        codec=codec,
        point=point,
        images=len(own),
        bpp=fmean(row.bpp for row in own),
        psnr_db=mean_of(own, PSNR),
        ms_ssim=mean_of(own, MS_SSIM),
        lpips_alex=mean_of(own, LPIPS_ALEX),
        lpips_vgg=mean_of(own, LPIPS_VGG),
        dists=mean_of(own, DISTS),
        fid=fid,
        kid=kid,
        patches=patches,
    )


def _notes(rows: Sequence[QualityRow], points: Sequence[PointRow], networks: PerceptualNetworks) -> list[str]:
    notes = list(networks.missing)
    sides = {f"{row.image} ({row.height}x{row.width})": min(row.height, row.width) for row in rows}
    of_networks = [metric.title for metric in OF_IMAGES if metric.field in networks.distances]
    wanted = [(MS_SSIM.title, MS_SSIM_SIDE)]
    wanted += [(", ".join(of_networks), NETWORK_SIDE)] if of_networks else []
    wanted += [("FID, KID", PATCH)] if networks.inception is not None else []
    for titles, least in wanted:
        if small := [name for name, side in sides.items() if side < least]:
            notes.append(f"too small for {titles}, which need sides of {least} pixels: {', '.join(small)}")
    if exact := [f"{row.image} ({row.codec} {row.point})" for row in rows if row.psnr_db is None]:
        notes.append(f"equal to the original, PSNR infinite and left out of its mean: {', '.join(exact)}")
    if networks.inception is not None and all(getattr(row, FID.field) is None for row in points):
        notes.append("no FID, KID: fewer than two patches")
    return notes
