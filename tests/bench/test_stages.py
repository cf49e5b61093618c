"""Stages: the order in which they come, that they add up, what they are compared with, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from glc.bench import stages as module
from glc.bench.ceiling import COPY, Ceiling, ProbeSizes
from glc.bench.command import app
from glc.bench.cost import Cost, GraphCost, bundle_cost
from glc.bench.stages import REST, TOTAL, StageReport, StageRow, Turn, measure_stages, stage_rows, waterfall_png
from glc.bench.timing import Spread
from glc.engines import engine_loader
from glc.errors import EngineUnavailable, OutputNotWritable
from glc.runtime.bundle import Bundle
from glc.runtime.signatures import EXACT_GRAPHS

TINY = ProbeSizes(channels=4, height=4, width=4, layers=1, copy_bytes=1 << 12, repetitions=1)

PRIORS = ("hyper_prior", "spatial_prior_1", "spatial_prior_2", "spatial_prior_3")
CODED = tuple(f"entropy_coding {number}" for number in range(1, 6))
ENCODE = ("analysis", *PRIORS, "entropy_coding", REST, TOTAL)
DECODE = (
    *(CODED[0], "hyper_prior", CODED[1], "spatial_prior_1", CODED[2]),
    *("spatial_prior_2", CODED[3], "spatial_prior_3", CODED[4], "synthesis", REST, TOTAL),
)


def measure(path: Path, engine: str = "onnxruntime", precision: str = "f32", bpp: float = 0.5) -> StageReport:
    return measure_stages(Bundle.open(path), engine, precision, 64, 100, threads=1, repetitions=2, bpp=bpp, sizes=TINY)


def of(report: StageReport, direction: str) -> dict[str, StageRow]:
    return {row.stage: row for row in report.rows if row.direction == direction}


def ceiling(name: str, rate: float) -> Ceiling:
    return Ceiling(name, 10**9, Spread((1e3 / rate,)))


@pytest.fixture(scope="module")
def report(mini_bundle: Path) -> StageReport:
    return measure(mini_bundle)


@pytest.fixture
def tiny_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", TINY)


def test_stages_come_in_the_order_in_which_they_happen(report: StageReport) -> None:
    assert tuple(of(report, "encode")) == ENCODE
    assert tuple(of(report, "decode")) == DECODE
    assert len(report.rows) == len(ENCODE) + len(DECODE)


def test_stages_and_rest_add_up_to_the_whole_in_every_repetition(report: StageReport) -> None:
    for direction in ("encode", "decode"):
        rows = of(report, direction)
        whole = rows.pop(TOTAL)
        assert all(len(row.stage_samples_ms) == 2 and row.stage_ms > 0 for row in rows.values())
        sums = np.sum([row.stage_samples_ms for row in rows.values()], axis=0)
        np.testing.assert_allclose(sums, whole.stage_samples_ms)
        assert report.sum_over_total(direction) == pytest.approx(
            sum(r.stage_ms for r in rows.values()) / whole.stage_ms - 1
        )
        assert sum(row.share for row in rows.values()) == pytest.approx(1 + report.sum_over_total(direction))


def test_graphs_have_the_counted_costs_and_other_stages_none(report: StageReport, mini_bundle: Path) -> None:
    costs = bundle_cost(Bundle.open(mini_bundle), 64, 100)
    for direction in ("encode", "decode"):
        rows = of(report, direction)
        for name, row in rows.items():
            if name in costs:
                total = costs[name].total
                assert row.precision == "f32"
                assert row.dense_gflop == pytest.approx(1e-9 * total.dense_flops)
                assert row.traffic_mb == pytest.approx(1e-6 * (total.weight_bytes + total.fused_bytes))
                assert row.gflop_s == pytest.approx(1e3 * 1e-9 * total.dense_flops / row.stage_ms)
            elif name != TOTAL:
                assert (row.precision, row.dense_gflop, row.traffic_mb, row.compute_fraction) == (None,) * 4
        amounts = [row.dense_gflop for name, row in rows.items() if row.dense_gflop is not None and name != TOTAL]
        assert len(amounts) == 5
        assert rows[TOTAL].dense_gflop == pytest.approx(sum(amounts))


def test_fractions_are_of_the_ceiling_of_the_same_precision() -> None:
    def cost(flops: int, weight_bytes: int, fused_bytes: int) -> GraphCost:
        return GraphCost({}, Cost(1, flops, 0, weight_bytes, 0, fused_bytes), 0, 4)

    costs = {"analysis": cost(10**9, 10**6, 10**6), "hyper_prior": cost(10**8, 0, 4 * 10**6)}
    turn = Turn(20.0, (("analysis", 10.0), ("hyper_prior", 5.0), ("entropy_coding", 3.0)))
    ceilings = {name: ceiling(name, rate) for name, rate in {"f32": 100, "bf16": 400, COPY: 8}.items()}
    rows = stage_rows("encode", [turn], costs, {"analysis": "bf16", "hyper_prior": "f32"}, ceilings)
    assert [(row.stage, row.stage_ms) for row in rows] == [
        *turn.stages,
        (REST, 2.0),
        (TOTAL, 20.0),
    ]
    analysis, prior, coding, rest, total = rows
    assert (analysis.gflop_s, analysis.compute_fraction) == pytest.approx((100, 0.25))
    assert (prior.gflop_s, prior.compute_fraction) == pytest.approx((20, 0.2))
    assert (prior.gb_s, prior.copy_fraction) == pytest.approx((0.8, 0.1))
    assert coding.compute_fraction is rest.compute_fraction is None
    assert total.precision == "bf16+f32"
    assert total.compute_fraction == pytest.approx((2.5 + 1.0) / 20)
    assert [row.share for row in rows] == pytest.approx([0.5, 0.25, 0.15, 0.1, 1])


def test_a_precision_without_a_ceiling_has_no_part_of_one() -> None:
    costs = {name: GraphCost({}, Cost(1, 10**9, 0, 0, 0, 0), 0, 4) for name in ("analysis", "hyper_prior")}
    turn = Turn(20.0, (("analysis", 10.0), ("hyper_prior", 5.0)))
    ceilings = {name: ceiling(name, rate) for name, rate in {"bf16": 400, COPY: 8}.items()}
    rows = stage_rows("encode", [turn], costs, {"analysis": "bf16", "hyper_prior": "f32"}, ceilings)
    analysis, prior, _, total = rows
    assert prior.compute_fraction is None
    assert prior.gflop_s == pytest.approx(200)
    assert analysis.compute_fraction == pytest.approx(0.25)
    assert total.compute_fraction == pytest.approx(2.5 / 20)


def test_exact_graphs_are_compared_with_f32_where_bf16_is_asked(mini_bundle: Path) -> None:
    try:
        engine_loader("openvino", 1, "bf16")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    rows = of(measure(mini_bundle, "openvino", "bf16"), "encode")
    assert {rows[name].precision for name in EXACT_GRAPHS} == {"f32"}
    assert rows["analysis"].precision == "bf16"
    half, single = rows["analysis"].traffic_mb, of(measure(mini_bundle, "openvino"), "encode")["analysis"].traffic_mb
    assert half is not None
    assert single is not None
    assert half < 0.6 * single


def test_float_graphs_all_run_at_the_precision_that_is_asked(mini_float_bundle: Path) -> None:
    try:
        engine_loader("openvino", 1, "bf16")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    rows = of(measure(mini_float_bundle, "openvino", "bf16"), "decode")
    assert {row.precision for row in rows.values()} == {"bf16", None}


def test_a_precision_that_is_not_available_is_an_error(mini_bundle: Path) -> None:
    with pytest.raises(EngineUnavailable, match="onnxruntime computes in f32 only, not in bf16"):
        measure(mini_bundle, precision="bf16")


def test_the_stream_has_about_the_rate_at_which_symbols_are_drawn(mini_bundle: Path) -> None:
    bundle = Bundle.open(mini_bundle)
    report = measure_stages(bundle, "onnxruntime", "f32", 256, 256, threads=2, repetitions=1, bpp=0.2, sizes=TINY)
    assert report.file_bpp == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("bpp", [0.0, 1e3])
def test_a_rate_that_symbols_cannot_have_is_refused(mini_bundle: Path, bpp: float) -> None:
    with pytest.raises(ValueError, match="no mixture of this table's scales"):
        measure(mini_bundle, bpp=bpp)


def test_the_picture_is_a_png_that_grows_with_the_stages(report: StageReport, tmp_path: Path) -> None:
    path = tmp_path / "waterfall.png"
    path.write_bytes(waterfall_png(report, "mini"))
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width >= 1000
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.usefixtures("tiny_ceilings")
def test_the_command_prints_tables_and_one_json_document_and_writes_the_picture(
    mini_bundle: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "stages.png"
    options = ["--size", "64x100", "--threads", "1", "--repetitions", "1", "--bpp", "0.5", "--plot", str(plot)]
    result = CliRunner().invoke(app, ["stages", "-b", str(mini_bundle), *options], catch_exceptions=False)
    assert result.exit_code == 0
    *lines, last = result.stdout.splitlines()
    document = json.loads(last)
    assert document["command"] == "stages"
    assert [row["stage"] for row in document["rows"] if "stage" in row] == [*ENCODE, *DECODE]
    assert {(row["height"], row["width"], row["threads"]) for row in document["rows"]} == {(64, 100, 1)}
    assert document["engine"].startswith("onnxruntime")
    assert [row["ceiling"] for row in document["rows"] if "ceiling" in row] == ["f32", COPY]
    assert {line.split()[0] for line in lines if line.startswith(("encode  ", "decode  "))} == {"encode", "decode"}
    notes = "\n".join(document["notes"])
    for words in ("encode: stages and rest differ from the total by", "drawn at 0.5 bpp", "not measured: bf16:"):
        assert words in notes
    assert [path.name for path in tmp_path.iterdir()] == ["stages.png"]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_told_before_the_work(mini_bundle: Path, tmp_path: Path) -> None:
    options = ["stages", "-b", str(mini_bundle), "--plot", str(tmp_path / "missing" / "a.png")]
    with pytest.raises(OutputNotWritable, match="there is no folder"):
        CliRunner().invoke(app, options, catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "512"), "expected height x width"),
        (("--size", "0x512"), "expected height x width"),
        (("--precision", "f8"), "choose one of f32, f16, bf16"),
        (("--bpp", "0"), "no mixture"),
        (("--repetitions", "0"), "--repetitions"),
        (("--csv", "--latex"), "give one of"),
    ],
)
def test_mistakes_are_usage_errors(mini_bundle: Path, arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["stages", "-b", str(mini_bundle), *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
