"""One pass of a network over many images that stops at each layer until it has been quantized."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

Visit = Callable[[str, list[Tensor]], Iterable[Tensor]]


def lockstep(
    network: nn.Module, stops: Mapping[str, nn.Module], chunks: Sequence[Tensor], visit: Visit
) -> None:
    """Run a network on every chunk of images, all up to the same stop before any goes on.

    Each chunk is a coroutine that is suspended where the network calls a stop, so that whatever
    lies between the stops needs no graph and is computed once. A module that is called twice stops
    twice.

    Args:
        network: in evaluation mode, so that an example's output depends on no other.
        stops: modules by name; none may contain another.
        chunks: inputs of the network.
        visit: given a stop's name and its inputs, a chunk each, gives its outputs, a chunk each.
            It may take inputs off the list as it goes, which frees them.

    Raises:
        ValueError: a stop is called with other than one tensor or under autocast, or chunks meet
            different stops.
    """
    runs = [greenlet(network.__call__) for _ in chunks]
    arrived = list(_resume(runs, chunks, stops))
    while not all(run.dead for run in runs):
        names = {name for name, _ in arrived}
        if len(names) > 1:
            places = sorted("its end" if name is None else f"`{name}`" for name in names)
            raise ValueError(
                f"{type(network).__name__} takes another path for other images, first at "
                f"{' and '.join(places)}; only a network that calls the same layers for all images "
                "can be quantized layer by layer. Use `nearest` or `obc`."
            )
        inputs = [images for _, images in arrived]
        arrived.clear()
        arrived.extend(_resume(runs, visit(names.pop(), inputs), stops))


def _resume(
    runs: Sequence[greenlet], values: Iterable[Tensor], stops: Mapping[str, nn.Module]
) -> Iterator[tuple[Any, Any]]:
    """Let each run go on to its next stop, or its end (None), with the value that it waits for."""
    for run, value in zip(runs, values, strict=True):
        with _stopping(stops):  # not while the values are computed, which may call the modules
            arrived = run.switch(value)
        yield (None, arrived) if run.dead else arrived


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
