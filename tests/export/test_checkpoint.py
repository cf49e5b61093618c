"""Checkpoint files: formats, wrappers, strictness and safety."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from glc.errors import CheckpointMismatch, CheckpointUnreadable, UnsafeCheckpoint
from glc.export import GlcModel, load_checkpoint, synthetic_model
from glc.export.synthetic import CONFIGS, MINI

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state(mini_model: GlcModel) -> State:
    return {name: tensor.clone() for name, tensor in mini_model.state_dict().items()}


def _same(model: GlcModel, state: State) -> bool:
    loaded = model.state_dict()
    return loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "net", "net_g"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pth_files_load_with_wrappers_and_prefix(
    tmp_path: Path, state: State, wrapper: str | None, prefix: str
) -> None:
    content: dict[str, Any] = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({wrapper: content, "epoch": 7} if wrapper else content, tmp_path / "model.pth")
    model = load_checkpoint(tmp_path / "model.pth")
    assert _same(model, state)
    assert model.config == MINI
    assert not model.training


def test_safetensors_load(tmp_path: Path, state: State) -> None:
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    assert _same(load_checkpoint(tmp_path / "model.safetensors"), state)


def test_half_precision_becomes_float32(tmp_path: Path, state: State) -> None:
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pth")
    model = load_checkpoint(tmp_path / "half.pth")
    assert _same(model, {name: tensor.half().float() for name, tensor in state.items()})


def test_a_model_with_f_8_loads(tmp_path: Path) -> None:
    torch.save(synthetic_model(CONFIGS["f8"]).state_dict(), tmp_path / "f8.pth")
    assert load_checkpoint(tmp_path / "f8.pth").config.downsampling == 8


def test_training_only_tensors_are_ignored_with_a_count(
    tmp_path: Path, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {
        "vqgan.quantize.embedding.weight": torch.zeros(4, 4),
        "code_pred_loss.position_emb": torch.zeros(2),
        "code_pred_pix_loss.idx_pred_layer.0.weight": torch.zeros(2),
    }
    torch.save(state | extra, tmp_path / "model.pth")
    with caplog.at_level(logging.INFO, "glc"):
        assert _same(load_checkpoint(tmp_path / "model.pth"), state)
    assert "ignored 3 training-only tensors" in caplog.text


def test_a_missing_tensor_is_named_with_its_shape(tmp_path: Path, state: State) -> None:
    name = "enc.enc_1.0.block.0.conv2.weight"
    torch.save({key: tensor for key, tensor in state.items() if key != name}, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match=rf"missing {name} \[32, 32, 1, 1\]"):
        load_checkpoint(tmp_path / "model.pth")


def test_an_unexpected_tensor_is_named(tmp_path: Path, state: State) -> None:
    torch.save(state | {"discriminator.weight": torch.zeros(3, 5)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match=r"unexpected discriminator.weight \[3, 5\]"):
        load_checkpoint(tmp_path / "model.pth")


def test_a_misshaped_tensor_is_named_with_both_shapes(tmp_path: Path, state: State) -> None:
    torch.save(state | {"hyper_enc.1.bias": torch.zeros(31)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match=r"hyper_enc.1.bias has shape \[31\], expected \[32\]"):
        load_checkpoint(tmp_path / "model.pth")


def test_many_problems_are_counted_and_stay_readable(tmp_path: Path, state: State) -> None:
    kept = {key: tensor for key, tensor in state.items() if not key.startswith("dec.")}
    torch.save(kept, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match=r"and [0-9]+ more") as caught:
        load_checkpoint(tmp_path / "model.pth")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, state: State, value: float) -> None:
    torch.save(state | {"hyper_enc.1.bias": torch.full((32,), value)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match=r"hyper_enc\.1\.bias"):
        load_checkpoint(tmp_path / "model.pth")


class _Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, state: State) -> None:
    marker = tmp_path / "ran"
    torch.save(state | {"x": _Harmful(marker)}, tmp_path / "model.pth")
    with pytest.raises(UnsafeCheckpoint, match="more than tensors"):
        load_checkpoint(tmp_path / "model.pth")
    assert not marker.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(UnsafeCheckpoint):
        load_checkpoint(tmp_path / "model.pth")


def test_a_plain_pickle_with_objects_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "model.pth").write_bytes(pickle.dumps(_Harmful(marker), protocol=2))
    with pytest.raises((UnsafeCheckpoint, CheckpointUnreadable)):
        load_checkpoint(tmp_path / "model.pth")
    assert not marker.exists()


def test_a_state_dict_with_other_values_names_them(tmp_path: Path, state: State) -> None:
    torch.save(state | {"note": "hello"}, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match="note is a str"):
        load_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint at all", b"PK\x03\x04broken", b"\x80\x02."],
    ids=["empty", "text", "zip", "pickle"],
)
def test_other_files_are_no_checkpoint(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointUnreadable, match=re.escape(name)):
        load_checkpoint(tmp_path / name)


def test_a_truncated_checkpoint_is_unreadable(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:100_000])
    with pytest.raises(CheckpointUnreadable, match=r"cut\.pth"):
        load_checkpoint(tmp_path / "cut.pth")


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "model.pth")
    with pytest.raises(CheckpointUnreadable, match="list"):
        load_checkpoint(tmp_path / "model.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnreadable, match=r"nothing\.pth"):
        load_checkpoint(tmp_path / "nothing.pth")
