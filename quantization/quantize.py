"""A whole network, quantized in a copy by any method; what became of each layer is recorded."""

import copy
import time
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.batchnorm import batchnorms, estimate_batchnorm, fold_batchnorm
from quantization.calibration import Calibration, LayerRecord, Record, check_count
from quantization.fisher import fisher_diagonal
from quantization.fit import fit_descent, fit_loop, fit_quadratic
from quantization.independent import quantize_independently, rounds_of
from quantization.quantized_network import QuantizedNetwork, QuantizedWeight, layer_bits
from quantization.reconstruct import (
    CHUNK,
    Codes,
    Fit,
    Fitted,
    Plan,
    Unit,
    check_finite,
    make_record,
    reconstruct,
)
from quantization.rounding.adaround import Settings
from quantization.rounding.gptq import gptq
from quantization.rounding.gram import Layer
from quantization.rounding.grid import Bits, find_grid
from quantization.rounding.nearest import nearest
from quantization.trace import Trace
from quantization.variant import UNQUANTIZED, Variant

PAPER = {"adaround": Settings(regularisation=1e-3), "brecq": Settings(regularisation=1e-2)}
OBJECTIVES = {
    "nearest": "each weight's own rounding error",
    "adaround": "squared error of each layer's output behind BatchNorm and activation, by descent",
    "adaround-paper": "squared error of each layer's output behind BatchNorm and activation, and a"
    " regulariser that ends in up or down, by the published loop",
    "brecq": "squared error of each block's output behind its activation, by descent",
    "brecq-paper": "squared error of each block's output behind its activation, and a regulariser"
    " that ends in up or down, by the published loop",
    "obc": "squared error of each layer's output, without activation, on full-precision inputs",
    "gptq": "squared error of each layer's output, without activation, on quantized inputs",
}
Solved = tuple[dict[str, Codes], list[LayerRecord]]


@torch.no_grad()
def quantize_network(
    network: nn.Module,
    variant: Variant,
    calibration: Calibration | None = None,
    patterns: Mapping[str, Bits] | None = None,
    loop: Settings | None = None,
) -> tuple[QuantizedNetwork, Record]:
    """Quantize every convolution and linear weight, and leave the network as it was.

    Args:
        network: any; it is used in evaluation mode.
        variant: the method and its options.
        calibration: the images that the method looks at, if it does.
        patterns: bits of some layers, as in `layer_bits`.
        loop: constants of the published loop, instead of the paper's; for variants with `-paper`.

    Returns:
        Codes with all else that the network has, and a record.

    Raises:
        ValueError: as `layer_bits`; no images; a layer that the network does not call, or whose
            weights or inputs are not finite. The message names it.
    """
    started = time.perf_counter()
    bits = layer_bits(network, variant, patterns)
    work = copy.deepcopy(network).eval().requires_grad_(False)
    if variant.calibrates:
        check_count(variant, 0 if calibration is None else len(calibration.images))
        work.float()
    if (variant.folds or variant.fisher) and calibration is not None:
        # other layers' values are looked at on the way
        for chunk in torch.split(calibration.images, CHUNK):
            check_finite(type(network).__name__, [work(chunk.clone())], "gives")
    if variant.folds and calibration is not None:
        fold_batchnorm(work, calibration.images)
    trace = None
    if variant.method != "nearest" and calibration is not None:
        trace = _follow(work, bits, calibration.images)
    plans = _make_plans(work, bits, variant, [] if trace is None else trace.layers)
    units = list(plans)
    if trace is None or calibration is None:
        codes, records = _round_all(plans)
    elif variant.method == "obc":
        generator = _generator(calibration, variant)
        codes, records = quantize_independently(work, plans, variant, calibration, generator)
    else:
        made = _make_units(trace, plans, variant, calibration)
        units = [unit.name for unit in made]
        codes, records = _run_units(work, made, variant, calibration, loop)
    for name, plan in plans.items():
        plan.layer.weight.copy_(_packed(plan, codes[name]).dequantize())
    if variant.estimates_bn and calibration is not None:
        estimate_batchnorm(work, torch.cat(list(rounds_of(calibration))))
    name = f"{variant.method}-paper" if variant.paper else variant.method
    objective = OBJECTIVES.get(name, OBJECTIVES[variant.method])
    record = Record(variant, objective, units, records, time.perf_counter() - started)
    return _collect(network, work, plans, codes, variant), record


def check_network(
    network: nn.Module,
    variant: Variant,
    images: Float[Tensor, "images channels height width"],
    patterns: Mapping[str, Bits],
) -> None:
    """Raise what `quantize_network` would raise for, before anything is trained.

    Raises:
        ValueError: a layer cannot be quantized, a pattern matches none, the network does not call a
            layer, or it has no BatchNorm for a variant that changes it.
    """
    work = copy.deepcopy(network).eval().float()
    bits = layer_bits(work, variant, patterns)
    if variant.calibrates:
        trace = _follow(work, bits, images)
        if variant.method == "brecq":
            trace.blocks()
    if variant.folds or variant.estimates_bn:
        batchnorms(work)


