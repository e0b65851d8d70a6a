"""What the page asks of the results: claims, and every comparison that its tables show."""

from collections.abc import Iterable
from typing import NamedTuple

from attacks.federated.view import Threat
from attacks.game import FULL
from docs.federated.fleets import THREATS, Fleets, bits_of
from docs.federated.numbers import (
    ATTACKERS,
    BORROWERS,
    MATCHED,
    MEASURES,
    PEERS,
    STRONGEST,
    Asked,
    Side,
    can_attack,
    compare,
)
from docs.study.numbers import NOBODY
from docs.study.verdicts import Compared, Expected, Status, correct, judge, overall
from quantization.rounding.grid import TERNARY

STRONG = "the strongest attack"  # of `ATTACKERS`
TOY_BITS = 4.0, float(TERNARY)  # of the updates that the toy found to protect nothing


class Claim(NamedTuple):
    """A claim by one attacker, and the comparisons that test it.

    Attributes:
        text: the claim in words.
        by: the attacker in words.
        pairs: two sides each, of which the first is compared with the second.
        expected: how what the first finds should differ.
    """

    text: str
    by: str
    pairs: list[tuple[Side, Side]]
    expected: Expected


class Comparisons:
    """Every comparison of the page, corrected together."""

    def __init__(self, fleets: Fleets) -> None:
        claims = [
            *(claim for threat in THREATS for claim in claims_of(fleets, threat)),
            between_threats(fleets),
        ]
        asked = [
            Asked(*pair, measure)
            for claim in claims
            for pair in claim.pairs
            for measure in MEASURES
        ]
        asked += [accuracy(update) for update in fleets.quantized]
        tests = {key: compare(fleets, key) for key in dict.fromkeys(asked)}
        self._compared = correct(tests)

    def __getitem__(self, asked: Asked) -> Compared:
        return self._compared[asked]

    def __len__(self) -> int:
        return len(self._compared)

    def of(self, claim: Claim, measure: str) -> list[Compared]:
        """The comparisons of a claim in one measure."""
        return [self[Asked(*pair, measure)] for pair in claim.pairs]

    def statuses(self, claim: Claim) -> dict[str, Status]:
        """The verdict on a claim by each measure."""
        return {m: judge(self.of(claim, m), claim.expected).status for m in MEASURES}

    def overall(self, claim: Claim) -> str:
        """The verdict on a claim in one line."""
        return overall(self.statuses(claim))


def accuracy(update: str) -> Asked:
    """How much more accurate federations are with a quantized update than with full precision."""
    first, second = (Side(name, "client", NOBODY) for name in (update, FULL))
    return Asked(first, second, "accuracy")


def claims_of(fleets: Fleets, threat: Threat) -> list[Claim]:
    """The claims on one kind of attacker that the fleets can test."""
    claims = [find(fleets, threat, by) for by in ATTACKERS for find in (protects, alike)]
    claims += [understated(fleets, threat, by) for by in BORROWERS]
    if threat == "server":
        claims.append(beyond_peers(fleets))
    possible = (_possible(fleets, claim) for claim in claims)
    return [claim for claim in possible if claim.pairs]


def protects(fleets: Fleets, threat: Threat, by: str = STRONG) -> Claim:
    """The claim that quantized updates protect."""
    text = "quantized updates leak less than full-precision ones"
    return Claim(text, by, _beside_full([*fleets.quantized], threat, by), "less")


def alike(fleets: Fleets, threat: Threat, by: str = STRONG) -> Claim:
    """The toy's claim that 4-bit and ternary updates protect almost nothing."""
    text = "4-bit and ternary updates leak like full-precision ones"
    return Claim(text, by, _beside_full(of_toy(fleets), threat, by), "alike")


def understated(
    fleets: Fleets, threat: Threat, by: str, updates: Iterable[str] | None = None
) -> Claim:
    """The claim that full-precision shadows find less of quantized updates than matched ones."""
    other, matched = BORROWERS[by]
    text = "full-precision shadows understate what quantized updates leak"
    names = fleets.borrowing if updates is None else [u for u in updates if u in fleets.borrowing]
    pairs = [(Side(update, threat, other), Side(update, threat, matched)) for update in names]
    return _possible(fleets, Claim(text, by, pairs, "less"))


def beyond_peers(fleets: Fleets) -> Claim:
    """The claim that an attacker without shadows, who compares clients, finds less."""
    text = "comparing peers, which takes no shadows, finds less than matched shadows"
    pairs = [(Side(u, "server", PEERS), Side(u, "server", MATCHED)) for u in fleets.all]
    return _possible(fleets, Claim(text, "the strongest with each", pairs, "less"))


def between_threats(fleets: Fleets) -> Claim:
    """The claim that who sees each upload finds more than who sees the global model."""
    text = "a server that sees each upload finds more than a client"
    pairs = [(Side(u, "server", STRONGEST), Side(u, "client", STRONGEST)) for u in fleets.all]
    return Claim(text, "the strongest of each", pairs, "more")


def of_toy(fleets: Fleets) -> list[str]:
    """The updates with the bits that the toy had."""
    return [update for update in fleets.quantized if bits_of(update) in TOY_BITS]


def _beside_full(updates: Iterable[str], threat: Threat, by: str) -> list[tuple[Side, Side]]:
    full = Side(FULL, threat, ATTACKERS[by])
    return [(full._replace(update=update), full) for update in updates]


def _possible(fleets: Fleets, claim: Claim) -> Claim:
    """A claim without the pairs that an attack is missing for."""
    pairs = [pair for pair in claim.pairs if all(can_attack(fleets, side) for side in pair)]
    return claim._replace(pairs=pairs)
