"""Choose the bits of every layer of one network, for a budget or for AIQ's objective."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quantization.allocation import Group, budget_of, count_weights, make_groups
from quantization.calibration import Calibration
from quantization.cost import FLOAT, FULL, LayerCost, count_layers, network_cost
from quantization.knapsack import (
    Frontier,
    Item,
    Selection,
    find_frontier,
    greedy,
    greedy_within,
)
from quantization.mixed_options import MixedOptions
from quantization.quantized_network import layer_name
from quantization.rounding.adaround import Settings
from quantization.rounding.grid import Bits
from quantization.search_record import Choice, SearchRecord
from quantization.sensitivity import Measured, dequantize_all, halves, measure, open_probe
from quantization.shared import Shared
from quantization.variant import Variant

CHECKED = 5  # choices that are checked on other images
KEPT = 100  # points of the frontier in a record


class Search(NamedTuple):
    """What one search has to go by."""

    variant: Variant
    options: MixedOptions
    groups: list[Group]
    items: list[Item]
    layers: Mapping[str, LayerCost]

    def bytes(self, selection: Selection) -> int:
        """Bytes of all weights."""
        return sum(i.costs[option] for i, option in zip(self.items, selection, strict=True))

    def expected(self, selection: Selection) -> float:
        """The sum of the losses."""
        return sum(i.losses[option] for i, option in zip(self.items, selection, strict=True))

    def bits(self, selection: Selection) -> dict[str, Bits]:
        """Bits of every weight by its keys."""
        return {
            key: group.candidates[option]
            for group, option in zip(self.groups, selection, strict=True)
            for own in group.keys
            for key in own
        }

    def objective(self, size: int, loss: float) -> float:
        """AIQ's objective of weights of so many bytes; for a budget, the loss."""
        weight = self.variant.aiq
        if weight is None:
            return loss
        # as in AIQ, which quantizes no activations; so `-a8` and `-a4` have the same weights
        full = network_cost(self.layers, {}, FULL, self.options.batch)
        known = sum(layer.weights for layer in self.layers.values())
        moved = full.bytes - FLOAT * known + size
        intensity = full.flops / moved / self.options.ai_scale
        return (1 - weight) * loss / self.options.loss_scale - weight * intensity


@torch.no_grad()
def choose_bits(
    network: nn.Module,
    variant: Variant,
    calibration: Calibration,
    patterns: Mapping[str, Bits] | None,
    options: MixedOptions,
    shared: Shared,
    loop: Settings | None = None,
) -> tuple[dict[str, Bits], SearchRecord]:
    """Choose the bits of every weight, by its key in the state dict.

    The losses of single layers are added up, as if layers did not act on each other; the best few
    allocations by that sum are compared on images that it does not come from.

    Args:
        network: the network.
        variant: what to minimise, and the method whose codes are tried.
        calibration: images; every second one is for the comparison.
        patterns: bits that stay as they are, see `layer_bits`.
        options: candidates, and what else is asked of the search.
        shared: what other variants of this network have measured.
        loop: see `quantize_network`.

    Raises:
        DivergedError: the network's logits are not finite.
        ValueError: the budget cannot be met, or a layer has no candidate left.
    """
    started = time.perf_counter()
    groups = make_groups(network, variant, patterns, options, calibration.images)
    budget = budget_of(variant, groups) if variant.mean_bits is not None else None
    measured = _measure(network, variant, groups, calibration, shared, loop)
    layers = {}
    if variant.aiq is not None:
        layers = shared.once("layers", partial(count_layers, network, calibration.images))
    by = "changed" if variant.aiq is not None else options.sensitivity
    search = Search(variant, options, groups, _make_items(groups, measured, by), layers)
    frontier = find_frontier(search.items)
    selections = _best(search, frontier, budget)
    checked = _check(search, selections, measured, network, calibration)
    best = min(range(len(checked)), key=lambda i: checked[i].objective)
    bits, chosen = search.bits(selections[best]), checked[best]
    record = SearchRecord(
        bits={layer_name(key): own for key, own in bits.items()},
        bytes=chosen.bytes,
        budget=budget,
        mean_bits=8 * chosen.bytes / count_weights(groups),
        loss=by,
        expected=chosen.expected,
        measured=chosen.measured,
        checked=checked,
        losses={
            name: {f"{bits:g}": loss for bits, loss in own.items()}
            for name, own in measured.losses.items()
        },
        frontier=_thin(frontier),
        seconds=time.perf_counter() - started,
    )
    return bits, record


def _measure(
    network: nn.Module,
    variant: Variant,
    groups: Sequence[Group],
    calibration: Calibration,
    shared: Shared,
    loop: Settings | None,
) -> Measured:
    """The losses of single layers, which all budgets of one method share."""
    grids = variant.symmetric, variant.is_symmetric(8)  # which `-a8` decides
    kind = (variant.method, *grids, *variant.options(), calibration.key, loop)
    candidates = tuple((group.name, *group.candidates) for group in groups)
    return shared.once(
        ("losses", *kind, candidates),
        partial(measure, network, variant, groups, calibration, shared, loop),
    )


def _make_items(groups: Sequence[Group], measured: Measured, by: str) -> list[Item]:
    """The groups with their bytes and losses."""
    return [
        Item(
            group.name,
            group.costs,
            [getattr(measured.losses[group.name][bits], by) for bits in group.candidates],
        )
        for group in groups
    ]


def _best(search: Search, frontier: Frontier, budget: float | None) -> list[Selection]:
    """The allocations to check, the best first; of a greedy search, the one that it ends with."""
    counts, items = [len(item.costs) for item in search.items], search.items
    if search.variant.greedy:
        start = [next(i for i, x in enumerate(item.losses) if x < inf) for item in items]
        if budget is not None:
            return [greedy_within(items, start, budget)]
        return [
            greedy(start, counts, lambda s: search.objective(search.bytes(s), search.expected(s)))
        ]
    if budget is not None:
        last = frontier.within(budget)
        points = list(range(last, max(-1, last - CHECKED), -1))
    else:
        pairs = zip(frontier.costs.tolist(), frontier.losses.tolist(), strict=True)
        values = [search.objective(size, loss) for size, loss in pairs]
        points = sorted(range(len(values)), key=values.__getitem__)[:CHECKED]
    return [frontier.selection(point) for point in points]


def _check(
    search: Search,
    selections: Sequence[Selection],
    measured: Measured,
    network: nn.Module,
    calibration: Calibration,
) -> list[Choice]:
    """Measure allocations on other images than those that the losses come from."""
    changes = []
    for selection in selections:
        weights: dict[str, Tensor] = {}
        for group, option in zip(search.groups, selection, strict=True):
            own = measured.weights[group.name].get(group.candidates[option], {})
            weights |= dequantize_all(own)
        changes.append(weights)
    probe = open_probe(network, search.variant, calibration)
    gaps = probe.gaps(halves(calibration)[1], changes)
    choices = []
    for selection, gap in zip(selections, gaps, strict=True):
        size, loss = search.bytes(selection), gap.kl if search.variant.aiq is None else gap.changed
        objective = search.objective(size, loss)
        choices.append(Choice(size, search.expected(selection), loss, objective))
    return choices


def _thin(frontier: Frontier) -> tuple[list[int], list[float]]:
    """Some points of a frontier, among them both ends."""
    last = len(frontier.costs) - 1
    points = sorted({round(i * last / (KEPT - 1)) for i in range(KEPT)})
    return frontier.costs[points].tolist(), frontier.losses[points].tolist()