def _make_plans(
    network: nn.Module, bits: Mapping[str, Bits], variant: Variant, called: Sequence[str]
) -> dict[str, Plan]:
    """Every layer to quantize, by its name; one that has several, or a tied weight, comes once.

    That is under the name that the network calls it by.
    """
    plans: dict[int, tuple[str, Plan]] = {}
    names = {key: key.removesuffix("weight").removesuffix(".") for key in bits}
    for key in sorted(bits, key=lambda key: names[key] not in called):
        weight, some, name = network.get_parameter(key), bits[key], names[key]
        if some == UNQUANTIZED or id(weight) in plans:
            continue
        rows = weight.flatten(1).float()
        try:
            grid = find_grid(rows, some, variant.is_symmetric(some))
        except ValueError as error:
            raise ValueError(f"`{key}`: {error}") from error
        plans[id(weight)] = name, Plan(cast(Layer, network.get_submodule(name)), rows, grid, some)
    return dict(plans.values())


def _collect(
    network: nn.Module,
    work: nn.Module,
    plans: Mapping[str, Plan],
    codes: Mapping[str, Codes],
    variant: Variant,
) -> QuantizedNetwork:
    """Everything by its key in the state dict, under all names that it has."""
    names = {id(plan.layer.weight): name for name, plan in plans.items()}
    # cast for the calibration, `work` may have lost digits of what is not quantized
    changed = variant.folds or variant.estimates_bn
    rest = {key: t.clone() for key, t in (work if changed else network).state_dict().items()}
    weights = {}
    for key, parameter in work.named_parameters(remove_duplicate=False):
        if id(parameter) in names:
            name = names[id(parameter)]
            del rest[key]
            weights[key] = _packed(plans[name], codes[name])
    return QuantizedNetwork(variant, weights, rest)


def _packed(plan: Plan, codes: Codes) -> QuantizedWeight:
    return QuantizedWeight(codes, plan.grid, tuple(plan.layer.weight.shape))


def _round_all(plans: Mapping[str, Plan]) -> Solved:
    codes, records = {}, []
    for name, plan in plans.items():
        started = time.perf_counter()
        codes[name] = nearest(plan.rows, plan.grid)
        fitted = Fitted(codes[name], None, None)
        records.append(make_record(name, name, plan, fitted, time.perf_counter() - started))
    return codes, records


def _generator(calibration: Calibration, variant: Variant) -> torch.Generator:
    """Randomness that depends on the model and the variant, whatever was quantized before."""
    seed = zlib.crc32(f"{calibration.seed} {variant}".encode())
    return torch.Generator().manual_seed(seed)


def _follow(
    network: nn.Module,
    bits: Mapping[str, Bits],
    images: Float[Tensor, "images channels height width"],
) -> Trace:
    """Follow one pass through the network.

    Raises:
        ValueError: the network does not call a layer.
    """
    trace = Trace(network, images[:2])
    called = {id(trace.modules[name].weight) for name in trace.layers}
    for key, some in bits.items():
        if some != UNQUANTIZED and id(network.get_parameter(key)) not in called:
            name = key.removesuffix(".weight")
            raise ValueError(
                f"`{name}`: no inputs were recorded, for {type(network).__name__} does not call"
                " it, or uses its weight in another way. Leave it at full precision by"
                f" `--layer_bits '{{\"{name}\": 32}}'`."
            )
    return trace


def _make_units(
    trace: Trace, plans: Mapping[str, Plan], variant: Variant, calibration: Calibration
) -> list[Unit]:
    """Blocks, and the layers that are in none, in the order in which the network calls them."""
    blocks = trace.blocks() if variant.method == "brecq" else []
    members: dict[str, list[str]] = {}
    for layer in (name for name in trace.layers if name in plans):
        block = next((name for name in blocks if layer.startswith(f"{name}.")), layer)
        members.setdefault(block, []).append(layer)
    importance: dict[str, Tensor] = {}
    if variant.fisher:
        ends = {
            name: trace.modules[name]
            for name in members
            if name not in plans or not trace.tail(name)  # a block's error is at its own end
        }
        generator = _generator(calibration, variant)
        importance = fisher_diagonal(trace.network, ends, calibration.images, generator)
    return [
        Unit(
            name,
            trace.modules[name],
            {layer: plans[layer] for layer in layers},
            {la: trace.scale_into(la, name) if name in blocks else None for la in layers},
            trace.tail(name) if name in plans else [],
            importance.get(name),
        )
        for name, layers in members.items()
    ]


def _run_units(
    network: nn.Module,
    units: Sequence[Unit],
    variant: Variant,
    calibration: Calibration,
    loop: Settings | None,
) -> Solved:
    if variant.paper:
        fit: Fit = partial(fit_loop, settings=loop or PAPER[variant.method])
    elif variant.method == "gptq":
        fit = partial(fit_quadratic, solve=lambda rows, grid, error: gptq(rows, grid, error.gram))
    else:
        fit = fit_descent
    return reconstruct(network, calibration.images, units, fit, _generator(calibration, variant))
