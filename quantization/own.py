"""A user's own quantizer, by its import path: checked once per process, then an entry like ours.

What it is follows from the names of its parameters:

    rounding(weight, grid) -> codes          one layer at a time, by its weights alone
    rounding(weight, grid, gram) -> codes    the same, with the inputs of the layer in view
    engine(network, images, bits) -> network the whole network, as a vendor's library works

`weight` is float `[rows, columns]`, one row per output channel. `grid` has `scale` and `zero`,
`[rows, 1]`, and `levels`: code c of a row stands for (c - zero) * scale. `gram` is `[groups,
columns, columns]`, the sum of x x^T over the inputs x that the network as quantized so far gives
the layer. The codes are uint8 `[rows, columns]`, below `levels`. `engine.run_engine` says what an
engine gets and gives.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantization.engine import WholeNetwork
from quantization.imported import explain, imported, is_own
from quantization.methods import METHODS, Method, WithoutImages, quantize_in_order
from quantization.rounding.grid import Bits, Grid, find_grid
from quantization.task import Codes, Gram, Rows

OPTION = "--quantize"
LAYER, LAYER_WITH_IMAGES = ["weight", "grid"], ["weight", "grid", "gram"]
NETWORK = ["network", "images", "bits"]
SIGNATURES = (
    "Expected is rounding(weight, grid) or rounding(weight, grid, gram) -> codes uint8 [rows, "
    "columns], or engine(network, images, bits) -> network"
)


def find_method(name: str) -> Method:
    """The quantizer of a name in `METHODS`, or of an import path.

    Raises:
        ValueError: there is no such quantizer, or a user's own does not do what one does.
    """
    if is_own(name):
        return load_own(name).method
    if name not in METHODS:
        raise ValueError(
            f"Quantization method must be one of {', '.join(METHODS)}, got `{name}`. Name your own"
            " by its import path, such as `my_package.my_rounding`."
        )
    return METHODS[name]


class Own(NamedTuple):
    """A user's own quantizer.

    Attributes:
        method: its entry.
        rounding: its rounding of a layer; None for an engine.
        groups: numbers of Gram matrices that it is tried with; 0 for none.
    """

    method: Method
    rounding: Callable[..., Codes] | None
    groups: tuple[int, ...]


@cache
def load_own(path: str) -> Own:
    """Import a quantizer.

    Raises:
        ValueError: it cannot be imported, or has other parameters.
    """
    function = imported(path, OPTION)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{OPTION}`: `{path}` has no signature. {SIGNATURES}.") from error
    known = {*LAYER_WITH_IMAGES, *NETWORK}
    names = [  # further ones keep their defaults
        name
        for name, parameter in signature.parameters.items()
        if name in known or parameter.default is parameter.empty
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(signature.parameters[name].kind not in positional for name in names):
        names = []
    if names == NETWORK:
        engine = WholeNetwork(function, path)
        return Own(Method(f"by {path}, as a whole", engine, options=frozenset()), None, ())
    rounding = partial(_round, path, function)
    if names == LAYER:
        objective = f"by {path}, each layer's weights alone"
        return Own(Method(objective, WithoutImages(rounding)), rounding, (0,))
    if names == LAYER_WITH_IMAGES:
        solve = partial(quantize_in_order, solve=rounding)
        return Own(Method(f"by {path}, each layer on quantized inputs", solve), rounding, (1, 3))
    raise ValueError(f"`{OPTION}`: `{path}` takes {signature}. {SIGNATURES}.")


@cache
def try_method(name: str, bits: Bits) -> None:
    """Try a user's own rounding on small layers; an engine is tried on the network itself.

    Raises:
        ValueError: it gives no codes, writes to its arguments, or gives other codes the second
            time.
    """
    own = load_own(name) if is_own(name) else None
    if own is not None and own.rounding is not None:
        for groups in own.groups:
            _try(name, own.rounding, bits, groups)


def _try(path: str, rounding: Callable[..., Codes], bits: Bits, groups: int) -> None:
    """Quantize a small layer twice, with the Gram matrices of so many groups."""
    rng = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(6, 9, generator=rng), torch.randn(groups, 50, 9, generator=rng)
    grams = [(inputs.mT @ inputs).double()] if groups else []
    grid = find_grid(weight, bits, symmetric=False)
    given = [weight, *grid[:2], *grams]
    before = [tensor.clone() for tensor in given]
    codes = rounding(weight, grid, *grams)
    if not all(map(torch.equal, given, before)):
        raise _wrong(path, "leave its arguments as they are: work on a copy")
    if not torch.equal(codes, rounding(weight, grid, *grams)):
        raise _wrong(
            path, "give the same codes twice: draw from a torch.Generator with a fixed seed"
        )


def _round(path: str, function: Callable[..., Any], weight: Rows, grid: Grid, *gram: Gram) -> Codes:
    try:
        with torch.enable_grad():  # it may learn its codes
            codes = function(weight, grid, *gram)
    except (Exception, SystemExit) as error:  # the function is the user's, and may do anything
        raise _wrong(path, f"run on a layer of {list(weight.shape)} ({explain(error)})") from error
    expected = f"return uint8 codes {list(weight.shape)} from 0 to {grid.levels - 1}"
    if not isinstance(codes, Tensor):
        raise _wrong(path, f"{expected}, got {type(codes).__name__}")
    if codes.dtype != torch.uint8 or codes.shape != weight.shape:
        raise _wrong(path, f"{expected}, got {list(codes.shape)} of {codes.dtype}")
    if int(codes.max()) >= grid.levels:  # as a uint8, 256 would be 0
        raise _wrong(path, f"{expected}, got {codes.max()}")
    return codes


def _wrong(path: str, must: str) -> ValueError:
    return ValueError(f"`{OPTION}`: `{path}` must {must}. {SIGNATURES}.")
