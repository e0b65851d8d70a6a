"""What several variants of one network have in common, computed once."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from quantization.operation import tensors_in

SPACE = 2**28  # bytes; the Gram matrices of a resnet20 take 30 MB, those of a resnet18 1.3 GB

T = TypeVar("T")


class Shared:
    """Values by what they were made from: grids, Gram matrices, codes, and whole solutions.

    Methods share the codes of equal problems; a variant and its controls share its solution.

    For one network whose weights stay as they are, with one set of bits by pattern.

    Args:
        space: bytes to keep at most; a value that no longer fits is made again for each variant.
    """

    def __init__(self, space: int = SPACE) -> None:
        self._values: dict[Hashable, Any] = {}
        self._left = space

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of this key, made if there is none; not to be changed in place."""
        if key in self._values:
            value: T = self._values[key]
            return value
        value = make()
        size = sum(tensor.nbytes for tensor in tensors_in(value))
        if size <= self._left:
            self._values[key] = value
            self._left -= size
        return value
