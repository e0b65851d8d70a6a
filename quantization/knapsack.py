"""The choice of one option per layer: all best trade-offs of bytes against loss, exactly.

The multiple-choice knapsack problem is solved by dynamic programming over integer bytes, in units
of their greatest common divisor. A state is kept only if no other of at most its bytes has at most
its loss, so what is left after the last layer is every best trade-off at once: one pass answers any
budget, and any objective that grows with bytes and with loss.
"""

from collections.abc import Callable, Sequence
from math import gcd, inf, isnan
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

Selection = list[int]  # the option of each layer


class Item(NamedTuple):
    """One layer, or several that have their options together.

    Attributes:
        name: what it is called in errors.
        costs: bytes of each option.
        losses: expected loss of each option; infinite for an option that is none.
    """

    name: str
    costs: Sequence[int]
    losses: Sequence[float]


class Frontier(NamedTuple):
    """The best trade-offs: each has less loss than all with at most its bytes.

    Attributes:
        costs: bytes, rising.
        losses: sums of losses, falling.
        kept: options of each item and predecessors among the states before it, by state.
    """

    costs: Int64[np.ndarray, " points"]
    losses: Float64[np.ndarray, " points"]
    kept: Sequence[tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]]

    def selection(self, point: int) -> Selection:
        """The option of each item at one point."""
        options = []
        for chosen, before in reversed(self.kept):
            options.append(int(chosen[point]))
            point = int(before[point])
        return options[::-1]

    def within(self, budget: float) -> int:
        """The point of least loss within so many bytes.

        Raises:
            ValueError: the cheapest point needs more.
        """
        point = int(np.searchsorted(self.costs, budget, side="right")) - 1
        if point < 0:
            raise ValueError(f"The budget must be {self.costs[0]} bytes or more, got {budget:g}.")
        return point


def check_items(items: Sequence[Item]) -> None:
    """Raise ValueError if an item's loss is unknown, or if it has no option."""
    for item in items:
        if any(map(isnan, item.losses)):
            raise ValueError(
                f"`{item.name}`: the expected loss must be a number, got NaN. Look at the layer's"
                " weights, or fix its bits with `--layer_bits`."
            )
        if not any(loss < inf for loss in item.losses):
            raise ValueError(
                f"`{item.name}`: no candidate is left, because each loses everything. Add 32 to"
                " `--mixed.candidates`, or fix its bits with `--layer_bits`."
            )


def find_frontier(items: Sequence[Item]) -> Frontier:
    """Every best trade-off of bytes against the sum of losses.

    Raises:
        ValueError: a loss is NaN, or an item has no option of finite loss.
    """
    check_items(items)
    cheapest = [min(item.costs) for item in items]
    steps = [cost - low for item, low in zip(items, cheapest, strict=True) for cost in item.costs]
    unit = max(1, gcd(*steps))
    costs, losses = np.zeros(1, np.int64), np.zeros(1)
    kept = []
    for item, low in zip(items, cheapest, strict=True):
        options = [option for option, loss in enumerate(item.losses) if loss < inf]
        extra = np.array([(item.costs[option] - low) // unit for option in options])
        added = np.array([item.losses[option] for option in options], np.float64)
        costs, losses, chosen, before = _extend(costs, losses, extra, added)
        kept.append((np.array(options)[chosen], before))
    return Frontier(sum(cheapest) + unit * costs, losses, kept)


def _extend(
    costs: Int64[np.ndarray, " states"],
    losses: Float64[np.ndarray, " states"],
    extra: Int64[np.ndarray, " options"],
    added: Float64[np.ndarray, " options"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All states with each option of one more item, without those that another one beats.

    Returns:
        Costs and losses of the states that are left, their options, and their predecessors.
    """
    count = len(costs)
    all_costs, all_losses = (costs + extra[:, None]).ravel(), (losses + added[:, None]).ravel()
    order = np.lexsort((all_losses, all_costs))
    sorted_losses = all_losses[order]
    least = np.minimum.accumulate(sorted_losses)
    better = np.ones(len(order), bool)
    better[1:] = sorted_losses[1:] < least[:-1]
    order = order[better]
    return all_costs[order], all_losses[order], order // count, order % count


def greedy(
    start: Selection, counts: Sequence[int], objective: Callable[[Selection], float]
) -> Selection:
    """AIQ's greedy search: from `start`, always the change of one item that helps most.

    An item that was changed is never revisited, so that n items with k options each take at most
    k n (n + 1) / 2 evaluations.

    Args:
        start: the option of each item to begin with.
        counts: number of options of each item.
        objective: what to minimise.

    Source: arXiv:2512.14090, section 3.
    """
    selection, value, left = list(start), objective(start), set(range(len(start)))
    while left:
        tries = [
            (objective([*selection[:item], option, *selection[item + 1 :]]), item, option)
            for item in sorted(left)
            for option in range(counts[item])
            if option != selection[item]
        ]
        best = min(tries, default=(inf, 0, 0))
        if best[0] >= value:
            break
        value, item, option = best
        selection[item] = option
        left.remove(item)
    return selection


def greedy_within(items: Sequence[Item], start: Selection, budget: float) -> Selection:
    """The greedy search for a budget: always the change that loses least per byte saved.

    A change after which the items that are left could no longer reach the budget is not made.

    Raises:
        ValueError: the cheapest options need more than the budget.
    """
    check_items(items)
    selection, left = list(start), set(range(len(items)))
    least = [min(c for c, x in zip(i.costs, i.losses, strict=True) if x < inf) for i in items]
    if sum(least) > budget:
        raise ValueError(f"The budget must be {sum(least)} bytes or more, got {budget:g}.")
    total = sum(item.costs[option] for item, option in zip(items, selection, strict=True))
    while total > budget:
        savable = {i: items[i].costs[selection[i]] - least[i] for i in left}
        moves = []
        for i in sorted(left):
            here = items[i].costs[selection[i]], items[i].losses[selection[i]]
            for option, (cost, loss) in enumerate(zip(*items[i][1:], strict=True)):
                saved = here[0] - cost
                others = sum(savable.values()) - savable[i]
                if saved > 0 and loss < inf and total - saved - others <= budget:
                    moves.append(((loss - here[1]) / saved, -saved, i, option))
        _, saved, item, option = min(moves)
        total, selection[item] = total + saved, option
        left.remove(item)
    return selection
