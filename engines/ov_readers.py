"""Who reads a tensor of OpenVINO's graphs."""

from __future__ import annotations

from typing import Any

_SIZES_ALONE = "ShapeOf"


def readers(tensor: Any) -> list[Any]:
    """Inputs of operations that take the data of a tensor, not its size alone."""
    return [end for end in tensor.get_target_inputs() if end.get_node().get_type_name() != _SIZES_ALONE]
