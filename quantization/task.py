"""What a quantizer is given, and what it gives back for each layer."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from quantization.calibration import Calibration
from quantization.rounding.adaround import Settings
from quantization.rounding.gram import Layer
from quantization.rounding.grid import Bits, Grid
from quantization.rounding.nearest import nearest
from quantization.shared import Shared
from quantization.trace import Trace

Codes = UInt8[Tensor, "rows columns"]
Rows = Float[Tensor, "rows columns"]
Gram = Float[Tensor, "groups columns columns"]

Round = Callable[[Rows, Grid], Codes]
Solve = Callable[[Rows, Grid, Gram], Codes]


class LayerPlan(NamedTuple):
    """One layer to quantize.

    Attributes:
        layer: the module in its network.
        rows: its weight, one row per output channel.
        grid: the values each row may take.
        bits: bits per weight.
    """

    layer: Layer
    rows: Rows
    grid: Grid
    bits: Bits


class Fitted(NamedTuple):
    """Codes of one layer, and the relative error with nearest codes and with these."""

    codes: Codes
    error_before: float | None
    error_after: float | None


class LayerRecord(NamedTuple):
    """What happened to one layer.

    Attributes:
        name: name of the layer in its network.
        unit: name of the block, or of the layer itself, whose output was reconstructed.
        bits: bits per weight.
        weights: number of weights.
        flipped: share of weights whose code is not the nearest to the trained weight.
        error_before: squared error of the output of the layer (or its unit) with nearest codes,
            relative to the square of the full-precision output; None without images.
        error_after: the same with the chosen codes.
        seconds: wall time.
    """

    name: str
    unit: str
    bits: Bits
    weights: int
    flipped: float
    error_before: float | None
    error_after: float | None
    seconds: float


Solution = tuple[dict[str, Codes], list[LayerRecord]]  # codes by layer, and a record of each


class Task(NamedTuple):
    """A network to quantize with images in view.

    Attributes:
        trace: what the network, at full precision and in evaluation mode, does with an image.
        plans: the layers to quantize, by name.
        blocks: names of the modules to fit as a whole.
        calibration: the images.
        seed: seed of everything random.
        shared: what earlier variants of the network have left.
        paper: whether the settings of the paper are asked for.
        loop: constants of the published loop, if that is to run.
        fisher: whether to weight errors by the Fisher information.
        stand_in: what to fit each unit by in a rehearsal of this task; None if it is earnest.
        alone: whether each layer is fitted as if no other were quantized.
    """

    trace: Trace
    plans: dict[str, LayerPlan]
    blocks: list[str]
    calibration: Calibration
    seed: int
    shared: Shared
    paper: bool = False
    loop: Settings | None = None
    fisher: bool = False
    stand_in: Callable[..., dict[str, Fitted]] | None = None
    alone: bool = False

    def generator(self) -> torch.Generator:
        """A new generator on the CPU, whatever was drawn before."""
        return torch.Generator().manual_seed(self.seed)


def round_layers(plans: dict[str, LayerPlan], rounding: Round) -> Solution:
    """Quantize each layer by its weights alone."""
    codes, records = {}, []
    for name, plan in plans.items():
        started = time.perf_counter()
        codes[name] = rounding(plan.rows, plan.grid)
        fitted = Fitted(codes[name], None, None)
        records.append(make_record(name, name, plan, fitted, time.perf_counter() - started))
    return codes, records


def make_record(
    unit: str, name: str, plan: LayerPlan, fitted: Fitted, seconds: float
) -> LayerRecord:
    """The record of one layer."""
    flipped = (fitted.codes != nearest(plan.rows, plan.grid)).float().mean().item()
    errors = fitted.error_before, fitted.error_after
    return LayerRecord(name, unit, plan.bits, plan.rows.numel(), flipped, *errors, seconds)
