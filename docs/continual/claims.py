"""What the page asks of the results: claims, and every comparison that its tables show."""

from collections.abc import Sequence
from typing import NamedTuple

from attacks.game import FULL
from docs.continual.fleets import Fleets
from docs.continual.measures import ACCURACY, MEASURES
from docs.continual.numbers import (
    LIRA,
    LOSS,
    OWN_COLUMNS,
    STRONGEST,
    WORLDS,
    Asked,
    Head,
    Side,
    can_attack,
    compare,
    heads_of,
)
from docs.study.verdicts import Compared, Expected, Status, correct, judge, overall

BESIDE = [  # pairs of which the first adds something to the second
    ("ssd", "sdmlp"),
    ("sdmlp-ewc", "sdmlp"),
    ("ssd-ewc", "ssd"),
    ("ssd-ewc", "sdmlp-ewc"),
    ("ewc", "finetune"),
    ("replay", "finetune"),
    ("real", "acil"),
]
PUBLISHED = [  # pairs of which the first is the more accurate at the end
    ("sdmlp-ewc", "sdmlp"),
    ("sdmlp", "topk"),
    ("topk", "relu"),
    ("sdmlp", "relu"),
    ("ssd", "sdmlp"),
    ("ssd-ewc", "ssd"),
]
FORGETFUL = "finetune", "sdmlp"  # whose leakage of earlier tasks is claimed to fall
Pair = tuple[Side | Head, Side | Head]


class Claim(NamedTuple):
    """A claim, and the comparisons that test it.

    Attributes:
        text: the claim in words.
        pairs: two sides each, of which the first is compared with the second.
        expected: how the first should differ.
        measures: by which each pair is compared.
    """

    text: str
    pairs: Sequence[Pair]
    expected: Expected
    measures: Sequence[str] = MEASURES


class Comparisons:
    """Every comparison of the page, corrected together."""

    def __init__(self, fleets: Fleets) -> None:
        asked = [
            Asked(*pair, measure)
            for claim in [*claims_of(fleets), *told(fleets)]
            for pair in claim.pairs
            for measure in claim.measures
        ]
        self._compared = correct({key: compare(fleets, key) for key in dict.fromkeys(asked)})

    def __getitem__(self, asked: Asked) -> Compared:
        return self._compared[asked]

    def __len__(self) -> int:
        return len(self._compared)

    def of(self, claim: Claim, measure: str) -> list[Compared]:
        """The comparisons of a claim in one measure."""
        return [self[Asked(*pair, measure)] for pair in claim.pairs]

    def statuses(self, claim: Claim) -> dict[str, Status]:
        """The verdict on a claim by each of its measures."""
        return {m: judge(self.of(claim, m), claim.expected).status for m in claim.measures}

    def overall(self, claim: Claim) -> str:
        """The verdict on a claim in one line."""
        return overall(self.statuses(claim))


def claims_of(fleets: Fleets) -> list[Claim]:
    """The claims that the fleets can test."""
    claims = [
        rises(fleets),
        falls(fleets),
        misled(fleets),
        blind(fleets),
        own_columns(fleets),
        *(claim for pair in BESIDE for claim in beside(fleets, *pair)),
        published(fleets),
        protects(fleets),
        few_heads(fleets),
    ]
    return [claim for claim in claims if claim.pairs]


def told(fleets: Fleets) -> list[Claim]:
    """What tables show beside the claims: how leakage and accuracy change, and what heads cost."""
    changes = [change(name, attack) for name in fleets for attack in (STRONGEST, LOSS)]
    accurate = [change(name, ACCURACY) for name in fleets]
    heads = [pair for name in fleets for pair in _heads(fleets, name)]
    return [
        Claim("", _possible(fleets, changes), "more"),
        Claim("", _possible(fleets, accurate), "more", (ACCURACY,)),
        Claim("", heads, "less", (ACCURACY,)),
    ]


def change(name: str, attack: str) -> tuple[Side, Side]:
    """What is found of earlier tasks at the end, beside what is found right after each."""
    return Side(name, "end", attack), Side(name, "after", attack)


