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


def with_constant(value: Any, name: str) -> tuple[Any, NDArray[Any]] | None:
    """The other operand of an operation with a constant, and that."""
    node = value.get_node()
    if node.get_type_name() != name:
        return None
    for this, other in (node.input_values(), reversed(node.input_values())):
        constant = constant_behind(other)
        if constant is not None and constant_behind(this) is None:
            return this, constant
    return None
