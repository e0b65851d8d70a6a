"""The second edition's answer, in sentences that follow from its comparisons by rules."""

from collections.abc import Mapping, Sequence

from attacks.game import FULL
from docs.study.claims import TERNARY
from docs.study.comparisons import FIRST_SEEN, SEEN_BY, Asked
from docs.study.edition import Edition
from docs.study.fleets import BASE
from docs.study.numbers import MEASURES
from docs.study.shares import GainPart, split
from docs.study.verdicts import NAMES, Compared, Direction, Status, judge, overall
from reporting.text import listed

BEFORE = (
    "How much of the privacy of ternary weights is real, by one small network, photographs and "
    f"{len(TERNARY)} methods?"
)
TURNED: dict[Direction, Direction] = {"less": "more", "more": "less"}


def finding(edition: Edition) -> str:
    """The answer of the study, which the README repeats."""
    sentences = [BEFORE, mismatch(edition), lost(edition), left(edition), instead(edition)]
    return " ".join(filter(None, sentences))


def mismatch(edition: Edition) -> str:
    """How much of the gain is mismatch: shares of the gain in AUC, where mismatch is shown."""
    statuses: dict[str, Status] = {}
    for measure in MEASURES:
        found = [part["mismatch"].compared for part in _split(edition, measure).values()]
        statuses[measure] = judge(found, "more").status
    shown = overall(statuses).replace("held", "shown")
    shown = shown.replace("the tail", "TPR at 1% and 0.1% FPR")
    papers = list(SEEN_BY)[-1]
    return (
        "Mismatch: of the gain in AUC that an attacker with full-precision shadows sees, "
        f"{_shares(edition, 'mismatch', FIRST_SEEN)} is the mismatch of these shadows by the "
        f"strongest attack ({shown}), and {_shares(edition, 'mismatch', papers)} by LiRA, the "
        "paper's attack."
    )


def lost(edition: Edition) -> str:
    """How much of the gain is lost accuracy, by what stopping early costs and brings."""
    parts = _split(edition, "auc")
    found = {v: part["lost"].compared for v, part in parts.items() if "lost" in part}
    shown = {v: pair for v, pair in found.items() if pair.shown == "more"}
    if not shown:
        return "Lost accuracy: no share of the gain in AUC is shown to be lost accuracy."
    values = [pair.estimate.value for pair in shown.values()]
    return (
        "Lost accuracy: a full-precision network that was stopped early at the accuracy of a "
        f"ternary one leaks {_range(values, '.2f')} AUC less than at the end of training"
        f"{_of(shown)}, which is {_shares(edition, 'lost', FIRST_SEEN)} of that gain."
    )


def left(edition: Edition) -> str:
    """How much is left beside networks of equal accuracy, by each measure."""
    by_measure = {measure: _left(edition, measure) for measure in MEASURES}
    if not any(by_measure.values()):
        return (
            "Left: unknown, because every ternary variant is outside the curve of early stopping."
        )
    clauses = {m: clause for m, pairs in by_measure.items() if (clause := _clause(m, pairs))}
    if not clauses:
        return (
            "Left: no difference is shown between ternary networks and networks of equal accuracy "
            "that were stopped early, which does not show that they leak alike."
        )
    silent = [NAMES[measure] for measure in by_measure if measure not in clauses]
    rest = f", with no difference shown in {listed(silent)}" if silent else ""
    return (
        "Left: beside networks of equal accuracy that were stopped early, ternary ones leak "
        f"{listed(list(clauses.values()))}{rest}; {conclusion(list(by_measure.values()))}."
    )


def instead(edition: Edition) -> str:
    """What weight decay buys at the price of a ternary network; empty before it is run."""
    if "decay" not in edition.fleets:
        return ""
    other = TERNARY[0]
    pairs = {m: edition[Asked("decay", "instead", FULL, m, other)] for m in ("accuracy", "auc")}
    words = {"less": "less accurate", "more": "more accurate", None: "no difference in accuracy"}
    price, size = words[pairs["accuracy"].shown], abs(pairs["auc"].estimate.value)
    found = {
        "less": f"leaks {size:.2f} AUC less than {other}",
        "more": f"leaks {size:.2f} AUC more than {other}",
        None: f"is not shown to differ in AUC from {other}",
    }[pairs["auc"].shown]
    return f"Instead: a full-precision network with more weight decay {found} ({price} shown)."


def conclusion(by_measure: Sequence[Mapping[str, Compared]]) -> str:
    """What follows for who wants privacy, from all methods and measures together.

    Args:
        by_measure: what is left of each variant, by one measure each; something is shown.
    """
    shown = [(v, p.shown) for pairs in by_measure for v, p in pairs.items() if p.shown]
    variants = _of({variant: None for variant in TERNARY if variant in dict(shown)})
    directions = {direction for _, direction in shown}
    if directions == {"less"}:
        return f"so nothing is left{variants}, and stopping early protects better there"
    if directions == {"more"}:
        return f"so something is left{variants} that lost accuracy does not explain"
    return "so what is left depends on the method and the measure"


def _clause(measure: str, pairs: Mapping[str, Compared]) -> str:
    """What ternary variants leak less or more by one measure; empty where nothing is shown."""
    scale, form, unit = (1, ".2f", " AUC") if measure == "auc" else (100, ".0f", " points")
    parts = []
    for direction in ("more", "less"):
        shown = {v: pair for v, pair in pairs.items() if pair.shown == direction}
        if shown:
            values = [scale * abs(pair.estimate.value) for pair in shown.values()]
            word = TURNED[direction]  # what is left of privacy leaks less
            parts.append(f"{_range(values, form)}{unit} {word}{_of(shown)}")
    return " and ".join(parts) + (f" in {NAMES[measure]}" if parts and measure != "auc" else "")


def _split(edition: Edition, measure: str) -> dict[str, dict[str, GainPart]]:
    return {v: split(edition, BASE, v, measure, FIRST_SEEN) for v in TERNARY}


def _left(edition: Edition, measure: str) -> dict[str, Compared]:
    """What is left of each ternary variant that is on the curve."""
    found = {v: edition.get(Asked(BASE, "left", v, measure)) for v in TERNARY}
    return {variant: pair for variant, pair in found.items() if pair is not None}


def _shares(edition: Edition, name: str, seen: str) -> str:
    """The range of one part's shares of the gain in AUC, where the part is shown."""
    shares = {}
    for variant in TERNARY:
        part = split(edition, BASE, variant, "auc", seen).get(name)
        if part and part.compared.shown == "more" and part.share is not None:
            shares[variant] = 100 * part.share.value
    if not shares:
        return "no shown share"
    return f"{_range(list(shares.values()), '.0f')}%{_of(shares)}"


def _of(shown: Mapping[str, object]) -> str:
    """The methods, where they are not all."""
    if len(shown) == len(TERNARY):
        return ""
    return f" ({listed([variant.split('-')[0] for variant in shown])})"


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"
