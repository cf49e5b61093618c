"""Projections: their arithmetic by hand, and that none can be taken for a measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import glc
from glc.bench.command import app
from glc.bench.cost import Cost, GraphCost
from glc.bench.roofline import DEVICES, STATUS, Device, Roofline, floor_row, project_bundle
from glc.runtime.bundle import Bundle

DEMO = Path(glc.__file__).parent / "default_model" / "demo.glcb"

ROUND = Device("round numbers", fp16_tflops=100, tf32_tflops=50, fp32_tflops=10, memory_gb_s=1000, source="none")


def graph(dense_flops: int = 0, elementwise_flops: int = 0, weight_bytes: int = 0, fused_bytes: int = 0) -> GraphCost:
    total = Cost(1, dense_flops, elementwise_flops, weight_bytes, 10 * fused_bytes, fused_bytes)
    return GraphCost({"Conv": total}, total, weight_bytes // 2, 2)


def project(device: str = "a100-40g", efficiency: float = 0.5) -> Roofline:
    return project_bundle(Bundle.open(DEMO), device, 256, 384, efficiency)


@pytest.mark.parametrize(
    ("cost", "precision", "floor_ms", "bound"),
    [
        (graph(dense_flops=10**12), "fp16", 10, "compute"),
        (graph(dense_flops=10**12), "tf32", 20, "compute"),
        (graph(elementwise_flops=10**11), "fp16", 10, "compute"),
        (graph(dense_flops=10**12, elementwise_flops=10**11), "fp16", 10, "compute"),
        (graph(weight_bytes=10**9, fused_bytes=3 * 10**9), "fp16", 4, "memory"),
        (graph(dense_flops=10**12, fused_bytes=11 * 10**9), "fp16", 11, "memory"),
    ],
)
def test_the_floor_is_what_takes_longest(cost: GraphCost, precision: str, floor_ms: float, bound: str) -> None:
    row = floor_row("analysis", cost, ROUND, precision, efficiency=0.25)
    assert row.floor_ms == pytest.approx(floor_ms)
    assert row.bound == bound
    assert row.projected_ms == pytest.approx(4 * floor_ms)
    assert row.floor_ms == max(row.compute_ms, row.memory_ms)


def test_encoder_and_decoder_are_the_sums_of_their_graphs() -> None:
    rows = {row.stage: row for row in project().rows}
    priors = ("hyper_prior", "spatial_prior_1", "spatial_prior_2", "spatial_prior_3")
    for name, stages in {"encode": ("analysis", *priors), "decode": (*priors, "synthesis")}.items():
        total = rows[f"{name}, networks alone"]
        for field in ("dense_gflop", "traffic_mb", "floor_ms", "projected_ms"):
            assert getattr(total, field) == pytest.approx(sum(getattr(rows[stage], field) for stage in stages))


def test_entropy_coding_is_named_as_left_out_unless_it_is_given() -> None:
    without = project()
    assert "entropy coding" in without.not_included
    given = project_bundle(Bundle.open(DEMO), "a100-40g", 256, 384, entropy_ms=(3.0, 5.0))
    assert "entropy coding" not in given.not_included
    floors = {row.stage: row.floor_ms for row in without.rows}
    rows = {row.stage: row for row in given.rows}
    for name, milliseconds in (("encode", 3.0), ("decode", 5.0)):
        assert rows[f"entropy coding of {name}"].projected_ms == milliseconds
        with_coding = rows[f"{name} with entropy coding"]
        assert with_coding.floor_ms == pytest.approx(floors[f"{name}, networks alone"] + milliseconds)


def test_image_graphs_are_half_precision_and_priors_tf32_where_there_is_one() -> None:
    precisions = {row.stage: row.precision for row in project("a100-40g").rows}
    assert precisions["analysis"] == precisions["synthesis"] == "fp16"
    assert precisions["hyper_prior"] == precisions["spatial_prior_3"] == "tf32"
    assert {row.precision for row in project("t4").rows} == {"fp16"}


def test_half_precision_moves_half_the_bytes_of_the_priors() -> None:
    bundle = Bundle.open(DEMO)
    single, half = (
        {row.stage: row for row in project_bundle(bundle, "l4", 256, 256, prior_precision=name).rows}
        for name in ("tf32", "fp16")
    )
    assert half["spatial_prior_1"].traffic_mb == pytest.approx(single["spatial_prior_1"].traffic_mb / 2, rel=0.01)
    assert half["analysis"] == single["analysis"]


def test_a_device_with_higher_ceilings_has_a_lower_floor() -> None:
    floors = [
        sum(row.floor_ms for row in project(name).rows) for name in ("l4", "a10", "l40s", "a100-80g", "h100", "h200")
    ]
    assert floors == sorted(floors, reverse=True)
    assert len(set(floors)) == len(floors)


def test_ceilings_are_dense_and_have_a_source() -> None:
    for device in DEVICES.values():
        assert device.source.startswith("NVIDIA")
        assert device.fp16_tflops < 1000  # the sparse rate of the fastest here is 1979
        if device.tf32_tflops is not None:
            assert device.tf32_tflops == pytest.approx(device.fp16_tflops / 2, rel=0.02)


def test_efficiency_scales_projections_and_no_floor() -> None:
    half, whole = project(efficiency=0.5), project(efficiency=1.0)
    for a, b in zip(half.rows, whole.rows, strict=True):
        assert a.floor_ms == b.floor_ms == b.projected_ms == pytest.approx(a.projected_ms / 2)


@pytest.mark.parametrize("efficiency", [0.0, -1.0, 1.5])
def test_efficiency_out_of_range_is_refused(efficiency: float) -> None:
    with pytest.raises(ValueError, match="efficiency"):
        project(efficiency=efficiency)


def test_an_unknown_device_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="a100-40g, a100-80g, h100, h200, l4, l40s, a10, rtx4090, t4"):
        project("b200")


def test_a_precision_that_a_device_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="T4 16 GB does not compute in tf32"):
        project_bundle(Bundle.open(DEMO), "t4", 64, 64, prior_precision="tf32")


def test_every_line_of_the_command_says_that_it_is_projected() -> None:
    options = ["--device", "a100-40g", "--entropy-ms", "3", "5", "--size", "256x384"]
    command = [sys.executable, "-m", "glc.bench", "roofline", "-b", str(DEMO), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    *lines, last = result.stdout.splitlines()
    document = json.loads(last)
    projection = document["projection"]
    assert projection["status"] == STATUS == "projected, not measured"
    assert all(row["status"] == STATUS for row in document["rows"])
    figures = lines[4 : lines.index("", 4)]  # behind title, headings and rule
    assert len(figures) == len(document["rows"]) == 10
    assert all(STATUS in line for line in (lines[0], *figures))
    paper = [line for line in lines if "paper" in line]
    assert [line.partition(": GLC")[0] for line in paper] == ["quoted: paper, A100, PyTorch"] * 2
    assert paper[1].endswith("105 M parameters, 512x768: encode 37.1 ms, decode 58.6 ms")
    assert (projection["height"], projection["width"]) == (256, 384)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "b200"), "choose one of a100-40g"),
        (("--device", "h100", "--size", "512"), "expected height x width"),
        (("--device", "h100", "--size", "0x512"), "expected height x width"),
        (("--device", "h100", "--entropy-ms", "1", "-1"), "must not be negative"),
    ],
)
def test_mistakes_are_usage_errors(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["roofline", "-b", str(DEMO), *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
