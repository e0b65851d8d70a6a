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
ALIKE: tuple[Knowledge, ...] = ("none", "matched")  # knowledge that every variant is attacked with
PAPERS: tuple[str, Knowledge] = "lira_online", "unquantized"  # the attack of arXiv:2512.15335


class Kept(NamedTuple):
    """What is kept of the attacks on one variant.

    Attributes:
        row: the strongest attack, by AUC over all targets.
        scores: scores of each half of the targets by the attack that is strongest on the other
            half.
        by_knowledge: the same, among the attacks with each kind of knowledge.
        matched: name of the strongest attack with matched shadows; None if there is none.
        tested: scores of all targets by the attack that is strongest on the first half of them.
        gap: scores of the gap attack, if it was run.
        alike: scores of the attack that is strongest on the first variant, with matched shadows.
        paper: scores of online LiRA with full-precision shadows, if it was run.
    """

    row: Row
    scores: Scores
    by_knowledge: dict[Knowledge, Scores]
    matched: str | None
    tested: Scores
    gap: Scores | None
    alike: Scores
    paper: Scores | None = None


class Strongest:
    """The strongest attacks on the variants of a game.

    Args:
        members: which audited model trained on which example.

    Attributes:
        rows: all attacks on all variants; the strongest on each variant is marked.
        variants: what is kept, by variant; the first is what others are compared with.
        attack: name of the strongest attack on the first variant.
    """

    def __init__(self, members: Bool[Tensor, "targets examples"]) -> None:
        self.members = members
        self.rows: list[Row] = []
        self.variants: dict[str, Kept] = {}
        self.attack = ""

    def add(self, attacks: Sequence[Scored]) -> None:
        """Take account of all attacks on one variant."""
        areas = torch.stack([self._areas(scored.scores) for scored in attacks])
        best = int(areas.mean(1).argmax())
        rows = [s.row._replace(strongest=position == best) for position, s in enumerate(attacks)]
        self.rows += rows
        self.attack = self.attack or rows[best].attack
        kinds: dict[Knowledge, list[int]] = {}
        for position, row in enumerate(rows):
            kinds.setdefault(row.knowledge, []).append(position)
        matched = None
        if positions := kinds.get("matched"):
            matched = rows[positions[int(areas[positions].mean(1).argmax())]].attack
        half = max(1, areas.shape[1] // 2)
        by_name = {(s.row.attack, s.row.knowledge): s.scores for s in attacks}
        comparable = {a: scores for (a, kind), scores in by_name.items() if kind in ALIKE}
        self.variants[rows[best].variant] = Kept(
            row=rows[best],
            scores=cross_choose([scored.scores for scored in attacks], areas),
            by_knowledge={
                kind: cross_choose([attacks[p].scores for p in positions], areas[positions])
                for kind, positions in kinds.items()
            },
            matched=matched,
            tested=attacks[int(areas[:, :half].mean(1).argmax())].scores,
            gap=comparable.get("gap"),
            paper=by_name.get(PAPERS),
            alike=comparable[self.attack],
        )

    def _areas(self, scores: Scores) -> Float[Tensor, " targets"]:
        pairs = zip(scores, self.members, strict=True)
        return torch.stack([auc(roc(row, inside)) for row, inside in pairs])


def cross_choose(
    scores: Sequence[Float[Tensor, "targets *examples"]], areas: Float[Tensor, "attacks targets"]
) -> Float[Tensor, "targets *examples"]:
    """Take each half's scores from the attack with the largest mean AUC on the other half.

    Chosen on all targets, the strongest of 11 attacks that know nothing differed from a fixed one
    at p < 0.05 in 10 to 12% of simulations; chosen for each target on all others, whose choices
    depend on one another, in 6 to 14%; chosen by halves, in 5 to 6%, and from the strongest on
    another variant in 5 to 6% (8% if attacks are independent). For a single target the strongest
    attack on it is taken.
    """
    targets = areas.shape[1]
    if targets == 1:
        return scores[int(areas.argmax())]
    half = targets // 2
    first, second = (int(part.mean(1).argmax()) for part in (areas[:, half:], areas[:, :half]))
    return torch.cat([scores[first][:half], scores[second][half:]])
