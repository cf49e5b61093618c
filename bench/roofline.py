"""What a codec could reach on a device that is not at hand: projected from its graphs, never measured.

    cost of the graphs at an image size, ceilings of the device -> floor of each stage -> projection at an efficiency

The floor of a graph is the time in which the device's ceilings let its FLOPs be computed or its bytes be moved,
whichever takes longer. No engine that multiplies directly and writes the result of every convolution to memory can be
faster; Winograd's convolutions and tensors that stay in a cache could be. Not included: entropy coding unless it is
given, kernel launches (which small graphs feel most), copies between host and device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from glc.bench.cost import GraphCost, bundle_cost
from glc.bench.paper import TABLE_5, TABLE_6, PaperRow
from glc.runtime.bundle import Bundle
from glc.runtime.signatures import EXACT_GRAPHS, signatures

STATUS = "projected, not measured"
"""Stands in every row."""

DEFAULT_EFFICIENCY = 0.5
"""Part of the ceilings that a projection takes as reached.

Between the two that TensorRT reached with SSD-ResNet34, a convolutional network on 1200x1200 pixels, on an A100 (MLPerf
inference v1.1, closed division, NVIDIA, A100-PCIe-80GBx1_TRT, int8, 624 TOP/s): 1.92 ms for one image at a time and
913 images/s in batches. At 433 GOP an image (MLPerf Inference Benchmark, arXiv:1911.02549) that is 0.36 and 0.63.
"""

PRECISION_BYTES = {"fp16": 2, "tf32": 4}
"""Precision -> bytes of a number in memory. Both accumulate in fp32, and both hold the integers of exact arithmetic."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device's ceilings as its vendor publishes them, dense: without sparsity."""

    name: str
    fp16_tflops: float
    """Tensor cores, fp16 or bf16 with fp32 accumulation, in 10^12 FLOP/s."""
    tf32_tflops: float | None
    """Tensor cores in TF32; None where they cannot."""
    fp32_tflops: float
    """Ordinary cores, which do what is no multiply-add of a convolution or matrix product."""
    memory_gb_s: float
    """Memory bandwidth in 10^9 bytes/s."""
    source: str
    """Where the vendor publishes them."""


DEVICES = {
    "a100-40g": Device("NVIDIA A100 SXM 40 GB", 312, 156, 19.5, 1555, "NVIDIA A100 Tensor Core GPU data sheet"),
    "a100-80g": Device("NVIDIA A100 SXM 80 GB", 312, 156, 19.5, 2039, "NVIDIA A100 Tensor Core GPU data sheet"),
    "h100": Device(
        "NVIDIA H100 SXM 80 GB", 989.5, 494.5, 67, 3350, "NVIDIA H100 Tensor Core GPU data sheet, sparse rates halved"
    ),
    "h200": Device(
        "NVIDIA H200 SXM 141 GB", 989.5, 494.5, 67, 4800, "NVIDIA H200 Tensor Core GPU data sheet, sparse rates halved"
    ),
    "l4": Device("NVIDIA L4 24 GB", 121, 60, 30.3, 300, "NVIDIA L4 Tensor Core GPU data sheet, sparse rates halved"),
    "l40s": Device("NVIDIA L40S 48 GB", 362.05, 183, 91.6, 864, "NVIDIA L40S data sheet"),
    "a10": Device("NVIDIA A10 24 GB", 125, 62.5, 31.2, 600, "NVIDIA A10 Tensor Core GPU data sheet"),
    "rtx4090": Device(
        "NVIDIA GeForce RTX 4090 24 GB", 165.2, 82.6, 82.6, 1008, "NVIDIA Ada GPU Architecture white paper, appendix A"
    ),
    "t4": Device("NVIDIA T4 16 GB", 65, None, 8.1, 320, "NVIDIA T4 Tensor Core GPU product brief"),
}
"""Devices by the names that the command takes."""


@dataclass(frozen=True, slots=True)
class RooflineRow:
    """One stage, or the sum of those that make an encoder or a decoder."""

    stage: str
    precision: str
    """One of `PRECISION_BYTES`; of a sum, those of its parts."""
    dense_gflop: float
    """Convolutions and matrix products, a multiply-add counted as two, in 10^9."""
    elementwise_gflop: float
    traffic_mb: float
    """Weights and fused activations read and written, in 10^6 bytes."""
    compute_ms: float
    """What the FLOPs alone take at the ceiling."""
    memory_ms: float
    """What the bytes alone take at the ceiling."""
    floor_ms: float
    bound: str
    """What sets the floor: `compute` or `memory`; `given` where the time was passed in; `sum`."""
    projected_ms: float
    status: str = STATUS


@dataclass(frozen=True, slots=True)
class Roofline:
    """Projection of a bundle onto a device."""

    device: Device
    label: str
    """The bundle's."""
    arithmetic: str
    parameters: int
    height: int
    width: int
    efficiency: float
    """Part of the ceilings that the projected times assume."""
    not_included: tuple[str, ...]
    """What the sums leave out."""
    rows: tuple[RooflineRow, ...]
    paper: tuple[PaperRow, ...] = tuple(row for row in (*TABLE_5, *TABLE_6) if row.model == "GLC")
    status: str = STATUS


