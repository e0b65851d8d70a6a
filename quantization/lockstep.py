"""One pass of a network over many images that waits at each layer until it is quantized."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from quantization.operation import only_tensor

# Largest inputs of a stop, in bytes over all chunks, for which runs are suspended. What a suspended
# run holds is two to four times as much.
MAX_SUSPENDED = 2e8

Answer = Callable[[Tensor], Tensor]
Visit = Callable[[str, Sequence[Tensor]], Answer]
Calls = Mapping[str, tuple[nn.Module, Callable[..., Any]]]  # what calls of each stop do meanwhile


def lockstep(
    network: nn.Module,
    stops: Mapping[str, nn.Module],
    chunks: Sequence[Tensor],
    visit: Visit,
    axes: Mapping[str, int] | None = None,
) -> None:
    """Run a network on every chunk of images, all up to the same stop before any continues.

    Each chunk is a coroutine that is suspended where the network calls a stop, so that everything
    between the stops needs no graph and is computed once. If a stop's inputs are large, its runs
    are abandoned and restarted for the next stop. A module that is called twice stops twice.

    Args:
        network: network in evaluation mode, so that examples do not affect each other.
        stops: modules by name; none may contain another.
        chunks: inputs of the network.
        visit: maps a stop's name and its inputs, one tensor per chunk, to the function that the
            stop applies to each chunk from then on.
        axes: axis of a stop's inputs and outputs along which the images lie, if it is not the
            first. For `visit` and its function it is.

    Raises:
        ValueError: a stop is not called with one tensor alone, or is called under autocast, or
            chunks reach different stops.
    """
    calls = {
        name: (module, partial(_wait, name, module, (axes or {}).get(name, 0)))
        for name, module in stops.items()
    }
    runs = [_Run(network, calls, chunk, MAX_SUSPENDED / len(chunks)) for chunk in chunks]
    answers: list[Answer] = []
    while True:
        names = {run.resume(answers) for run in runs}
        if len(names) > 1:
            places = sorted("its end" if name is None else f"`{name}`" for name in names)
            raise ValueError(
                f"{type(network).__name__} takes different paths for different images, first at "
                f"{' and '.join(places)}; only a network that calls the same layers for all images "
                "can be quantized layer by layer. Use `nearest` or `obc`."
            )
        name = names.pop()
        if name is None:
            return
        answers.append(visit(name, [run.inputs for run in runs]))


class _Run:
    """The pass of one chunk through the network.

    Attributes:
        inputs: inputs of the stop that it has reached.
    """

    def __init__(self, network: nn.Module, calls: Calls, chunk: Tensor, max_bytes: float) -> None:
        self.network, self.calls, self.chunk, self.max_bytes = network, calls, chunk, max_bytes
        self.run: greenlet | None = None  # the suspended pass
        self.inputs = chunk

    def resume(self, answers: Sequence[Answer]) -> str | None:
        """Reach the first stop that has no answer; return its name, or None at the end."""
        if self.run is None:
            self.run, self.inputs = greenlet(self.network.__call__), self.chunk
            answers = [torch.clone, *answers]  # a network may work in place
        else:
            answers = answers[-1:]
        name = None
        for answer in answers:
            given = [answer(self.inputs)]
            del self.inputs  # freed while the network continues
            with _stopping(self.calls):  # only here: computing the answer calls modules too
                reached = self.run.switch(given.pop())
            if self.run.dead:
                return None
            name, self.inputs = reached
        if self.inputs.nbytes > self.max_bytes:
            self.run.throw()
            self.run = None
        return name


@contextmanager
def _stopping(calls: Calls) -> Iterator[None]:
    # Not `forward`: a module's own hooks would run around it here and again in the visit.
    before = [module.__dict__.get("_compiled_call_impl") for module, _ in calls.values()]
    for module, call in calls.values():
        module._compiled_call_impl = call
    try:
        yield
    finally:
        for (module, _), own in zip(calls.values(), before, strict=True):
            module._compiled_call_impl = own


def _wait(name: str, module: nn.Module, axis: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    given = only_tensor(module, args, kwargs)
    if given is None:
        raise ValueError(
            f"`{name}` must be called with one tensor, and every other argument at its default, to"
            " be quantized as a whole."
        )
    if torch.is_autocast_enabled(given.device.type):  # it would outlive the suspended run
        raise ValueError(
            f"`{name}` is called under autocast, but is quantized layer by layer in float32 only."
            " Remove `torch.autocast` from the network, since `--trainer.precision` does the same,"
            " or use `nearest` or `obc`."
        )
    main = getcurrent().parent
    if main is None:
        raise RuntimeError(f"`{name}` waits for values outside of `lockstep`.")
    outputs: Tensor = main.switch((name, given.transpose(0, axis)))
    return outputs.transpose(0, axis)
