"""A copy of a network whose weights are exchanged for a while, and what that does to its logits."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div

from quantization.calibration import CHUNK, Images, check_finite
from quantization.trace import LAYERS

Logits = Float[Tensor, "images classes"]


class Gap(NamedTuple):
    """How far the logits of a changed network are from those of the original.

    Attributes:
        kl: Kullback-Leibler divergence of the predictions from the original's, in nats per image.
        changed: share of images whose predicted class is another, in percentage points.
    """

    kl: float
    changed: float


def compare(original: Logits, changed: Logits) -> Gap:
    """The gap between two networks' logits; infinite where the changed ones are not finite."""
    if not changed.isfinite().all():
        return Gap(torch.inf, torch.inf)
    before, after = (logits.double().log_softmax(1) for logits in (original, changed))
    kl = kl_div(after, before, reduction="none", log_target=True).sum(1).mean().item()
    moved = (original.argmax(1) != changed.argmax(1)).double().mean().item()
    return Gap(max(kl, 0.0), 100 * moved)  # rounding may leave -1e-17


class Probe:
    """A copy of a network, in evaluation mode, that is compared with itself.

    Layers before the first changed one give what they gave in the original: what a layer gives is
    kept for a chunk of images while all changes are tried on it, which halves their time.

    Args:
        network: the network; its weights are those that are compared with.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().float().requires_grad_(False)
        self._names = {
            name: module
            for name, module in self.network.named_modules()
            if isinstance(module, LAYERS)
        }

    @torch.no_grad()
    def gaps(self, images: Images, changes: Sequence[Mapping[str, Tensor]]) -> list[Gap]:
        """The gap that each change of weights, by their keys, makes on these images.

        Raises:
            DivergedError: the original's logits are not finite.
        """
        originals: list[Tensor] = []
        changed: list[list[Tensor]] = [[] for _ in changes]
        for chunk in torch.split(images, CHUNK):
            outputs: dict[str, Tensor] = {}
            with self._hooked(outputs) as order:
                originals.append(self.network(chunk.clone()))  # a network may work in place
            check_finite(type(self.network).__name__, originals[-1:], "gives")
            for weights, logits in zip(changes, changed, strict=True):
                with self._replaying(self._before(weights, order), outputs), self._with(weights):
                    logits.append(self.network(chunk.clone()))
        return [compare(torch.cat(originals), torch.cat(logits)) for logits in changed]

    @contextmanager
    def _hooked(self, outputs: dict[str, Tensor]) -> Iterator[list[str]]:
        """Note the output of each layer, and yield the order of their calls."""
        order: list[str] = []

        def keep(name: str, module: nn.Module, args: object, output: Tensor) -> None:
            order.append(name)
            outputs[name] = output.clone()  # what follows may work in place

        handles = [m.register_forward_hook(partial(keep, n)) for n, m in self._names.items()]
        try:
            yield order
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, weights: Mapping[str, Tensor], order: Sequence[str]) -> list[str]:
        """Layers that are called once, and before any layer with one of these weights."""
        ids = {id(self.network.get_parameter(key)) for key in weights}
        names = {name for name, m in self._names.items() if id(m.weight) in ids}
        if len(names) < len(ids) or not names <= {*order}:  # a weight that no layer multiplies
            return []
        first = min((order.index(name) for name in names), default=len(order))
        return [name for name in order[:first] if order.count(name) == 1]

    @contextmanager
    def _replaying(self, names: Sequence[str], outputs: Mapping[str, Tensor]) -> Iterator[None]:
        def replay(name: str, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
            return outputs[name].clone()

        for name in names:
            own: Callable[..., Tensor] = partial(replay, name)
            self._names[name].forward = own  # type: ignore[method-assign]
        try:
            yield
        finally:
            for name in names:
                del self._names[name].forward  # that of its class is left

    @contextmanager
    def _with(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        parameters = {key: self.network.get_parameter(key) for key in weights}
        before = {key: parameter.clone() for key, parameter in parameters.items()}
        for key, parameter in parameters.items():
            parameter.copy_(weights[key])
        try:
            yield
        finally:
            for key, parameter in parameters.items():
                parameter.copy_(before[key])
