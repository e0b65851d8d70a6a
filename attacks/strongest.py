"""The strongest attack on each variant, chosen so that no comparison is flattered by the choice."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.evaluate import Row, Scored
from attacks.game import Knowledge
from attacks.metrics.roc import auc, roc

Scores = Float[Tensor, "targets examples"]


class Kept(NamedTuple):
    """What is kept of the attacks on one variant.

    Attributes:
        row: of the strongest attack, by AUC over all targets.
        scores: of each half of the targets by the attack that is strongest on the other half.
        by_knowledge: the same, among the attacks with each kind of shadows, or without.
        matched: the strongest attack with matched shadows; None if there is none.
        tested: scores of all targets by the attack that is strongest on the first half of them.
        gap: scores of the gap attack, if it was made.
        alike: scores of the attack that is strongest on the first variant, with matched shadows.
    """

    row: Row
    scores: Scores
    by_knowledge: dict[Knowledge, Scores]
    matched: str | None
    tested: Scores
    gap: Scores | None
    alike: Scores


class Strongest:
    """The strongest attacks, of one variant after the other.

    Attributes:
        variants: what is kept, by variant; that with which the others are compared comes first.
        attack: the one that is strongest on the first variant.
    """

    def __init__(self, members: Bool[Tensor, "targets examples"]) -> None:
        self.members = members
        self.variants: dict[str, Kept] = {}
        self.attack = ""

    def add(self, made: Sequence[Scored]) -> None:
        """Take account of all attacks on one variant."""
        areas = torch.stack([self._areas(scored.scores) for scored in made])
        best = made[int(areas.mean(1).argmax())]
        self.attack = self.attack or best.row.attack
        kinds: dict[Knowledge, list[int]] = {}
        for position, scored in enumerate(made):
            kinds.setdefault(scored.row.knowledge, []).append(position)
        matched = [made[p] for p in kinds.get("matched", [])]
        strong = matched[int(areas[kinds["matched"]].mean(1).argmax())] if matched else None
        half = max(1, areas.shape[1] // 2)
        by_attack = {s.row.attack: s.scores for s in made if s.row.knowledge != "full"}
        self.variants[best.row.variant] = Kept(
            best.row,
            cross_choose([scored.scores for scored in made], areas),
            {
                kind: cross_choose([made[p].scores for p in positions], areas[positions])
                for kind, positions in kinds.items()
            },
            strong.row.attack if strong else None,
            made[int(areas[:, :half].mean(1).argmax())].scores,
            by_attack.get("gap"),
            by_attack[self.attack],
        )

    def _areas(self, scores: Scores) -> Float[Tensor, " targets"]:
        pairs = zip(scores, self.members, strict=True)
        return torch.stack([auc(roc(row, inside)) for row, inside in pairs])


def cross_choose(
    scores: Sequence[Float[Tensor, "targets *examples"]], areas: Float[Tensor, "attacks targets"]
) -> Float[Tensor, "targets *examples"]:
    """Each half's scores by the attack with the largest mean AUC on the other half of the targets.

    Chosen on all targets, the strongest of 11 attacks that know nothing differed from a fixed one
    at p < 0.05 in 10 to 12% of simulations; chosen for each target on all others, whose choices
    depend on one another, in 6 to 14%; so in 5 to 6%, and from the strongest on another variant in
    5 to 6% (8% if attacks are independent). A single target has no other: its strongest is taken.
    """
    targets = areas.shape[1]
    if targets == 1:
        return scores[int(areas.argmax())]
    half = targets // 2
    first, second = (int(some.mean(1).argmax()) for some in (areas[:, half:], areas[:, :half]))
    return torch.cat([scores[first][:half], scores[second][half:]])