def project_bundle(
    bundle: Bundle,
    device: str,
    height: int,
    width: int,
    efficiency: float = DEFAULT_EFFICIENCY,
    entropy_ms: tuple[float, float] | None = None,
    prior_precision: str | None = None,
) -> Roofline:
    """Project one image through a codec on a device.

    Args:
        bundle: exact or float.
        device: one of `DEVICES`.
        height: of the image in pixels.
        width: likewise.
        efficiency: part of the ceilings that is reached, above 0 and up to 1.
        entropy_ms: time of entropy coding on the host, encoding and decoding; None leaves it out.
        prior_precision: of `hyper_prior` and `spatial_prior_*`; None takes tf32, fp16 where the device has no tf32.
            The other graphs run in fp16.

    Raises:
        ValueError: no such device or precision, or a number out of range.
        BundleError: a graph cannot be read or counted.
    """
    if device not in DEVICES:
        raise ValueError(f"no device is called {device!r}; choose one of {', '.join(DEVICES)}")
    if not 0 < efficiency <= 1:
        raise ValueError(f"efficiency must be above 0 and at most 1; got {efficiency}")
    if entropy_ms is not None and min(entropy_ms) < 0:
        raise ValueError(f"times of entropy coding must not be negative; got {entropy_ms}")
    ceilings = DEVICES[device]
    priors = prior_precision or ("fp16" if ceilings.tf32_tflops is None else "tf32")
    names = signatures(bundle.manifest.config.latent_channels)
    precisions = {name: priors if name in EXACT_GRAPHS else "fp16" for name in names}
    _tflops(ceilings, priors)  # an unusable precision raises before the graphs are counted
    float_bytes = {name: PRECISION_BYTES[precision] for name, precision in precisions.items()}
    costs = bundle_cost(bundle, height, width, float_bytes)
    left_out = ("kernel launches", "copies between host and device", "what lies between the networks")
    return Roofline(
        device=ceilings,
        label=bundle.manifest.label,
        arithmetic=bundle.manifest.arithmetic,
        parameters=bundle.manifest.parameters,
        height=height,
        width=width,
        efficiency=efficiency,
        not_included=("entropy coding", *left_out) if entropy_ms is None else left_out,
        rows=tuple(_rows(costs, ceilings, precisions, efficiency, entropy_ms)),
    )


def floor_row(stage: str, cost: GraphCost, device: Device, precision: str, efficiency: float) -> RooflineRow:
    """Floor and projection of one graph, whose bytes were counted for this precision."""
    total = cost.total
    traffic = total.weight_bytes + total.fused_bytes
    # Tensor cores and ordinary cores work at the same time.
    compute_ms = 1e-9 * max(
        total.dense_flops / _tflops(device, precision), total.elementwise_flops / device.fp32_tflops
    )
    memory_ms = 1e-6 * traffic / device.memory_gb_s
    floor_ms = max(compute_ms, memory_ms)
    return RooflineRow(
        stage=stage,
        precision=precision,
        dense_gflop=1e-9 * total.dense_flops,
        elementwise_gflop=1e-9 * total.elementwise_flops,
        traffic_mb=1e-6 * traffic,
        compute_ms=compute_ms,
        memory_ms=memory_ms,
        floor_ms=floor_ms,
        bound="compute" if compute_ms >= memory_ms else "memory",
        projected_ms=floor_ms / efficiency,
    )


def _rows(
    costs: Mapping[str, GraphCost],
    device: Device,
    precisions: Mapping[str, str],
    efficiency: float,
    entropy_ms: tuple[float, float] | None,
) -> Iterator[RooflineRow]:
    """Every graph, entropy coding where its time is given, and what an encoder and a decoder run of them."""
    rows = {name: floor_row(name, cost, device, precisions[name], efficiency) for name, cost in costs.items()}
    yield from rows.values()
    sums = {"encode": ("analysis", *EXACT_GRAPHS), "decode": (*EXACT_GRAPHS, "synthesis")}
    coding = dict(zip(sums, entropy_ms or (), strict=False))
    for name, milliseconds in coding.items():
        yield RooflineRow(f"entropy coding of {name}", "host", 0, 0, 0, 0, 0, milliseconds, "given", milliseconds)
    for name, stages in sums.items():
        parts = [rows[stage] for stage in stages]
        yield RooflineRow(
            stage=f"{name} with entropy coding" if name in coding else f"{name}, networks alone",
            precision="+".join(dict.fromkeys(part.precision for part in parts)),
            dense_gflop=sum(part.dense_gflop for part in parts),
            elementwise_gflop=sum(part.elementwise_gflop for part in parts),
            traffic_mb=sum(part.traffic_mb for part in parts),
            compute_ms=sum(part.compute_ms for part in parts),
            memory_ms=sum(part.memory_ms for part in parts),
            floor_ms=sum(part.floor_ms for part in parts) + coding.get(name, 0),
            bound="sum",
            projected_ms=sum(part.projected_ms for part in parts) + coding.get(name, 0),
        )


def _tflops(device: Device, precision: str) -> float:
    rates = {"fp16": device.fp16_tflops, "tf32": device.tf32_tflops}
    if precision not in rates:
        raise ValueError(f"no precision is called {precision!r}; choose one of {', '.join(rates)}")
    rate = rates[precision]
    if rate is None:
        raise ValueError(f"{device.name} does not compute in {precision}; choose another precision")
    return rate
