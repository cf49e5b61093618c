"""Constants of OpenVINO's graphs, which are stored in 16 bits or another shape as often as not."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def constant_behind(value: Any) -> NDArray[Any] | None:
    """The constant that an operand is, before it was converted or reshaped; None where it is computed."""
    node = value.get_node()
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return node.get_data() if node.get_type_name() == "Constant" else None
