"""Which graphs compute analysis and synthesis in tiles, and what they take and give (docs/bundle.md, "Tiles")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glc.engines import TensorSpec
from glc.errors import BundleInvalid
from glc.runtime.manifest import CodecConfig, GraphEntry
from glc.runtime.messages import named
from glc.runtime.signatures import Signature
from glc.runtime.transforms import beside, own_name

GROUPS = 32
"""Of every GroupNorm of the model."""

NARROW, WIDEN = "tile_narrow", "tile_widen"
"""Graphs that turn features to float16, and back."""


@dataclass(frozen=True, slots=True)
class TileLevel:
    """Residual blocks that work at one resolution, 1/2^level of the image's."""

    blocks: int
    channels: int
    """Largest number of channels that features have there."""


@dataclass(frozen=True, slots=True)
class TileLayout:
    """Levels above the deepest, from full resolution down; the deepest is one graph for each transform."""

    analysis: tuple[TileLevel, ...]
    synthesis: tuple[TileLevel, ...]


def features(name: str, channels: int) -> TensorSpec:
    """Specification of features (1, rows, columns, C): channels last, so that rows lie in one piece."""
    return TensorSpec(name, "float32", (1, None, None, channels))


_IMAGE = TensorSpec("image", "uint8", (1, None, None, 3))
_INSIDE = TensorSpec("inside", "float32", (None,))
_STATISTICS = (TensorSpec("mean", "float32", (GROUPS, 1)), TensorSpec("inverse_deviation", "float32", (GROUPS, 1)))


def _made(channels: int) -> tuple[TensorSpec, ...]:
    moments = (TensorSpec(name, "float32", (1, channels, None, 1)) for name in ("row_means", "row_lengths"))
    return features("result", channels), *moments


def start_signature(channels_out: int) -> Signature:
    """Pixels to features."""
    return Signature((_IMAGE, _INSIDE), _made(channels_out))


def first_half_signature(channels_in: int, channels_out: int) -> Signature:
    """A residual block up to its second GroupNorm."""
    return Signature((features("features", channels_in), *_STATISTICS, _INSIDE), _made(channels_out))


def second_half_signature(channels: int, residual: int) -> Signature:
    """A residual block from its second GroupNorm on."""
    inputs = (features("features", channels), features("residual", residual), *_STATISTICS, _INSIDE)
    return Signature(inputs, _made(channels))


def resampling_signature(channels: int) -> Signature:
    """Halving or doubling both sides."""
    return Signature((features("features", channels),), _made(channels))


def end_signature(channels_in: int) -> Signature:
    """Features to pixels."""
    return Signature((features("features", channels_in), *_STATISTICS, _INSIDE), (_IMAGE,))


def conversion_signature(name: str) -> Signature:
    """`NARROW` or `WIDEN`."""
    of_result, of_features = ("float16", "float32") if name == NARROW else ("float32", "float16")
    shape = (None, None, None, None)
    return Signature((TensorSpec("features", of_features, shape),), (TensorSpec("result", of_result, shape),))


def deepest_analysis_signature(channels_in: int, latent_channels: int) -> Signature:
    """Features of the deepest level to the latent."""
    z_indices = TensorSpec("z_indices", "int32", (1, None, None))
    return Signature(
        (features("features", channels_in), _q_row(latent_channels)), (_latent("y", latent_channels), z_indices)
    )


def deepest_synthesis_signature(channels_out: int, latent_channels: int) -> Signature:
    """The decoded latent to features of the deepest level."""
    inputs = (_latent("y_hat", latent_channels), _q_row(latent_channels))
    return Signature(inputs, (features("result", channels_out),))


def _latent(name: str, channels: int) -> TensorSpec:
    return TensorSpec(name, "float32", (1, channels, None, None))


def _q_row(channels: int) -> TensorSpec:
    return TensorSpec("q_row", "float32", (1, channels, 1, 1))


