"""The strongest attacks on each variant, chosen so that the choice flatters no comparison."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import norm
from torch import Tensor

from attacks import ATTACKS
from attacks.cross_choice import cross_choose, join_halves
from attacks.evaluate import Row, Scored, score, tail_metric
from attacks.game import Game, Knowledge
from attacks.metrics.differences import Outcome
from attacks.metrics.intervals import CONFIDENCE, summarise
from attacks.metrics.measures import MEASURES, Measured, Metric
from attacks.metrics.roc import auc, roc
from attacks.shadow_halves import by_shadow_halves, is_round_robin

Scores = Float[Tensor, "targets examples"]
ALIKE: tuple[Knowledge, ...] = ("none", "matched")  # knowledge that every variant is attacked with
PAPERS: tuple[str, Knowledge] = "lira_online", "unquantized"  # the attack of arXiv:2512.15335
Halves = dict[tuple[str, Knowledge], dict[Metric, Tensor | None]]
_DRAWS = 20_000  # of the largest of correlated normals; its 95% quantile is then good to 0.01


class HeldOut(NamedTuple):
    """Scores by an attack that was chosen without the second half of the rows, which may test it.

    The rows are targets, or the two halves of the examples of a single target.
    """

    scores: Float[Tensor, "rows examples"]
    members: Bool[Tensor, "rows examples"]


class Contender(NamedTuple):
    """Attacks that each half of the targets is attacked by; often the same.

    Attributes:
        names: attack and knowledge, for either half of the targets.
        scores: their scores of all targets.
        halves: what `by_shadow_halves` gives, by metric; None where it is unknown.
        round_robin: whether the targets are the shadows.
    """

    names: tuple[tuple[str, Knowledge], tuple[str, Knowledge]]
    scores: tuple[Scores, Scores]
    halves: dict[Metric, Float[Tensor, "ways targets"] | None]
    round_robin: bool = False


class Kept(NamedTuple):
    """What is kept of the attacks on one variant.

    Attributes:
        rows: the strongest attack by each risk metric, over all targets.
        best: for each risk metric, the attacks that are strongest on the other half of the targets.
        by_knowledge: the same, among the attacks with each kind of knowledge.
        matched: name of the strongest attack by AUC with matched shadows; None if there is none.
        tested: scores by the attack that is strongest on the first half of the targets, or of the
            examples of a single target.
        gap: the gap attack, if it was run.
        paper: online LiRA with full-precision shadows, if it was run.
        alike: scores of the attack that is strongest on the first variant, with matched shadows.
    """

    rows: dict[Metric, Row]
    best: dict[Metric, Contender]
    by_knowledge: dict[Knowledge, dict[Metric, Contender]]
    matched: str | None
    tested: HeldOut
    gap: Contender | None
    paper: Contender | None
    alike: Scores


class Strongest:
    """The strongest attacks on the variants of a game.

    Args:
        game: the game that is attacked.

    Attributes:
        rows: all attacks on all variants; the strongest on each variant are marked.
        variants: what is kept, by variant; the first is what others are compared with.
        risks: the metrics that risk is reported by: AUC, and TPR at a low FPR.
        attack: name of the strongest attack by AUC on the first variant.
    """

    def __init__(self, game: Game) -> None:
        self.game, self.members = game, game.audited
        self.rows: list[Row] = []
        self.variants: dict[str, Kept] = {}
        self.risks: tuple[Metric, Metric] = "auc", "tpr_1pct"
        self.attack = ""

    def add(self, attacks: Sequence[Scored]) -> None:
        """Take account of all attacks on one variant."""
        variant = attacks[0].row.variant
        self.risks = "auc", tail_metric(attacks[0].row.summary)
        rows = self._mark(attacks)
        places = {m: next(i for i, r in enumerate(rows) if m in r.strongest) for m in self.risks}
        self.attack = self.attack or rows[places["auc"]].attack
        kinds: dict[Knowledge, list[Scored]] = {}
        for scored in attacks:
            kinds.setdefault(scored.row.knowledge, []).append(scored)
        by_name = {(s.row.attack, s.row.knowledge): s for s in attacks}
        choices: dict[tuple[Knowledge | None, Metric], tuple[Scored, Scored]]
        choices = {(None, m): self._choose(attacks, m) for m in self.risks}
        choices |= {(k, m): self._choose(s, m) for k, s in kinds.items() for m in self.risks}
        gap, paper = by_name.get(("gap", "none")), by_name.get(PAPERS)
        fixed = {name: (s, s) for name, s in (("gap", gap), ("paper", paper)) if s is not None}
        halved = [s for pair in (*choices.values(), *fixed.values()) for s in pair]
        halves = self._halve(variant, [*halved, *(attacks[place] for place in places.values())])
        enter = partial(_enter, halves=halves, round_robin=is_round_robin(self.game))
        for place, scored in enumerate(attacks):
            known = halves.get(_name(scored), {})
            found = {m: None if part is None else part.tolist() for m, part in known.items()}
            rows[place] = rows[place]._replace(halves=found)
        self.rows += rows
        matched = kinds.get("matched")
        self.variants[variant] = Kept(
            rows={metric: rows[place] for metric, place in places.items()},
            best={m: enter(choices[None, m]) for m in self.risks},
            by_knowledge={kind: {m: enter(choices[kind, m]) for m in self.risks} for kind in kinds},
            matched=max(matched, key=_auc).row.attack if matched else None,
            tested=choose_for_tests([scored.scores for scored in attacks], self.members),
            gap=enter(fixed["gap"]) if gap else None,
            paper=enter(fixed["paper"]) if paper else None,
            alike=next(
                by_name[self.attack, k].scores for k in ALIKE if (self.attack, k) in by_name
            ),
        )

    def outcome(self, contender: Contender, metric: Metric) -> Outcome:
        """What a contender achieves, by one metric."""
        parts = [MEASURES[metric](scores, self.members) for scores in contender.scores]
        halves = contender.halves[metric]
        return Outcome(_join(*parts), halves, contender.round_robin)

    def _mark(self, attacks: Sequence[Scored]) -> list[Row]:
        """Rows with the strongest marked, whose intervals on a single target know of the choice."""
        rows = [scored.row for scored in attacks]
        for metric in self.risks:
            values = [getattr(row.summary, metric).value for row in rows]
            best = values.index(max(values))
            row = rows[best]
            rows[best] = row._replace(strongest=(*row.strongest, metric))
            if len(self.members) == 1:
                confidence = self._confidence(attacks, metric)
                wider = summarise(attacks[best].scores, self.members, confidence)
                widened = (metric, "balanced_accuracy") if metric == "auc" else (metric,)
                summary = row.summary._replace(**{name: getattr(wider, name) for name in widened})
                rows[best] = rows[best]._replace(summary=summary)
        return rows

    def _confidence(self, attacks: Sequence[Scored], metric: Metric) -> float:
        """Confidence at which all attacks' intervals on a single target hold together at 95%.

        As the largest of correlated normals: the estimates share their examples.
        """
        influence = torch.cat([MEASURES[metric](s.scores, self.members).influence for s in attacks])
        varied = influence[influence.square().sum(1) > 0]
        if len(varied) < 2:
            return CONFIDENCE
        values, vectors = torch.linalg.eigh(torch.corrcoef(varied))
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(_DRAWS, len(values), dtype=torch.float64, generator=generator)
        largest = (draws * values.clamp_min(0).sqrt() @ vectors.T).abs().amax(1)
        return float(1 - 2 * norm.sf(largest.quantile(CONFIDENCE)))

    def _choose(self, attacks: Sequence[Scored], metric: Metric) -> tuple[Scored, Scored]:
        values = [scored.row.by_target[metric] for scored in attacks]
        first, second = cross_choose(torch.tensor(values, dtype=torch.float64))
        return attacks[first], attacks[second]

    def _halve(self, variant: str, attacks: Sequence[Scored]) -> Halves:
        """What either half of the shadows finds, by attack and knowledge; None where unknown."""
        game = self.game
        halves: Halves = {}
        names: dict[Knowledge, list[str]] = {}
        for attack, knowledge in dict.fromkeys(_name(scored) for scored in attacks):
            names.setdefault(knowledge, []).append(attack)
        for knowledge, own in names.items():
            if len(self.members) == 1:  # its intervals are over examples
                found = None
            elif knowledge == "none" and not is_round_robin(game):
                found = torch.zeros(len(own) * len(self.risks), 1, len(self.members))
            else:
                most = [max(ATTACKS[name].sides[side] for name in own) for side in (0, 1)]
                measure = partial(_measure, own, variant, knowledge, self.risks)
                found = by_shadow_halves(game, (most[0], most[1]), measure)
            for position, (name, metric) in enumerate(product(own, self.risks)):
                kept = None if found is None else found[position]
                halves.setdefault((name, knowledge), {})[metric] = kept
        return halves


def _measure(
    names: Sequence[str],
    variant: str,
    knowledge: Knowledge,
    metrics: Sequence[Metric],
    game: Game,
) -> Float[Tensor, "kinds targets"]:
    """Each metric of each attack, for each target of a game."""
    scores = score(names, game, variant, knowledge)
    return torch.stack(
        [MEASURES[m](scores[name], game.audited).values for name, m in product(names, metrics)]
    )


def choose_for_tests(
    scores: Sequence[Scores], members: Bool[Tensor, "targets examples"]
) -> HeldOut:
    """Take the scores of the attack with the largest mean AUC on the first half of the targets.

    For a single target it is the largest AUC on a random half of its examples.
    """
    if len(members) == 1:
        halves = _halve_examples(members[0])
        scores, members = [rows[0, halves] for rows in scores], members[0, halves]
    first = members[: len(members) // 2]
    areas = [
        sum(auc(roc(*pair)).item() for pair in zip(rows, first, strict=False)) for rows in scores
    ]
    return HeldOut(scores[areas.index(max(areas))], members)


def _halve_examples(members: Bool[Tensor, " examples"]) -> Int64[Tensor, "2 half"]:
    """Divide the examples of one target at random, so that each half has half of the members.

    An odd member or non-member is dropped. Each half is in the order of the examples, which does
    not tell members from non-members where scores tie.
    """
    shuffled = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))
    sides = (shuffled[side[shuffled]] for side in (members, ~members))
    return torch.cat([side[: len(side) // 2 * 2].view(2, -1) for side in sides], 1).sort(1).values


def _name(scored: Scored) -> tuple[str, Knowledge]:
    return scored.row.attack, scored.row.knowledge


def _auc(scored: Scored) -> float:
    return scored.row.summary.auc.value


def _enter(pair: tuple[Scored, Scored], halves: Halves, round_robin: bool) -> Contender:
    """Make a contender of the attacks on either half of the targets."""
    first, second = (halves[_name(scored)] for scored in pair)
    joined = {metric: join_halves(first[metric], second[metric]) for metric in first}
    names = _name(pair[0]), _name(pair[1])
    return Contender(names, (pair[0].scores, pair[1].scores), joined, round_robin)


def _join(first: Measured, second: Measured) -> Measured:
    """The first half of the targets of one, the second half of the other."""
    half = len(first.values) // 2
    return Measured(*(torch.cat([a[:half], b[half:]]) for a, b in zip(first, second, strict=True)))
