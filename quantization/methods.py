"""The registry of quantizers: everything that one quantizer is, in one entry."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from quantization.engine import WholeNetwork
from quantization.fit import fit_descent, fit_loop, fit_quadratic
from quantization.independent import quantize_independently
from quantization.reconstruct import FitUnit, reconstruct
from quantization.rounding.adaround import Settings
from quantization.rounding.gptq import gptq
from quantization.rounding.gram import Quadratic
from quantization.rounding.grid import Grid
from quantization.rounding.nearest import nearest
from quantization.rounding.obc import obc
from quantization.task import Codes, Round, Rows, Solution, Solve, Task


class WithoutImages(NamedTuple):
    """A quantizer that looks at weights alone: one layer's rows and grid in, codes out."""

    rounding: Round


class Paper(NamedTuple):
    """What a method's `-paper` variants do as arXiv:2512.15335 does.

    Attributes:
        objective: what they minimise, in a phrase; None if the same as without `-paper`.
        images: calibration images.
        rounds: rounds of augmented images; None for as many as the user asks for.
        loop: constants of the published loop; None if the method has no loop.
        implies: suffixes that are part of the paper's settings.
    """

    objective: str | None = None
    images: int = 1024
    rounds: int | None = None
    loop: Settings | None = None
    implies: frozenset[str] = frozenset()


class Method(NamedTuple):
    """A quantizer.

    Attributes:
        objective: what it minimises, in a phrase for the record.
        solve: finds the codes of all layers of a network with images in view, or `WithoutImages`,
            or a `WholeNetwork`, which makes weights instead of codes.
        options: suffixes, apart from `-paper`, that make a difference to it.
        paper: what `-paper` means; None if it means nothing.
        fits_blocks: whether it fits the network's blocks as a whole, instead of single layers.
        layerwise: the method whose codes it has on a network without blocks, maybe itself, so that
            they are found once; None if they are not shared.
        sums_first: whether images enter only through sums over all of them that are made before any
            layer is solved, so that the time of solving does not grow with the images.
        power: power of the number of columns to which a layer's time grows.
    """

    objective: str
    solve: Callable[[Task], Solution] | WithoutImages | WholeNetwork
    options: frozenset[str] = frozenset({"bn"})
    paper: Paper | None = None
    fits_blocks: bool = False
    layerwise: str | None = None
    sums_first: bool = False
    power: int = 2

    @property
    def looks_at_images(self) -> bool:
        """Whether it needs images at all."""
        return not isinstance(self.solve, WithoutImages)

    @property
    def suffixes(self) -> frozenset[str]:
        """The suffixes that make a difference to it."""
        return self.options if self.paper is None else self.options | {"paper"}


def quantize_in_order(task: Task, solve: Solve) -> Solution:
    """Quantize one layer after the other, each on the outputs of the quantized layers before it.

    Args:
        task: the network, its layers and the images.
        solve: maps a layer's rows, grid and Gram matrices to codes.
    """

    def solve_quadratic(rows: Rows, grid: Grid, quadratic: Quadratic) -> Codes:
        return solve(rows, grid, quadratic.gram)

    return reconstruct(task, partial(fit_quadratic, solve=solve_quadratic))


def reconstruct_outputs(task: Task) -> Solution:
    """Fit each unit's output behind its activation, by the published loop or by descent."""
    fit: FitUnit = fit_descent if task.loop is None else partial(fit_loop, settings=task.loop)
    return reconstruct(task, fit)


METHODS: dict[str, Method] = {
    "nearest": Method("each weight's own rounding error", WithoutImages(nearest)),
    "adaround": Method(
        "squared error of each layer's output behind BatchNorm and activation, by descent",
        reconstruct_outputs,
        options=frozenset({"folded", "bn"}),
        paper=Paper(
            "squared error of each layer's output behind BatchNorm and activation, and a"
            " regulariser that ends in up or down, by the published loop",
            loop=Settings(regularisation=1e-3),
        ),
        layerwise="adaround",
    ),
    "brecq": Method(
        "squared error of each block's output behind its activation, by descent",
        reconstruct_outputs,
        options=frozenset({"fisher", "folded", "bn"}),
        paper=Paper(
            "squared error of each block's output behind its activation, and a regulariser that"
            " ends in up or down, by the published loop",
            loop=Settings(regularisation=1e-2),
            implies=frozenset({"folded"}),
        ),
        fits_blocks=True,
        layerwise="adaround",
    ),
    "obc": Method(
        "squared error of each layer's output, without activation, on full-precision inputs",
        partial(quantize_independently, solve=obc),
        paper=Paper(images=2048, rounds=10, implies=frozenset({"bn"})),
        sums_first=True,
        power=3,
    ),
    "gptq": Method(
        "squared error of each layer's output, without activation, on quantized inputs",
        partial(quantize_in_order, solve=gptq),
    ),
}
