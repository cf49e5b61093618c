"""How little an engine must do, and what is refused of one that does it wrong."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.conftest import PHOTO, SMALL, Pixels, edited, names_by_content

import glc
from glc.engines import Array, Engine, EngineLoader, HostLoader, TensorSpec
from glc.errors import (
    EngineFailed,
    EngineMismatch,
    EngineNotExact,
    EngineRejectedGraph,
    GlcError,
)


class _BlockLoader(HostLoader):
    """An engine of a few lines: y holds the mean of each 16x16 block of pixels, synthesis paints blocks with it."""

    def __init__(self, bundle: glc.Bundle, name: str = "onnxruntime") -> None:
        self._bundle = bundle
        self._names = names_by_content(bundle)
        self.name = name
        self.fingerprint = f"{name}, blocks of 16"
        self.spoiled: tuple[str, str, float] | None = None
        """Graph, output and the value that the first element is to have."""
        self.resized: tuple[str, str, int] | None = None
        """Graph, output and the axis along which it is to be one short."""

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        name = self._names[hashlib.sha256(graph).hexdigest()]
        entry = self._bundle.manifest.graphs[name]
        return _BlockEngine(self, name, entry.inputs, entry.outputs)


class _BlockEngine:
    def __init__(
        self, loader: _BlockLoader, name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self._loader, self._name, self.inputs, self.outputs = loader, name, inputs, outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        results = self._compute(*(feeds[spec.name] for spec in self.inputs))
        if self._loader.spoiled is not None and self._loader.spoiled[0] == self._name:
            results[self._loader.spoiled[1]].flat[0] = self._loader.spoiled[2]
        if self._loader.resized is not None and self._loader.resized[0] == self._name:
            _, output, axis = self._loader.resized
            results[output] = np.delete(results[output], 0, axis)
        return results

    def _compute(self, first: Array, second: Array | None = None) -> dict[str, Array]:
        if self._name == "analysis":
            _, height, width, _ = first.shape
            padded = np.pad(first[0], ((0, -height % 64), (0, -width % 64), (0, 0)), mode="edge").astype(np.float32)
            means = padded.reshape(padded.shape[0] // 16, 16, padded.shape[1] // 16, 16, 3).mean(axis=(1, 3))
            y = np.resize(means.transpose(2, 0, 1), (32, *means.shape[:2]))
            return {"y": y[None], "z_indices": y[None, 0, ::4, ::4].astype(np.int32)}
        if self._name == "synthesis":
            blocks = np.nan_to_num(np.rint(first[0, :3])).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
            return {"image": blocks.repeat(16, axis=0).repeat(16, axis=1)[None]}
        rows, columns = (first.shape[1] * 4, first.shape[2] * 4) if self._name == "hyper_prior" else first.shape[2:]
        half = (1, 32, rows // 2, columns // 2)
        part: dict[str, Array] = {
            "scale_indices": np.full(half, 40, np.uint8),
            "means": np.full(half, 0.25, np.float32),
        }
        whole = (1, 32, rows, columns)
        step_and_context = {"quant_step": np.ones(whole, np.float32), "context": np.zeros(whole, np.float32)}
        return part | step_and_context if self._name == "hyper_prior" else part

    def close(self) -> None:
        pass


@pytest.fixture
def blocks(mini_float_bundle: Path) -> _BlockLoader:
    return _BlockLoader(glc.Bundle.open(mini_float_bundle))


def _block_image() -> Pixels:
    colours = np.random.RandomState(0).randint(0, 256, (7, 9, 3)).astype(np.uint8)
    return colours.repeat(16, axis=0).repeat(16, axis=1)


def test_an_engine_of_a_few_lines_can_code_an_image_without_loss(blocks: _BlockLoader) -> None:
    loader: EngineLoader = blocks  # the protocol, checked by mypy
    image = _block_image()
    with glc.Codec(glc.Bundle.open(blocks._bundle.path), loader) as codec:
        data = codec.encode(image, 0)
        np.testing.assert_array_equal(codec.decode(data), image)
        assert codec.engine == "onnxruntime, blocks of 16"


def test_streams_of_another_fingerprint_are_refused(blocks: _BlockLoader, float_codec: glc.Codec) -> None:
    data = float_codec.encode(PHOTO[:40, :50], 1)
    with glc.Codec(blocks._bundle, blocks) as codec, pytest.raises(EngineMismatch, match="blocks of 16"):
        codec.decode(data)


def test_an_engine_that_is_not_exact_is_refused_with_the_first_element(mini_bundle: Path) -> None:
    bundle = glc.Bundle.open(mini_bundle)
    with (
        glc.Codec(bundle, _BlockLoader(bundle)) as codec,
        pytest.raises(EngineNotExact, match=r"hyper_prior.*blocks of 16.*scale_indices.*first at \[0, 0, 0, 0\]"),
    ):
        codec.warm_up()


def test_a_float_engine_that_streams_have_no_code_for_is_refused_by_name(mini_float_bundle: Path) -> None:
    bundle = glc.Bundle.open(mini_float_bundle)
    with pytest.raises((GlcError, ValueError), match="abacus"):
        glc.Codec(bundle, _BlockLoader(bundle, "abacus"))


BEYOND = [("scale_indices", 255.0), ("means", np.nan), ("means", np.inf), ("quant_step", np.nan)]


@pytest.mark.parametrize(
    "spoiled",
    [
        ("analysis", "y", np.nan),
        ("analysis", "y", np.inf),
        ("analysis", "y", 1e30),
        ("analysis", "z_indices", -1),
        ("analysis", "z_indices", 256),
        *(("hyper_prior", *what) for what in BEYOND),
        ("hyper_prior", "quant_step", 0),
        *(("spatial_prior_2", *what) for what in BEYOND[:3]),
    ],
    ids=lambda spoiled: "-".join(map(str, spoiled)),
)
def test_values_that_cannot_be_coded_are_the_engines_failure(
    spoiled: tuple[str, str, float], blocks: _BlockLoader
) -> None:
    blocks.spoiled = spoiled
    with glc.Codec(blocks._bundle, blocks) as codec, pytest.raises(EngineFailed):
        codec.encode(_block_image())


@pytest.mark.parametrize(
    "spoiled",
    [
        *(("hyper_prior", *what) for what in BEYOND),
        ("hyper_prior", "quant_step", 3e38),
        *(("spatial_prior_2", *what) for what in BEYOND[:3]),
    ],
    ids=lambda spoiled: "-".join(map(str, spoiled)),
)
def test_values_that_no_encoder_could_code_give_no_image(spoiled: tuple[str, str, float], blocks: _BlockLoader) -> None:
    with glc.Codec(blocks._bundle, blocks) as codec:
        data = codec.encode(_block_image())
        blocks.spoiled = spoiled
        with pytest.raises(EngineFailed):
            codec.decode(data)


@pytest.mark.parametrize(
    "resized",
    [
        *(("analysis", "y", axis) for axis in (0, 1, 2, 3)),
        *(("analysis", "z_indices", axis) for axis in (0, 1, 2)),
        *(("hyper_prior", output, axis) for output in ("scale_indices", "means", "quant_step") for axis in (1, 2, 3)),
        *(("spatial_prior_2", output, axis) for output in ("scale_indices", "means") for axis in (1, 2, 3)),
        *(("synthesis", "image", axis) for axis in (0, 1, 2, 3)),
    ],
    ids=lambda resized: "-".join(map(str, resized)),
)
def test_a_graph_that_gives_another_shape_is_refused_by_name(
    resized: tuple[str, str, int], blocks: _BlockLoader
) -> None:
    graph, output, _ = resized
    with glc.Codec(blocks._bundle, blocks) as codec:
        data = codec.encode(_block_image())
        blocks.resized = resized
        if graph != "synthesis":
            with pytest.raises(EngineRejectedGraph, match=f"graph {graph} gives .*; expected {output}"):
                codec.encode(_block_image())
        if graph != "analysis":
            for call in (codec.decode, codec.preview):
                with pytest.raises(EngineRejectedGraph, match=f"graph {graph} gives .*; expected {output}"):
                    call(data)


class _TalkativeEngine(_BlockEngine):
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        raise EngineFailed(f"node '\x1b[2J{'x' * 100_000}'\nfailed")


class _TalkativeLoader(_BlockLoader):
    """Its errors hold what a graph says."""

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        name = self._names[hashlib.sha256(graph).hexdigest()]
        if name == "analysis":
            raise EngineRejectedGraph("a\nb\x1b[2J" + "x" * 100_000)
        entry = self._bundle.manifest.graphs[name]
        return _TalkativeEngine(self, name, entry.inputs, entry.outputs)


def test_what_an_engine_says_is_one_short_line_that_names_the_graph(blocks: _BlockLoader) -> None:
    talkative = _TalkativeLoader(blocks._bundle)
    with glc.Codec(blocks._bundle, blocks) as codec, glc.Codec(blocks._bundle, talkative) as other:
        data = codec.encode(_block_image())
        calls: list[tuple[str, type[GlcError], Callable[[], object]]] = [
            ("analysis", EngineRejectedGraph, lambda: other.encode(_block_image())),
            ("hyper_prior", EngineFailed, lambda: other.decode(data)),
        ]
        for graph, kind, call in calls:
            with pytest.raises(kind, match=f"^graph {graph}: ") as caught:
                call()
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 500


def test_a_graph_that_no_engine_can_load_is_refused(mini_bundle: Path, tmp_path: Path) -> None:
    content = os.urandom(100)

    def change(document: dict[str, Any]) -> None:
        document["graphs"]["analysis"]["file"].update(
            sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
        )

    path = edited(mini_bundle, tmp_path / "garbage.glcb", change)
    (path / "graphs" / "analysis.onnx").write_bytes(content)
    with glc.Codec.open(path) as codec, pytest.raises(EngineRejectedGraph):
        codec.encode(SMALL)