def rises(fleets: Fleets) -> Claim:
    """The claim that learners which remember exactly leak more of earlier tasks as others come."""
    names = [name for name, fleet in fleets.items() if fleet.solves]
    pairs = [change(name, STRONGEST) for name in names]
    text = "leakage of earlier tasks rises under learners that solve for their head"
    return Claim(text, _possible(fleets, pairs), "more")


def falls(fleets: Fleets) -> Claim:
    """The claim that learners which forget leak less of earlier tasks as others come."""
    pairs = [change(name, STRONGEST) for name in FORGETFUL if name in fleets]
    text = "leakage of earlier tasks falls under fine-tuning and SDMLP"
    return Claim(text, _possible(fleets, pairs), "less")


def misled(fleets: Fleets) -> Claim:
    """The claim that a loss attack sees more forgetting than there is."""
    text = "a loss attack sees a larger fall, or a smaller rise, than the strongest attack"
    pairs = [(Side(n, "change", LOSS), Side(n, "change", STRONGEST)) for n in fleets]
    return Claim(text, _possible(fleets, pairs), "less")


def own_columns(fleets: Fleets) -> Claim:
    """The claim that the columns of later tasks are what keeps earlier ones exposed."""
    text = "looking at the columns of an example's own task alone sees a larger fall than at all"
    names = [name for name, fleet in fleets.items() if fleet.solves]
    pairs = [(Side(n, "change", OWN_COLUMNS), Side(n, "change", LIRA)) for n in names]
    return Claim(text, _possible(fleets, pairs), "less")


def beside(fleets: Fleets, first: str, second: str) -> list[Claim]:
    """The claims that a learner forgets less than the one that it adds to, and leaks more."""
    if first not in fleets or second not in fleets:
        return []
    accurate = (Side(first, "change", ACCURACY), Side(second, "change", ACCURACY))
    leaks = (Side(first, "end", STRONGEST), Side(second, "end", STRONGEST))
    return [
        Claim(f"{first} forgets less than {second}", [accurate], "more", (ACCURACY,)),
        Claim(f"{first} leaks more of earlier tasks than {second}", [leaks], "more"),
    ]


def published(fleets: Fleets) -> Claim:
    """The published order of accuracy at the end."""
    pairs = [
        (Side(first, "all", ACCURACY), Side(second, "all", ACCURACY))
        for first, second in PUBLISHED
        if first in fleets and second in fleets
    ]
    named = ", ".join(f"{first} over {second}" for first, second in pairs_of(pairs))
    return Claim(f"the published order of accuracy at the end: {named}", pairs, "more", (ACCURACY,))


def protects(fleets: Fleets) -> Claim:
    """The claim that quantized heads leak less than those at full precision."""
    pairs = [pair for name in fleets for pair in _heads(fleets, name)]
    return Claim("quantized networks leak less than full-precision ones", pairs, "less")


def few_heads(fleets: Fleets) -> Claim:
    """The claim that a few heads over the target's own features find what many shadows do."""
    text = (
        "a few heads over the target's own features find neither more nor less than LiRA with "
        "shadows"
    )
    names = [name for name, fleet in fleets.items() if fleet.leak.worlds]
    pairs = [(Side(name, "all", WORLDS), Side(name, "all", LIRA)) for name in names]
    return Claim(text, _possible(fleets, pairs), "alike")


def blind(fleets: Fleets) -> Claim:
    """The claim that shadows, whose random features are others, see more forgetting than there is.

    Of learners that solve for their head.
    """
    text = "LiRA with shadows of other random features sees a larger fall than the strongest attack"
    names = [name for name, fleet in fleets.items() if fleet.solves]
    pairs = [(Side(n, "change", LIRA), Side(n, "change", STRONGEST)) for n in names]
    return Claim(text, _possible(fleets, pairs), "less")


def pairs_of(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """The fleets of each pair."""
    return [(first.fleet, second.fleet) for first, second in pairs]


def _heads(fleets: Fleets, name: str) -> list[Pair]:
    return [(Head(name, head), Head(name, FULL)) for head in heads_of(fleets[name])]


def _possible(fleets: Fleets, pairs: Sequence[tuple[Side, Side]]) -> list[Pair]:
    """Pairs without those that an attack is missing for."""
    return [pair for pair in pairs if all(can_attack(fleets, side) for side in pair)]
