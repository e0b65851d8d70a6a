"""Attribute inference: an unknown feature is guessed as the value that looks likeliest a member.

A network tells attributes of examples that nobody trained on, too, because features correlate. So
only what is right about members beyond non-members is a leak, and guesses from public correlations
alone stand beside it.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from attacks.federated import ATTACKS
from attacks.federated.correlations import guess_by_correlations, guess_by_label
from attacks.federated.leaks import choose
from attacks.federated.view import Threat, View, make_view, threats_to
from attacks.game import Game
from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import Measured
from attacks.rounds import NOBODY, Candidates
from attacks.shadow_halves import is_round_robin

# Those whose scores of two records compare; a discriminant would be another one for each value.
GUESSES = (
    *("mean_phi", "mean_gradient", "mean_cosine"),
    *("contrast_phi", "contrast_gradient", "contrast_cosine"),
    *("z_phi", "z_gradient", "z_cosine", "gradient_series"),
)
SERIES = "gradient_series"  # learns from the shadows' own records, which have their own values
Baseline = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
BASELINES: dict[str, Baseline] = {"label": guess_by_label, "correlations": guess_by_correlations}


class AttributeRow(NamedTuple):
    """How often one way to guess is right.

    Attributes:
        guess: name of an attack in `ATTACKS`, or of a baseline.
        knowledge: what it compares with; `public` uses no network.
        members: share of right guesses on members, mean over federations.
        non_members: the same on examples that nobody holds.
        excess: the first minus the second.
        beyond: right guesses on members minus those of the best public guess; None for that one.
    """

    guess: str
    knowledge: Literal["none", "peers", "shadows", "public"]
    members: Estimate
    non_members: Estimate
    excess: Difference
    beyond: Difference | None


class AttributeLeak(NamedTuple):
    """What one kind of attacker tells of an attribute.

    Attributes:
        threat: what it sees.
        column: the attribute's place among the features.
        values: its values.
        rows: attacks, then baselines.
        federations: number of audited federations.
        left_out: attacks that cannot be made here, and why, one sentence each.
        adversary: what a malicious attacker did in training; None for one that only looks.
    """

    threat: Threat
    column: int
    values: list[float]
    rows: list[AttributeRow]
    federations: int
    left_out: list[str]
    adversary: str | None = None

    @property
    def strongest(self) -> AttributeRow:
        """The attack that is most often right about members beyond non-members."""
        attacks = [row for row in self.rows if row.knowledge != "public"]
        return max(attacks, key=lambda row: row.excess.estimate.value)

    @property
    def public(self) -> AttributeRow:
        """The best guess that uses no network: that which is most often right on non-members."""
        return next(row for row in self.rows if row.beyond is None)


def find_attribute_leak(game: Game, threat: Threat) -> AttributeLeak | None:
    """Guess the attribute of every example in every audited federation; None without both."""
    if game.attribute is None or game.rounds is None or threat not in threats_to(game.rounds):
        return None
    candidates, true = game.attribute, make_view(game.rounds, threat)
    views = [make_view(rounds, threat) for rounds in candidates.rounds]
    left_out, possible = choose(game, true, threat)
    targets = [case.target for case in game.cases]
    holder = true.holder[targets]
    present = torch.stack([true.took_part(target).any(0) for target in targets])
    correct = {}
    for name in (name for name in GUESSES if name in possible):
        guesses = _guess(name, views, true, game)
        correct[name] = (guesses == candidates.truth).double()
    for name, baseline in BASELINES.items():
        by_federation = [_guess_public(baseline, candidates, held) for held in holder]
        right = (torch.stack(by_federation) == candidates.truth).double()
        correct[name] = right[:, None].expand(-1, present.shape[1], -1)
    outcomes = {}
    for name, right in correct.items():
        sides = measure_sides(right, holder, present)
        for side, measured in zip(("members", "non-members"), sides, strict=True):
            outcomes[f"{name}, {side}"] = Outcome(measured, round_robin=is_round_robin(game))
    return AttributeLeak(
        threat,
        candidates.column,
        list(candidates.values),
        _make_rows(list(correct), outcomes),
        len(targets),
        left_out,
        game.rounds.adversary,
    )


def measure_sides(
    correct: Float[Tensor, "federations clients examples"],
    holder: Int64[Tensor, "federations examples"],
    present: Bool[Tensor, "federations clients"],
) -> tuple[Measured, Measured]:
    """Share of right guesses on members, under their client's uploads, and on non-members.

    A non-member counts as the mean over the clients that took part. A member of a client that never
    took part does not count, nor an example of an attacking client, which no client here holds.

    Args:
        correct: 1 where the guess under a client's uploads is right, and 0 where it is wrong.
        holder: whose member each example is, or `NOBODY`.
        present: which client took part in a recorded round.
    """
    sides = []
    for right, held, seen in zip(correct, holder, present, strict=True):
        places = held.clamp(0, len(right) - 1)
        own = right[places, torch.arange(len(held))]
        members = (held == places) & seen[places]
        sides.append(
            (_share(own, members), _share(right[seen].mean(0), held == NOBODY)),
        )
    return tuple(  # type: ignore[return-value]
        Measured(*(torch.stack(part) for part in zip(*side, strict=True)))
        for side in zip(*sides, strict=True)
    )


def _share(
    right: Float[Tensor, " examples"], counted: Bool[Tensor, " examples"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " examples"]]:
    """Mean over the counted examples, and what each of them adds to it."""
    weight, count = counted.double(), int(counted.sum())
    if not count:
        raise ValueError(
            "An attribute is guessed of members and of non-members, got a federation without "
            "either. Record a round in which clients with examples take part."
        )
    share = (right * weight).sum() / count
    return share, (right - share) * weight / (count * max(count - 1, 1)) ** 0.5


def _guess(
    name: str, views: Sequence[View], true: View, game: Game
) -> Int64[Tensor, "federations clients examples"]:
    """The value whose record scores highest."""
    scores = [
        ATTACKS[name].run(view, true if name == SERIES else view, game.cases) for view in views
    ]
    return torch.stack(scores).nan_to_num(-torch.inf).argmax(0)


def _guess_public(
    baseline: Baseline, candidates: Candidates, holder: Int64[Tensor, " examples"]
) -> Int64[Tensor, " examples"]:
    known = holder == NOBODY
    return baseline(candidates.others, candidates.labels, known, candidates.truth)


def _make_rows(names: Sequence[str], outcomes: dict[str, Outcome]) -> list[AttributeRow]:
    """A row per way to guess; p-values are corrected among attacks, and among baselines."""
    attacks = [name for name in names if name not in BASELINES]
    others = {name: outcomes[f"{name}, non-members"].measured.values.mean() for name in BASELINES}
    public = max(others, key=lambda name: float(others[name]))
    rows = []
    for group in (attacks, list(BASELINES)):
        sides = [(f"{name}, members", f"{name}, non-members") for name in group]
        excess = paired_differences(outcomes, sides)
        pairs = [(f"{name}, members", f"{public}, members") for name in group]
        beyond = paired_differences(outcomes, pairs)
        for name, found, more in zip(group, excess, beyond, strict=True):
            inside, outside = (two_way(outcomes[side].measured) for side in found[:2])
            kind = "public" if name in BASELINES else ATTACKS[name].needs
            known = None if name == public else more
            rows.append(AttributeRow(name, kind, inside, outside, found, known))
    return rows