def read_layout(graphs: Mapping[str, GraphEntry], config: CodecConfig, further: Sequence[str] = ()) -> TileLayout:
    """Read the layout from what a manifest says of its tile graphs.

    Args:
        graphs: tile graph name -> entry.
        config: of the model.
        further: graphs of transforms beside the model's own, whose tiles, where they have any, have the same inputs
            and outputs.

    Raises:
        BundleInvalid: a graph is missing, or does not fit the one before it.
    """
    levels = config.downsampling.bit_length() - 1
    if not levels or config.downsampling != 1 << levels:
        raise BundleInvalid(
            f"tile graphs need a downsampling of 2, 4, 8, ...; manifest.json says {config.downsampling}"
        )
    reader = _Reader(graphs)
    channels = reader.channels("tile_analysis_start")
    reader.require("tile_analysis_start", start_signature(channels))
    analysis = []
    for level in range(levels):
        read, channels = reader.blocks(f"tile_analysis_{level}", channels)
        analysis.append(read)
        reader.require(f"tile_analysis_{level}_down", resampling_signature(channels))
    reader.require("tile_analysis_deepest", deepest_analysis_signature(channels, config.latent_channels))
    channels = reader.channels("tile_synthesis_deepest")
    reader.require("tile_synthesis_deepest", deepest_synthesis_signature(channels, config.latent_channels))
    synthesis = []
    for level in reversed(range(levels)):
        reader.require(f"tile_synthesis_{level}_up", resampling_signature(channels))
        read, channels = reader.blocks(f"tile_synthesis_{level}", channels)
        synthesis.append(read)
    reader.require("tile_synthesis_end", end_signature(channels))
    for name in (NARROW, WIDEN):
        reader.require(name, conversion_signature(name))
    for graph in further:
        reader.require_beside(graph)
    reader.require_all_used()
    return TileLayout(tuple(analysis), tuple(reversed(synthesis)))


class _Reader:
    """Compares entries with signatures."""

    def __init__(self, graphs: Mapping[str, GraphEntry]) -> None:
        self._graphs = graphs
        self._used: set[str] = set()

    def channels(self, name: str) -> int:
        """Channels that a graph's first output has."""
        entry = self._graphs.get(name)
        found = entry.outputs[0].shape[-1:] if entry is not None and entry.outputs else ()
        if not found or found[0] is None:
            raise BundleInvalid(
                f"manifest.json lists no tile graph {name} with a number of channels; if the bundle is of an earlier "
                "version, export it again"
            )
        return found[0]

    def require(self, name: str, signature: Signature) -> None:
        entry = self._graphs.get(name)
        if entry is None or (entry.inputs, entry.outputs) != (signature.inputs, signature.outputs):
            raise BundleInvalid(
                f"manifest.json lists no tile graph {name} with the inputs and outputs of its place; if the bundle is "
                "of an earlier version, export it again"
            )
        self._used.add(name)

    def require_beside(self, graph: str) -> None:
        """Require of a transform that takes the place of the model's own every tile, or none."""
        own_tiles = [name for name in self._used if name.startswith(f"tile_{own_name(graph)}_") and "." not in name]
        if self._graphs.keys().isdisjoint(beside(own, graph) for own in own_tiles):
            return
        for own in own_tiles:
            entry = self._graphs[own]
            self.require(beside(own, graph), Signature(entry.inputs, entry.outputs))

    def require_all_used(self) -> None:
        """Where one graph of a level is missing, the level looks shorter; what is left over tells."""
        left = sorted(self._graphs.keys() - self._used)
        if left:
            raise BundleInvalid(
                f"manifest.json lists a tile graph {named(left[0])} that has no place behind the others"
            )

    def blocks(self, prefix: str, channels: int) -> tuple[TileLevel, int]:
        """Residual blocks of one level, and the channels behind the last."""
        most, block = channels, 0
        while f"{prefix}_{block}_1" in self._graphs:
            channels_out = self.channels(f"{prefix}_{block}_1")
            self.require(f"{prefix}_{block}_1", first_half_signature(channels, channels_out))
            self.require(f"{prefix}_{block}_2", second_half_signature(channels_out, channels))
            channels = channels_out
            most = max(most, channels)
            block += 1
        return TileLevel(block, most), channels
