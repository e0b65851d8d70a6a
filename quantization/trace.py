"""Trace what a network does with an image: the layers it calls, what follows each, its blocks."""

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from quantization.operation import (
    ACTIVATIONS,
    FILLED,
    LINEAR,
    Operation,
    Value,
    only_tensor,
    tensors_in,
    value_of,
)

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
Inputs = tuple[object, ...]


class Call(NamedTuple):
    """One call of a module from one tensor to one tensor, both with the batch as first axis."""

    name: str
    output: Value
    shape: torch.Size  # of the output


class Trace(TorchFunctionMode):
    """Everything that one forward pass does.

    Args:
        network: network in evaluation mode.
        images: a few images with any content.
    """

    def __init__(self, network: nn.Module, images: Float[Tensor, "images channels ..."]) -> None:
        super().__init__()
        self.network = network
        self.modules = dict(network.named_modules())
        self.operations: list[Operation] = []
        self.calls: list[Call] = []
        # Names of the running modules, and whether each was called with one tensor.
        self._running: list[tuple[str, bool]] = []
        self._entered: set[str] = set()
        self._kept: list[Any] = []  # frees no tensor, so that no identity occurs twice
        images = images.clone()  # a network may work in place
        self._images = id(images)
        self._kept.append(images)
        handles = list(self._watch())
        try:
            with torch.no_grad(), self:
                network(images)
        finally:
            for handle in handles:
                handle.remove()
        self.layers = list(
            dict.fromkeys(c.name for c in self.calls if isinstance(self.modules[c.name], LAYERS))
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Note an operation for each tensor that a call makes or writes to."""
        kwargs = kwargs or {}
        inputs = [value_of(tensor) for tensor in tensors_in((args, kwargs))]
        result = func(*args, **kwargs)
        self._kept.append((args, kwargs, result))
        owner = self._running[-1][0] if self._running else ""
        for output in tensors_in(args[:1] if func is Tensor.__setitem__ else result):
            self.operations.append(Operation(func, args, kwargs, inputs, value_of(output), owner))
        return result

    def _watch(self) -> Iterator[RemovableHandle]:
        for name, module in self.modules.items():
            enter = partial(self._enter, name)
            yield module.register_forward_pre_hook(enter, with_kwargs=True)
            yield module.register_forward_hook(self._leave)

    def _enter(self, name: str, module: nn.Module, args: Inputs, kwargs: dict[str, Any]) -> None:
        self._entered.add(name)
        self._running.append((name, only_tensor(module, args, kwargs) is not None))

    def _leave(self, module: nn.Module, args: Inputs, output: object) -> None:
        name, single = self._running.pop()
        if single and isinstance(output, Tensor):
            self._kept.append(output)
            self.calls.append(Call(name, value_of(output), output.shape))

    def multiplied(self) -> list[nn.Linear]:
        """Linear layers whose weights the network passes to `functional.linear` itself."""
        return [
            module
            for name, module in self.modules.items()
            if type(module).forward is nn.Linear.forward and name not in self._entered
            if any(use.function is LINEAR for use in self._uses(module.weight))
        ]

    def why_not_called(self, name: str) -> str:
        """What the network does with a layer that is not among `layers`, in a phrase."""
        if name in self._entered:
            return "not called with one tensor alone"
        if (use := next(self._uses(self.network.get_submodule(name).weight), None)) is None:
            return "not called"
        function, does = use.function, "passes the weight to"
        if getattr(function, "__name__", "") == "__get__":  # of a property, such as `T`
            function, does = function.__self__, "reads the weight's"  # type: ignore[attr-defined]
        called = getattr(function, "__name__", str(function))
        owner = type(self.modules[use.owner]).__name__
        return f"not called: {owner} itself {does} `{called}`"

    def _uses(self, weight: object) -> Iterator[Operation]:
        """Operations on a weight by modules that are no layers, which have weights of their own."""
        for operation in self.operations:
            own = isinstance(self.modules[operation.owner], LAYERS)
            if not own and any(id(weight) == value[0] for value in operation.inputs):
                yield operation

    def tail(self, layer: str) -> list[Operation]:
        """The BatchNorm and the activation, or either, that alone use a layer's output.

        A layer that is called more than once has no tail.
        """
        if self.count(layer) != 1:
            return []
        operations: list[Operation] = []
        value = next(call.output for call in self.calls if call.name == layer)
        for kind in ({functional.batch_norm}, ACTIVATIONS):
            users = [operation for operation in self.operations if value in operation.inputs]
            if len(users) == 1 and users[0].function in kind and users[0].replays(value):
                operations.append(users[0])
                value = users[0].output
        return operations

    def count(self, name: str) -> int:
        """Number of calls of a module."""
        return sum(call.name == name for call in self.calls)

    def blocks(self) -> list[str]:
        """Modules that add one branch to another and have two or more layers; innermost ones only.

        If one module adds branches, all modules of its class are blocks, as in BRECQ's own list of
        classes. A network may name its blocks itself in an attribute `quantization_blocks`: names
        of modules, or patterns such as `stage*`.

        Raises:
            ValueError: a pattern in `quantization_blocks` matches no module that can be a block.
        """
        fitting = [name for name in self.modules if self._fits(name)]
        own = getattr(self.network, "quantization_blocks", None)
        if own is not None:
            return self._named(own, fitting)
        branches = self.branches()
        sums = [o for o in self.operations if o.adds() and {id(t) for t in o.args} <= branches]
        owners = {self._owner(o.owner) for o in sums}
        classes = {type(self.modules[name]) for name in owners if name and name in fitting}
        names = [name for name in fitting if name and type(self.modules[name]) in classes]
        return [name for name in names if not any(o.startswith(f"{name}.") for o in names)]

    def branches(self) -> set[int]:
        """Identities of tensors made in the pass, apart from those that no image changes.

        Such as parameters, and what is made of them alone: positions or masks that are added.
        """
        fixed = {id(t) for t in (*self.network.parameters(), *self.network.buffers())}
        branches = {self._images}
        for operation in self.operations:
            made, used = operation.output[0], {value[0] for value in operation.inputs}
            if operation.function in FILLED or used <= fixed:
                fixed.add(made)
            else:
                fixed.discard(made)
                branches.add(made)
        return branches - fixed

    def _named(self, patterns: Iterable[str], fitting: list[str]) -> list[str]:
        names: list[str] = []
        for pattern in patterns:
            matching = [name for name in fitting if name and fnmatchcase(name, pattern)]
            if not matching:
                raise ValueError(
                    f"`quantization_blocks` of {type(self.network).__name__} has `{pattern}`, which"
                    " matches no module with two or more layers that maps one tensor to one tensor."
                    f" It has {', '.join(name for name in fitting if name) or 'none'}."
                )
            names += matching
        return [name for name in dict.fromkeys(names) if not _within(name, names)]

    def _fits(self, name: str) -> bool:
        """Whether a module can be a block: it has two or more layers, and all are called once."""
        layers = [layer for layer in self.layers if _within(layer, [name])]
        return len(layers) > 1 and all(self.count(module) == 1 for module in (name, *layers))

    def _owner(self, name: str) -> str:
        """The module that an operation belongs to: the nearest enclosing module with layers."""
        while name and not any(_within(layer, [name]) for layer in self.layers):
            name = name.rpartition(".")[0]
        return name

    def scale_into(self, layer: str, block: str) -> Float[Tensor, " channels"] | None:
        """The factor at which a layer's output is added into its block's output.

        It is BatchNorm's factor, or 1, if only additions and one activation at the end lie in
        between. None if the output gets there in any other way.
        """
        call = next(call for call in self.calls if call.name == layer)
        end = next(call for call in self.calls if call.name == block)
        if call.shape != end.shape:
            return None
        weight = self.modules[layer].get_parameter("weight")
        scale = torch.ones(len(weight), device=weight.device)
        value, activated = call.output, False
        while value != end.output:
            users = [operation for operation in self.operations if value in operation.inputs]
            if len(users) != 1 or activated:
                return None
            (user,) = users
            if user.function is functional.batch_norm:
                # of a sequence of tokens, instead of per row
                per_place = len(call.shape) > 2 and isinstance(self.modules[layer], nn.Linear)
                if user.uses_batch() or per_place:
                    return None
                scale = scale * user.slope()
            elif user.function in ACTIVATIONS:
                activated = True
            elif not user.adds():
                return None
            value = user.output
        return scale


def _within(name: str, others: Iterable[str]) -> bool:
    """Whether a module lies within one of `others`; the network itself is named ''."""
    return any(name != other and (not other or name.startswith(f"{other}.")) for other in others)
