"""Inputs and outputs of the graphs that every bundle holds (docs/bundle.md, "Graphs")."""

from __future__ import annotations

from dataclasses import dataclass

from glc.engines import TensorSpec

EXACT_GRAPHS = ("hyper_prior", "spatial_prior_1", "spatial_prior_2", "spatial_prior_3")
"""Graphs that decide what a payload means; in exact arithmetic every engine must agree on them."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of one graph, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def signatures(latent_channels: int) -> dict[str, Signature]:
    """Graph name -> signature, for a model with N latent channels."""

    def latent(name: str, dtype: str = "float32") -> TensorSpec:
        return TensorSpec(name, dtype, (1, latent_channels, None, None))

    image = TensorSpec("image", "uint8", (1, None, None, 3))
    z_indices = TensorSpec("z_indices", "int32", (1, None, None))
    q_row = TensorSpec("q_row", "float32", (1, latent_channels, 1, 1))
    y_hat, context = latent("y_hat"), latent("context")
    part = (latent("scale_indices", "uint8"), latent("means"))
    return {
        "analysis": Signature((image, q_row), (latent("y"), z_indices)),
        "hyper_prior": Signature((z_indices,), (*part, latent("quant_step"), context)),
        **{f"spatial_prior_{k}": Signature((y_hat, context), part) for k in (1, 2, 3)},
        "synthesis": Signature((y_hat, q_row), (image,)),
    }


def step_signatures(latent_channels: int) -> dict[str, Signature]:
    """Step name -> signature: graphs of what happens between the networks, for engines on a device.

    Bundles made before there were such engines lack them.
    """

    def latent(name: str, dtype: str = "float32") -> TensorSpec:
        return TensorSpec(name, dtype, (1, latent_channels, None, None))

    y_hat, quant_step, means, symbols = (
        latent("y_hat"),
        latent("quant_step"),
        latent("means"),
        latent("symbols", "int32"),
    )
    y_hat_next = (latent("y_hat_next"),)
    return {
        "split": Signature((latent("y"), quant_step), tuple(latent(f"target_{part}") for part in range(4))),
        "quantise": Signature((latent("target"), means), (symbols,)),
        "assemble_0": Signature((symbols, means), y_hat_next),
        **{f"assemble_{part}": Signature((symbols, means, y_hat), y_hat_next) for part in (1, 2, 3)},
        "dequantise": Signature((y_hat, quant_step), (latent("latent"),)),
    }
