"""What the page asks of the results: claims, and every comparison that its tables show."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

from scipy.stats import t as student

from attacks.game import FULL
from attacks.metrics.intervals import Estimate
from docs.study.numbers import (
    ATTACKERS,
    LIRA,
    MEASURES,
    STRONGEST,
    Contrast,
    Study,
    accuracy,
    leak,
    missed,
)
from docs.study.verdicts import Compared, Expected, Uncorrected, Verdict, correct, judge, overall

METHODS = ("adaround", "brecq", "obc")
TERNARY = [f"{method}-w1.58" for method in METHODS]
WIDTHS = {"4": "w4", "2": "w2", "1.58": "w1.58"}  # by bits
# every attack with shadows, in the order of the table; None is the strongest of each kind
SHADOW_ATTACKS = (
    *(None, LIRA, "lira_online_fixed", "lira_offline", "lira_offline_fixed"),
    *("rmia_online", "rmia_offline", "attack_r"),
)
# Fig. 1 of arXiv:2512.15335, CIFAR-100, ResNet-18, LiRA online: TPR at 0.1% FPR
PAPERS_TPR = {
    **{"full": 0.3683, "adaround-w4": 0.3712, "adaround-w2": 0.2009, "adaround-w1.58": 0.0028},
    **{"brecq-w4": 0.3650, "brecq-w2": 0.2934, "brecq-w1.58": 0.0011},
    **{"obc-w4": 0.3647, "obc-w2": 0.2288, "obc-w1.58": 0.0189},
}


class Claim(NamedTuple):
    """A claim, and the comparisons that test it.

    Attributes:
        text: the claim in words.
        pairs: two variants each, of which the first is compared with the second.
        expected: how the leakage of the first should differ.
        accuracy: how its test accuracy should differ, where the claim speaks of it.
    """

    text: str
    pairs: list[tuple[str, str]]
    expected: Expected
    accuracy: Expected | None = None


def pairs_of(claims: Iterable[Claim]) -> list[tuple[str, str]]:
    """The pairs of several claims, each once."""
    return list(dict.fromkeys(pair for claim in claims for pair in claim.pairs))


def order(bits: str) -> Claim:
    """The order of the methods in the paper's figure, from the smallest TPR to the largest."""
    variants = [f"{method}-{WIDTHS[bits]}" for method in METHODS]
    ranked = sorted(variants, key=PAPERS_TPR.__getitem__)
    names = ", ".join(variant.split("-")[0] for variant in ranked)
    text = f"at {bits} bits, leakage rises in the order {names}"
    return Claim(text, [*combinations(ranked, 2)], "less")


CLAIMS = {
    "four": Claim("4 bits leak like full precision", [(f"{m}-w4", FULL) for m in METHODS], "alike"),
    "few": Claim(
        "2 and 1.58 bits leak less",
        [(f"{m}-{width}", FULL) for width in ("w2", "w1.58") for m in METHODS],
        "less",
    ),
    "last": Claim(
        "more bits in the last layer of a ternary network win back accuracy and leak more",
        [(f"{v}-last{bits}", v) for v in TERNARY for bits in (2, 4, 8, 32)],
        "more",
        accuracy="more",
    ),
    "order_ternary": order("1.58"),
    "order_two": order("2"),
}
CALIBRATION = Claim(
    "calibrating on members leaks like calibrating on other images",
    [(f"{m}-w2-{source}", f"{m}-w2") for m in METHODS for source in ("nonmembers", "heldout")],
    "alike",
)


class Comparisons:
    """Every comparison of the page, corrected together.

    Args:
        study: the study's results.
        tests: by contrast, or by another key for those that are not contrasts of the study.
        control: the control's results, if there is one.
    """

    def __init__(
        self, study: Study, tests: Mapping[Hashable, Uncorrected], control: Study | None = None
    ) -> None:
        self.study, self.control = study, control
        self._compared = correct(tests)

    def __getitem__(self, key: Hashable) -> Compared:
        return self._compared[key]

    def __len__(self) -> int:
        return len(self._compared)

    def get(self, key: Hashable) -> Compared | None:
        """A comparison, or None if it could not be made."""
        return self._compared.get(key)

    def judge(self, claim: Claim, attacker: str) -> dict[str, Verdict]:
        """The verdict on a claim by each measure, for one of `ATTACKERS`."""
        verdicts: dict[str, Verdict] = {
            measure: judge(
                [self[leak(*pair, ATTACKERS[attacker], measure)] for pair in claim.pairs],
                claim.expected,
            )
            for measure in MEASURES
        }
        if claim.accuracy is not None:
            pairs = [self[accuracy(*pair)] for pair in claim.pairs]
            verdicts["accuracy"] = judge(pairs, claim.accuracy)
        return verdicts

    def overall(self, claim: Claim, attacker: str) -> str:
        """The verdict on a claim in one line."""
        verdicts = self.judge(claim, attacker)
        return overall({measure: verdict.status for measure, verdict in verdicts.items()})


def contrasts() -> Iterator[Contrast]:
    """Every contrast that the study's tables show."""
    for claim in (*CLAIMS.values(), CALIBRATION):
        for pair in claim.pairs:
            yield accuracy(*pair)
            for attacker in ATTACKERS.values():
                yield from (leak(*pair, attacker, measure) for measure in MEASURES)
    for attack in SHADOW_ATTACKS:
        for variant in TERNARY:
            yield from (missed(variant, attack, measure) for measure in MEASURES)
    for attack in (LIRA, None):
        for bits in ("4", "2"):
            for method in METHODS:
                yield from (missed(f"{method}-{WIDTHS[bits]}", attack, m) for m in MEASURES)


def stored(study: Study) -> Iterator[tuple[Hashable, Uncorrected]]:
    """Comparisons that the audit made itself, by its findings."""
    margin = study.margin(STRONGEST, "auc")
    for held in study.results.findings["joint_lira"]:
        gain = held["gain"]
        yield joint_key(held), Uncorrected(Estimate(**gain["estimate"]), gain["p"], margin)
    for variant, area in study.results.findings["calibration"].items():
        count = len(study.results.variants[variant].accuracy_by_target)
        yield ("calibration", variant), against_guessing(Estimate(**area), count, margin)


def joint_key(held: Mapping[str, list[str]]) -> tuple[str, ...]:
    """The key of a set of versions that one attacker holds."""
    return ("joint", *held["variants"])


def against_guessing(area: Estimate, targets: int, margin: float) -> Uncorrected:
    """A mean AUC over targets against 0.5, from its spread over them, by Student's t."""
    difference = Estimate(area.value - 0.5, area.low - 0.5, area.high - 0.5, area.spread)
    if area.spread == 0:
        return Uncorrected(difference, 1.0, margin)
    error = area.spread / (targets - 1) ** 0.5  # the spread is the population's
    p = 2 * float(student.sf(abs(difference.value) / error, targets - 1))
    return Uncorrected(difference, p, margin)


def compare_all(
    study: Study, others: Mapping[Hashable, Uncorrected], control: Study | None = None
) -> Comparisons:
    """Make every comparison of the page.

    Args:
        study: the study's results.
        others: comparisons of the control.
        control: its results, if there is one.
    """
    tests: dict[Hashable, Uncorrected] = {
        contrast: study.compare(contrast) for contrast in contrasts()
    }
    return Comparisons(study, {**tests, **dict(stored(study)), **others}, control)
