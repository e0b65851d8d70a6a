"""Where activations are quantized: inputs of layers, and of additions and average pools.

Between these places lie BatchNorm and activation functions, which integer kernels absorb into the
layer before them. A site is the name of a layer, `addition-0.left`, `addition-0.right` or `pool-1`:
the number counts additions and pools in the order in which a pass through the network calls them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from quantization.advice import leave_out, quoted
from quantization.calibration import Images
from quantization.operation import ADDITIONS, Value, tensors_in, value_of
from quantization.trace import Trace

POOLS = {
    functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d,
    functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d,
}  # fmt: skip
MEANS = {torch.mean, Tensor.mean}
IN_PLACE = {Tensor.add_, Tensor.__iadd__}
SIDES = "left", "right"

Change = Callable[[str, Tensor], Tensor]  # a site and its tensor to the tensor to go on with


def operands(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Tensor]:
    """The tensors that an addition of two tensors or an average pool is given; else none."""
    first = args[0] if args else None
    if function in POOLS or (function in MEANS and len(args) + len(kwargs) > 1):  # of some axes
        return [first] if isinstance(first, Tensor) and first.ndim > 2 else []
    if function not in ADDITIONS or kwargs:
        return []
    both = list(tensors_in(args))
    return both if len(both) == len(args) == 2 and both[0] is not both[1] else []


def site_names(number: int, count: int) -> list[str]:
    """Names of the sites at the addition (of two tensors) or the pool with this number."""
    return [f"addition-{number}.{side}" for side in SIDES] if count == 2 else [f"pool-{number}"]


class Watch(TorchFunctionMode):
    """Changes what additions and pools of a pass are given.

    Args:
        change: maps a site and its tensor to the tensor to go on with.
        sites: the sites to change.
    """

    def __init__(self, change: Change, sites: Collection[str]) -> None:
        super().__init__()
        self.change, self.sites = change, sites
        self.count = 0  # additions and pools so far
        self.changing = False  # what `change` itself computes does not count

    def enter(self, network: nn.Module, args: object) -> None:
        """Begin a pass."""
        self.count = 0
        self.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, network: nn.Module, args: object, output: object) -> None:
        """End a pass."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call a function, with changed tensors if it is at a site."""
        kwargs = kwargs or {}
        if not self.changing and (tensors := operands(func, args, kwargs)):
            names = site_names(self.count, len(tensors))
            self.count += 1
            if self.sites and names[0] in self.sites:
                pairs = zip(names, tensors, strict=True)
                changed = [self.at(name, tensor) for name, tensor in pairs]
                if func in IN_PLACE and changed[0] is not tensors[0]:
                    changed[0] = tensors[0].copy_(changed[0])
                args = (*changed, *args[len(changed) :])
        return func(*args, **kwargs)

    def at(self, site: str, tensor: Tensor) -> Tensor:
        """The tensor to go on with."""
        self.changing = True
        try:
            return self.change(site, tensor)
        finally:
            self.changing = False


def watch(network: nn.Module, sites: Collection[str], change: Change) -> list[RemovableHandle]:
    """Let a network go on with changed tensors at these sites, whoever calls it.

    Returns:
        Handles, whose `remove` undoes it.
    """
    mode = Watch(change, frozenset(sites))
    handles = [
        network.register_forward_pre_hook(mode.enter),
        network.register_forward_hook(mode.leave, always_call=True),
    ]
    for name, module in network.named_modules():
        if name in mode.sites:
            hook = partial(_change_input, mode, name)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    return handles


def _change_input(
    mode: Watch, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (mode.at(name, args[0]), *args[1:]), kwargs
    first = next(iter(kwargs))
    return args, kwargs | {first: mode.at(name, kwargs[first])}


def find_sites(network: nn.Module, weights: Mapping[str, str], images: Images) -> list[list[str]]:
    """Find every site of a network, those of the same tensor together.

    Args:
        network: in evaluation mode; it stays as it is.
        weights: names of the layers whose inputs are quantized, and the keys of their weights.
        images: images to follow through the network; two are enough.

    Raises:
        ValueError: the network multiplies the weight of such a layer itself.
    """
    seen: dict[str, set[Value]] = {}

    def note(name: str, tensor: Tensor) -> Tensor:
        seen.setdefault(name, set()).add(value_of(tensor))
        return tensor

    handles = watch(network, weights, note)
    try:
        trace = Trace(network, images[:2])
    finally:
        for handle in handles:
            handle.remove()
    _check_called(trace, weights, seen)
    seen.update(_joins(trace))
    return list(_groups(seen))


def _joins(trace: Trace) -> Iterator[tuple[str, set[Value]]]:
    """Sites at additions of two branches, not of a table such as positions, and at pools."""
    branches, number = trace.branches(), 0
    for operation in trace.operations:
        tensors = operands(operation.function, operation.args, operation.kwargs)
        if tensors:
            names = site_names(number, len(tensors))
            number += 1
            if all(id(tensor) in branches for tensor in tensors):
                values = operation.inputs[: len(tensors)]
                yield from ((name, {value}) for name, value in zip(names, values, strict=True))


def _groups(seen: Mapping[str, set[Value]]) -> Iterator[list[str]]:
    """Names whose sets are linked by common values, in their first order."""
    left = dict(seen)
    while left:
        first = next(iter(left))
        group, values = [first], set(left.pop(first))
        while linked := [name for name in left if left[name] & values]:
            group += linked
            values = values.union(*(left.pop(name) for name in linked))
        yield sorted(group, key=list(seen).index)


def _check_called(trace: Trace, weights: Mapping[str, str], seen: Collection[str]) -> None:
    """Raise ValueError if the network multiplies a weight without calling its layer."""
    network = trace.network
    called = {id(network.get_parameter(weights[name])) for name in seen}
    unfit: dict[str, list[str]] = {}
    for name, key in weights.items():
        weight = network.get_parameter(key)
        uses = (o for o in trace.operations if any(id(weight) == value[0] for value in o.inputs))
        if id(weight) not in called and (use := next(uses, None)) is not None:
            owner = type(trace.modules[use.owner]).__name__
            unfit.setdefault(owner, []).append(name)
    if unfit:
        owners = "; ".join(f"{owner} multiplies {quoted(unfit[owner])} itself" for owner in unfit)
        layers = [name for names in unfit.values() for name in names]
        raise ValueError(
            f"`-a` quantizes the inputs of layers that {type(network).__name__} calls. {owners}."
            f" {leave_out(layers, weights)}, or remove `-a` from the variant."
        )
