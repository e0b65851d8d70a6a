"""One pass of a network over many images that stops at each layer until it has been quantized."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

# Bytes of a stop's inputs, all chunks together, up to which runs are suspended there. What their
# functions hold is two to four times as much.
MOST = 2e8

Answer = Callable[[Tensor], Tensor]
Visit = Callable[[str, Sequence[Tensor]], Answer]


def lockstep(
    network: nn.Module, stops: Mapping[str, nn.Module], chunks: Sequence[Tensor], visit: Visit
) -> None:
    """Run a network on every chunk of images, all up to the same stop before any goes on.

    Each chunk is a coroutine that is suspended where the network calls a stop, so that whatever
    lies between the stops needs no graph and is computed once. But where a stop's inputs are large
    a run is given up, and made anew for the next stop. A module that is called twice stops twice.

    Args:
        network: in evaluation mode, so that an example's output depends on no other.
        stops: modules by name; none may contain another.
        chunks: inputs of the network.
        visit: given a stop's name and its inputs, a chunk each, gives what the stop does from there
            on with a chunk.

    Raises:
        ValueError: a stop is called with other than one tensor or under autocast, or chunks meet
            different stops.
    """
    runs = [_Run(network, stops, chunk, MOST / len(chunks)) for chunk in chunks]
    answers: list[Answer] = []
    while True:
        names = {run.go_on(answers) for run in runs}
        if len(names) > 1:
            places = sorted("its end" if name is None else f"`{name}`" for name in names)
            raise ValueError(
                f"{type(network).__name__} takes another path for other images, first at "
                f"{' and '.join(places)}; only a network that calls the same layers for all images "
                "can be quantized layer by layer. Use `nearest` or `obc`."
            )
        name = names.pop()
        if name is None:
            return
        answers.append(visit(name, [run.inputs for run in runs]))


class _Run:
    """One chunk's way through the network.

    Attributes:
        inputs: of the stop that was reached.
    """

    def __init__(
        self, network: nn.Module, stops: Mapping[str, nn.Module], chunk: Tensor, most: float
    ) -> None:
        self.network, self.stops, self.chunk, self.most = network, stops, chunk, most
        self.run: greenlet | None = None  # where it is suspended
        self.inputs = chunk

    def go_on(self, answers: Sequence[Answer]) -> str | None:
        """Reach the first stop that has no answer, and give its name, or None at the end."""
        if self.run is None:
            self.run, self.inputs = greenlet(self.network.__call__), self.chunk
            answers = [torch.clone, *answers]  # a network may work in place
        else:
            answers = answers[-1:]
        name = None
        for answer in answers:
            given = [answer(self.inputs)]
            del self.inputs  # freed while the network goes on
            with _stopping(self.stops):  # not while the answer is computed, which calls modules
                reached = self.run.switch(given.pop())
            if self.run.dead:
                return None
            name, self.inputs = reached
        if self.inputs.nbytes > self.most:
            self.run.throw()
            self.run = None
        return name


@contextmanager
def _stopping(stops: Mapping[str, nn.Module]) -> Iterator[None]:
    # Not `forward`, around which a module's own hooks would run here and again in the visit.
    before = [module.__dict__.get("_compiled_call_impl") for module in stops.values()]
    for name, module in stops.items():
        module._compiled_call_impl = partial(_stop, name)
    try:
        yield
    finally:
        for module, call in zip(stops.values(), before, strict=True):
            module._compiled_call_impl = call


def _stop(name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
        raise ValueError(f"`{name}` must be called with one tensor to be quantized as a whole.")
    if torch.is_autocast_enabled(args[0].device.type):  # it would outlive the run that is suspended
        raise ValueError(
            f"`{name}` is called under autocast, and is quantized layer by layer in float32 only."
            " Take `torch.autocast` out of the network, for `--trainer.precision` does the same, or"
            " use `nearest` or `obc`."
        )
    main = getcurrent().parent
    if main is None:
        raise RuntimeError(f"`{name}` waits for values outside of `lockstep`.")
    return main.switch((name, args[0]))
