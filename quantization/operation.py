"""One call of a torch function, as `Trace` notes it."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS = {
    functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu6,
    functional.hardtanh, functional.leaky_relu, functional.elu, functional.gelu, functional.silu,
    functional.mish, functional.hardswish, functional.softplus, torch.sigmoid, Tensor.sigmoid,
    torch.tanh, Tensor.tanh,
}  # fmt: skip
ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__}

FILLED = {  # of which only the shape is another tensor's
    Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor,
    torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like,
}  # fmt: skip
LINEAR = functional.linear  # PyTorch's own, also where `attention.unfused` puts another instead

Value = tuple[int, int]  # identity of a tensor, and how often it was changed in place


class Operation(NamedTuple):
    """One call of a torch function, made by the module `owner` itself."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Value]
    output: Value
    owner: str

    def __call__(self, first: Tensor) -> Tensor:
        """Apply the same operation to another first argument."""
        result: Tensor = self.function(first, *self.args[1:], **self.kwargs)
        return result

    def adds(self) -> bool:
        """Whether it is the plain sum of two different tensors."""
        two = len(self.inputs) == 2 and self.inputs[0] != self.inputs[1]
        return self.function in ADDITIONS and two and not self.kwargs

    def replays(self, value: Value) -> bool:
        """Whether it treats each image by itself and has `value` as its first argument."""
        first = self.args[0] if self.args else None
        return id(first) == value[0] and not self.uses_batch()

    def uses_batch(self) -> bool:
        """Whether it is a BatchNorm without running statistics, which is not linear."""
        return self.kwargs.get("training", False) is True

    def slope(self) -> Float[Tensor, " channels"]:
        """The factor that a `batch_norm` with running statistics applies to its input."""
        _, _, variance = self.args[:3]
        slope: Tensor = (variance + self.kwargs["eps"]).rsqrt()
        return slope if self.kwargs["weight"] is None else slope * self.kwargs["weight"]


def only_tensor(
    module: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """The first argument of a call, if it is a tensor and all others are the module's defaults."""
    if len(args) == 1 and not kwargs:
        return args[0] if isinstance(args[0], Tensor) else None
    signature = inspect.signature(module.forward)
    try:
        arguments = signature.bind(*args, **kwargs).arguments
    except TypeError:  # which the call itself will raise
        return None
    if not arguments:
        return None
    (first, value), *others = arguments.items()
    if first != next(iter(signature.parameters)) or not isinstance(value, Tensor):
        return None
    by_default = all(given is signature.parameters[name].default for name, given in others)
    return value if by_default else None


def value_of(tensor: Tensor) -> Value:
    """The identity and version of a tensor."""
    return id(tensor), tensor._version


def tensors_in(values: object) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors_in(list(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from tensors_in(value)
