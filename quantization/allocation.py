"""What a search for bits chooses among: groups of layers, their candidates, and the bytes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantization.advice import quoted
from quantization.calibration import Images
from quantization.cost import weight_bytes
from quantization.mixed_options import MixedOptions
from quantization.operation import ACTIVATIONS, Operation, Value
from quantization.own import try_method
from quantization.quantized_network import fixed_bits, layer_bits, weight_keys
from quantization.rounding.grid import Bits
from quantization.trace import Trace
from quantization.variant import UNQUANTIZED, Variant


class Group(NamedTuple):
    """Layers that have their bits together: one, or several that share a weight or are tied.

    Attributes:
        names: the layers.
        keys: their weights' keys in the state dict, a list of the names of one weight each.
        shapes: rows and columns of each weight.
        candidates: bits that the group may have, the most first.
        free: whether they are chosen; otherwise there is one candidate.
    """

    names: list[str]
    keys: list[list[str]]
    shapes: list[tuple[int, int]]
    candidates: list[Bits]
    free: bool

    @property
    def name(self) -> str:
        """Its name in messages and as an item."""
        return self.names[0] if len(self.names) == 1 else ", ".join(self.names)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(rows * columns for rows, columns in self.shapes)

    def bytes(self, bits: Bits) -> int:
        """Bytes of its weights as they are stored."""
        return int(sum(weight_bytes(*shape, bits) for shape in self.shapes))

    @property
    def costs(self) -> list[int]:
        """Bytes of each candidate."""
        return [self.bytes(bits) for bits in self.candidates]


def make_groups(
    network: nn.Module,
    variant: Variant,
    patterns: Mapping[str, Bits] | None,
    options: MixedOptions,
    images: Images,
) -> list[Group]:
    """The groups of a network, in the order in which it registers them.

    Args:
        network: the network.
        variant: the variant that chooses bits.
        patterns: bits that stay as they are, see `layer_bits`.
        options: candidates, and whether layers are tied.
        images: two images, on which the network shows what it adds.

    Raises:
        ValueError: see `layer_bits`; or tied layers have fixed bits that differ.
    """
    known, keys = fixed_bits(network, variant, patterns), weight_keys(network)
    stored = layer_bits(network, variant, patterns)
    by_weight: dict[int, list[str]] = {}
    for name, key in keys.items():
        if key in stored:
            by_weight.setdefault(id(network.get_parameter(key)), []).append(name)
    together = [*by_weight.values()]
    if options.tie == "sums":
        together = _join(together, tied_layers(network, images))
    groups = []
    for names in together:
        weights = dict[int, list[str]]()
        for name in names:
            weights.setdefault(id(network.get_parameter(keys[name])), []).append(keys[name])
        fixed = {bits for name in names if (bits := known[name]) is not None}
        if len(fixed) > 1:
            raise ValueError(
                f"{quoted(names)} have the same bits because of `--mixed.tie {options.tie}` or a"
                f" shared weight, but are fixed at {' and '.join(f'{b:g}' for b in sorted(fixed))}:"
                " no candidate is left. Change `--layer_bits`."
            )
        flat = [network.get_parameter(own[0]).flatten(1) for own in weights.values()]
        shapes = [(len(rows), rows.shape[1]) for rows in flat]
        candidates = sorted(fixed or {*options.candidates}, reverse=True)
        groups.append(Group(names, [*weights.values()], shapes, candidates, not fixed))
    return groups


def _join(groups: list[list[str]], tied: Sequence[set[str]]) -> list[list[str]]:
    """Groups that have a layer in common with the same of `tied`, as one; order is kept."""
    for names in tied:
        touched = [group for group in groups if names & {*group}]
        if len(touched) > 1:
            joined = [name for group in touched for name in group]
            groups[groups.index(touched[0])] = joined
            groups = [group for group in groups if group not in touched[1:]]
    return groups


def tied_layers(network: nn.Module, images: Images) -> list[set[str]]:
    """Layers whose outputs are added, with nothing but BatchNorm, activations and sums between.

    In a residual stage these are the last convolution of each block and the projection.
    """
    trace = Trace(network, images[:2])
    made = {operation.output: operation for operation in trace.operations}
    layers = {call.output: call.name for call in trace.calls if call.name in {*trace.layers}}
    sums = (operation for operation in trace.operations if operation.adds())
    groups = [{*_sources(operation, made, layers)} for operation in sums]
    return [group for group in groups if len(group) > 1]


def _sources(
    operation: Operation, made: Mapping[Value, Operation], layers: Mapping[Value, str]
) -> Iterator[str]:
    """The layers whose outputs an operation passes on."""
    for value in operation.inputs:
        if value in layers:
            yield layers[value]
        elif (before := made.get(value)) is not None and _passes(before):
            yield from _sources(before, made, layers)


def _passes(operation: Operation) -> bool:
    return operation.adds() or operation.function in {functional.batch_norm, *ACTIVATIONS}


def count_weights(groups: Sequence[Group]) -> int:
    """Number of weights that a budget is spent on; those of fixed layers count."""
    return sum(group.weights for group in groups)


def budget_of(variant: Variant, groups: Sequence[Group]) -> float:
    """Bytes that a variant may spend on all weights.

    Raises:
        ValueError: the layers cannot have so few bits, or so many.
    """
    bits, weights = variant.mean_bits or 0.0, count_weights(groups)
    least, most = (sum(f(group.costs) for group in groups) for f in (min, max))
    budget, ends = bits * weights / 8, [8 * end / weights for end in (least, most)]
    if budget < least:
        raise ValueError(
            f"`{variant}`: with their scales and zero points, the weights of this network take at"
            f" least {ends[0]:.4g} bits each on average, got {bits:g}. Raise it, or add smaller"
            " `--mixed.candidates`."
        )
    if budget > most and any(len(group.candidates) > 1 for group in groups):
        raise ValueError(
            f"`{variant}`: the weights of this network take at most {ends[1]:.4g} bits each on"
            f" average, got {bits:g}. Lower it, or add larger `--mixed.candidates`."
        )
    return budget


def check_search(
    network: nn.Module,
    variant: Variant,
    patterns: Mapping[str, Bits] | None,
    options: MixedOptions,
    images: Tensor,
) -> None:
    """Raise ValueError if a variant's bits cannot be chosen, before anything is trained."""
    with torch.no_grad():
        groups = make_groups(network, variant, patterns, options, images)
    if variant.mean_bits is not None:
        budget_of(variant, groups)
    for bits in {bits for group in groups for bits in group.candidates} - {UNQUANTIZED}:
        try_method(variant.method, bits)
