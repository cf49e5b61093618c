"""Exact arithmetic: the bound, rounding, agreement of torch, NumPy and engines, closeness to the published model."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from tests.conftest import load_image

from glc.errors import ExportError
from glc.export import GlcModel
from glc.export.conformance import conformance_cases
from glc.export.exact_calibration import run_float
from glc.export.exact_graphs import ExactHyperPrior, ExactSpatialPrior
from glc.export.exact_priors import MEAN_EXPONENT, ExactPriors, exact_priors
from glc.export.exact_program import PARAMS, Z_HAT, Conv, Gate
from glc.export.exact_reference import _divide, run_integers
from glc.export.exact_weights import (
    ACCUMULATOR,
    LARGEST_SHIFT,
    LARGEST_WEIGHT,
    ExactProgram,
    _of_eleven_bits,
    convert,
)
from glc.export.graphs import Analysis
from glc.export.scale_levels import DEFAULT_GRID


def _programs(priors: ExactPriors) -> list[ExactProgram]:
    return [priors.hyper.program, *(prior.program for prior in priors.spatial)]


def test_no_sum_can_reach_the_bound(priors: ExactPriors) -> None:
    checked = 0
    for program in _programs(priors):
        for op in program.operations:
            if not isinstance(op, Conv):
                continue
            conv = program.convs[op.out]
            added = 0 if op.add is None else program.limits[op.add]
            for channel, weight in enumerate(conv.weight):
                shift, add_shift = int(conv.shift[channel]), int(conv.add_shift[channel])
                sums = program.limits[op.x] * int(np.abs(weight).sum()) + abs(int(conv.bias[channel]))
                unit = Fraction(1, 2 ** max(shift, -add_shift, 0))
                whole = Fraction(sums) / Fraction(2) ** shift + added * Fraction(2) ** add_shift
                assert whole / unit < ACCUMULATOR
                checked += 1
            assert np.abs(conv.weight).max() <= LARGEST_WEIGHT
    assert checked > 3000


def test_float16_holds_every_weight_and_bias_as_the_graphs_have_them(priors: ExactPriors) -> None:
    for program in _programs(priors):
        for conv in program.convs.values():
            weights = np.ldexp(conv.weight.astype(np.float64), -conv.shift[:, None, None, None])
            biases = np.ldexp(conv.bias.astype(np.float64), -conv.shift)
            for values in (weights, biases):
                np.testing.assert_array_equal(values.astype(np.float16).astype(np.float64), values)
            # No smaller ones: a matrix unit may take what is not normal for zero.
            assert np.abs(weights[weights != 0]).min() >= 2.0**-LARGEST_SHIFT
            assert np.abs(biases[biases != 0]).min(initial=1) >= 2.0**-LARGEST_SHIFT


def test_the_shift_is_bounded_where_weights_are_small(priors: ExactPriors, mini_model: GlcModel) -> None:
    """Weights a millionth as large would be finer than float16 is."""
    program = priors.spatial[0].program
    weights = {name: tensor.numpy() * 2.0**-20 for name, tensor in mini_model.state_dict().items()}
    ranges = {name: np.full(len(exponents), 1.0) for name, exponents in program.exponents.items()}
    given = {name: (program.exponents[name], program.limits[name]) for name in ("y_hat", "context")}
    converted = convert(program.operations, weights, ranges, given)
    assert max(conv.shift.max() for conv in converted.convs.values()) == LARGEST_SHIFT


def test_biases_keep_eleven_bits() -> None:
    values = np.array([0, 1, -2047, 2047.4, 2049, 2051, -4097, -4099, 2.0**22 + 2**10])
    expected = [0, 1, -2047, 2047, 2048, 2052, -4096, -4100, 2.0**22]
    np.testing.assert_array_equal(_of_eleven_bits(values), expected)


def test_no_gate_can_reach_the_bound(priors: ExactPriors) -> None:
    for program in _programs(priors):
        for op in program.operations:
            if isinstance(op, Gate):
                assert 3 * program.limits[op.x] <= 2**11
                assert 32 * program.limits[op.x] ** 2 < ACCUMULATOR


def test_division_rounds_halves_to_even() -> None:
    halves = np.array([-7, -5, -3, -1, 1, 3, 5, 7])
    np.testing.assert_array_equal(_divide(halves, np.int64(1)), [-4, -2, -2, 0, 0, 2, 2, 4])
    np.testing.assert_array_equal(_divide(halves, np.int64(-2)), 4 * halves)
    values = np.random.default_rng(0).integers(-(1 << 23), 1 << 23, 1000)
    np.testing.assert_array_equal(_divide(values, np.int64(7)), np.rint(values / 128))


def test_torch_computes_the_reference_to_the_last_bit(priors: ExactPriors) -> None:
    modules = {
        "hyper_prior": ExactHyperPrior(priors),
        **{f"spatial_prior_{k}": ExactSpatialPrior(prior, k) for k, prior in enumerate(priors.spatial, start=1)},
    }
    for name, case in conformance_cases(priors).items():
        inputs = ["z_indices"] if name == "hyper_prior" else ["y_hat", "context"]
        outputs = [field for field in case if field not in inputs]
        order = ["scale_indices", "means", "quant_step", "context"] if name == "hyper_prior" else outputs
        with torch.inference_mode():
            found = modules[name](*(torch.from_numpy(case[i]) for i in inputs))
        for field, tensor in zip(order, found, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), case[field], err_msg=f"{name} {field}")


def test_the_cases_drive_values_to_their_limits(priors: ExactPriors) -> None:
    cases = conformance_cases(priors)
    prior = priors.spatial[2]
    given = {
        "y_hat": np.rint(cases["spatial_prior_3"]["y_hat"][0].astype(np.float64) * 2**MEAN_EXPONENT).astype(np.int64),
        "context": cases["spatial_prior_3"]["context"][0].astype(np.int64),
    }
    tensors = run_integers(prior.program, given)
    saturated = [
        op.out for op in prior.program.operations if (np.abs(tensors[op.out]) == prior.program.limits[op.out]).any()
    ]
    assert len(saturated) >= len(prior.program.operations) // 2


def test_the_integers_stay_close_to_the_published_model(priors: ExactPriors, mini_model: GlcModel) -> None:
    image = torch.from_numpy(load_image("astronaut_256.png").copy())[None]  # not calibrated on
    with torch.inference_mode():
        _, z_indices = Analysis(mini_model)(image, mini_model.q_enc[1:2])
        floats = run_float(
            priors.hyper.program.operations, mini_model.state_dict(), {Z_HAT: mini_model.z_vq.lookup(z_indices)}
        )
    integers = run_integers(priors.hyper.program, {Z_HAT: priors.codebook[z_indices[0].numpy()].transpose(2, 0, 1)})
    exponents = priors.hyper.exponents[:, None, None]
    error = np.ldexp(integers[PARAMS].astype(np.float64), -exponents) - floats[PARAMS][0].double().numpy()
    assert np.sqrt(np.mean(error**2)) < 0.01 * float(floats[PARAMS].std())


def test_weights_that_are_not_finite_are_refused(priors: ExactPriors, mini_model: GlcModel) -> None:
    program = priors.spatial[0].program
    weights = {name: tensor.numpy() for name, tensor in mini_model.state_dict().items()}
    name = "y_spatial_prior.0.block.0.conv2.bias"
    weights[name] = np.full_like(weights[name], np.nan)
    ranges = {name: np.ones(len(exponents)) for name, exponents in program.exponents.items()}
    given = {name: (program.exponents[name], program.limits[name]) for name in ("y_hat", "context")}
    with pytest.raises(ExportError, match=r"y_spatial_prior\.0\.block\.0\.conv2 is not finite"):
        convert(program.operations, weights, ranges, given)


def test_without_images_there_is_nothing_to_calibrate_on(mini_model: GlcModel) -> None:
    with pytest.raises(ValueError, match="no image"):
        exact_priors(mini_model, [], DEFAULT_GRID)
