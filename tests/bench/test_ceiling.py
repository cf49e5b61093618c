"""Ceilings: what is run, what is counted, and that a precision which is not there is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from glc.bench import ceiling as module
from glc.bench.ceiling import COPY, Ceiling, CeilingProbe, ProbeSizes, ceiling_row, ceiling_table, convolution_graph
from glc.bench.cost import graph_cost
from glc.bench.timing import Spread
from glc.engines import EngineLoader, engine_loader
from glc.errors import EngineFailed, EngineUnavailable

TINY = ProbeSizes(channels=8, height=6, width=10, layers=2, copy_bytes=100_001, repetitions=2)


def test_flops_are_those_that_the_cost_count_finds_in_the_graph() -> None:
    cost = graph_cost(convolution_graph(TINY), {"x": (1, 8, 6, 10)})
    assert TINY.flops == cost.total.dense_flops == 2 * 2 * 8 * 8 * 9 * 6 * 10
    assert cost.kinds.keys() == {"Conv"}


def test_the_graph_is_valid_and_its_numbers_keep_their_size() -> None:
    sizes = ProbeSizes(channels=64, height=16, width=16)
    graph = convolution_graph(sizes)
    onnx.checker.check_model(onnx.load_model_from_string(graph), full_check=True)
    x = np.random.default_rng(2).standard_normal((1, 64, 16, 16), np.float32)
    y = engine_loader("onnxruntime", 1).load(graph).run({"x": x})["y"]
    assert y.shape == x.shape
    assert 0.3 < float(y.std()) < 3


def test_a_rate_is_work_over_time() -> None:
    ceiling = Ceiling("f32", 6 * 10**9, Spread((2.0, 3.0, 60.0)))
    assert (ceiling.median, ceiling.best) == (2000, 3000)


def test_every_ceiling_that_is_there_is_measured_and_every_other_named() -> None:
    with CeilingProbe("onnxruntime", 2, TINY) as probe:
        ceilings = probe.measure()
    assert ceilings.keys() == {"f32", COPY}
    assert all(len(c.spread.samples_ms) == 2 and 0 < c.median <= c.best for c in ceilings.values())
    assert (ceilings["f32"].work, ceilings[COPY].work) == (TINY.flops, 2 * 100_001)
    assert probe.unavailable.keys() == {"f16", "bf16"}
    assert all("f32 only" in reason for reason in probe.unavailable.values())


def test_openvino_measures_what_the_processor_can() -> None:
    pytest.importorskip("openvino")
    with CeilingProbe("openvino", 1, TINY) as probe:
        ceilings = probe.measure()
    assert {"f32", COPY} <= ceilings.keys()
    assert ceilings.keys() | probe.unavailable.keys() == {"f32", "f16", "bf16", COPY}
    assert not ceilings.keys() & probe.unavailable.keys()


def test_a_missing_precision_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def loader(name: str, threads: int | None, precision: str | None) -> EngineLoader:
        asked.append(precision)
        if precision != "f32":
            raise EngineUnavailable(f"no {precision} here")
        return engine_loader("onnxruntime", threads, precision)

    monkeypatch.setattr(module, "engine_loader", loader)
    with CeilingProbe("any", 1, TINY) as probe:
        assert asked == ["f32", "f16", "bf16"]
        assert probe.unavailable == {"f16": "no f16 here", "bf16": "no bf16 here"}


def test_an_engine_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineUnavailable, match="no engine is called 'nowhere'"):
        CeilingProbe("nowhere", 1, TINY)


def test_a_copy_covers_the_whole_array() -> None:
    with CeilingProbe("onnxruntime", 3, TINY) as probe:
        assert not probe._target.any()
        probe.measure()
        assert (probe._target == 1).all()


def test_a_closed_probe_measures_nothing() -> None:
    probe = CeilingProbe("onnxruntime", 1, TINY)
    probe.close()
    probe.close()
    with pytest.raises(EngineFailed, match="closed"):
        probe.measure()


def test_measurements_that_disagree_are_called_noisy() -> None:
    def at(name: str, *samples_ms: float) -> Ceiling:
        return Ceiling(name, 10**9, Spread(samples_ms))

    calm = ceiling_row(at("f32", 10, 10), at("f32", 10.4, 10.4))
    noisy = ceiling_row(at(COPY, 10, 10), at(COPY, 20, 20))
    assert (noisy.before_median, noisy.after_median, noisy.best) == (100, 50, 100)
    assert noisy.disagreement == pytest.approx(1)
    table = ceiling_table([calm, noisy], {"f16": "not on this processor"})
    assert [row[0] for row in table.rows] == ["dense convolution f32", "copy, read and written"]
    assert table.notes == (
        "copy: before and after differ by 100.0%, over 5%: the machine was noisy",
        "not measured: f16: not on this processor",
    )
