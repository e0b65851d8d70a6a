"""The page's sentences on results: each is computed from the comparisons by a written rule."""

from collections.abc import Sequence

from attacks.game import FULL
from attacks.metrics.differences import ratio_of_means
from attacks.metrics.intervals import Estimate
from docs.study.claims import TERNARY, Claim, Comparisons
from docs.study.numbers import (
    ATTACKERS,
    GUESSES,
    LIRA,
    MATCHED_LIRA,
    MEASURES,
    NOBODY,
    PAPERS,
    SMALL,
    STRONGEST,
    Study,
    accuracy,
    leak,
    missed,
)
from docs.study.tables import joint_rows, share
from docs.study.verdicts import NAMES, Compared, Status, counted, ends, judge, overall
from reporting.text import listed


def finding(comparisons: Comparisons) -> str:
    """The answer of the study, which the README repeats.

    The first answer is the verdict on "matched shadows find more" over the ternary variants, by the
    strongest attack of each kind. Ranges are over the variants where the difference is shown.
    """
    statuses: dict[str, Status] = {}
    for measure in MEASURES:
        pairs = [comparisons[missed(variant, None, measure)] for variant in TERNARY]
        statuses[measure] = judge(pairs, "more").status
    answer = overall(statuses).replace("held", "shown")
    answer = answer.replace("the tail", "the tail (TPR at 1% and 0.1% FPR)")
    tail = len(_shown(comparisons, LIRA, "tpr_01pct"))
    tests = [comparisons[missed(variant, LIRA, "tpr_01pct")] for variant in TERNARY]
    early = sum(test.estimate.low > 0 for test in tests)
    return (
        "Do ternary weights look more private than they are? With one small network and one data "
        f"set, by the strongest attack: {answer}. Of the gain in AUC that full-precision shadows "
        f"see, {_share_range(comparisons, None)} is the attacker's mismatch by the strongest "
        f"attack and {_share_range(comparisons, LIRA)} by LiRA, the paper's attack; by LiRA in the "
        "paper's own measure, TPR at 0.1% FPR, mismatch is shown for "
        f"{counted(tail, len(TERNARY))} methods ({early or 'none'} before correction). Against the "
        f"strongest attack, ternary networks {_less(comparisons)}; no control of equal accuracy "
        "was run, so lost accuracy may explain part of that."
    )


def _shown(comparisons: Comparisons, attack: str | None, measure: str) -> list[str]:
    """The ternary variants where matched shadows are shown to find more."""
    return [v for v in TERNARY if comparisons[missed(v, attack, measure)].shown == "more"]


def _share_range(comparisons: Comparisons, attack: str | None) -> str:
    """The shares of the gain in AUC that are mismatch, where it is shown."""
    variants = _shown(comparisons, attack, "auc")
    estimates = [comparisons.study.mismatch(variant, attack) for variant in variants]
    shares = [100 * estimate.value for estimate in estimates if estimate is not None]
    if not shares:
        return "no shown share"
    some = "" if len(shares) == len(TERNARY) else f" ({len(shares)} of {len(TERNARY)} methods)"
    return f"{_range(shares, '.0f')}%{some}"


def _less(comparisons: Comparisons) -> str:
    """What ternary variants leak less to the strongest attack, and how much less accurate."""
    losses = []
    for measure, scale, form, unit in (
        ("auc", 1, ".2f", "AUC"),
        ("tpr_1pct", 100, ".0f", "points of TPR at 1% FPR"),
        ("accuracy", 100, ".1f", "points"),
    ):
        attacker = NOBODY if measure == "accuracy" else STRONGEST
        pairs = [comparisons[leak(v, FULL, attacker, measure)] for v in TERNARY]
        values = [-scale * pair.estimate.value for pair in pairs if pair.shown == "less"]
        few = f" (shown for {counted(len(values), len(pairs))})" if len(values) < len(pairs) else ""
        losses.append(f"{_range(values, form) if values else 'no'} {unit}{few}")
    area, rate, accurate = losses
    return f"leak {area} and {rate} less than full precision, and are {accurate} less accurate"


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def judged(comparisons: Comparisons, claim: Claim) -> str:
    """The verdicts on a claim by each measure, with counts, one line per attacker."""
    lines = []
    for attacker in ATTACKERS:
        verdicts = comparisons.judge(claim, attacker).items()
        words = [f"{NAMES[m]} **{verdict.status}** ({verdict.counts})" for m, verdict in verdicts]
        lines.append(f"- By {attacker}: {'; '.join(words)}.")
    return "\n".join(lines)


def margins(study: Study) -> str:
    """The size up to which a difference is called small, by attacker and measure."""
    parts = []
    for name, attacker in ATTACKERS.items():
        area, *rates = (study.margin(attacker, measure) for measure in MEASURES)
        sizes = [f"{100 * rate:.1f}" for rate in rates]
        parts.append(f"{area:.3f} AUC and {' and '.join(sizes)} points of the two TPRs by {name}")
    return listed(parts)


def other_margins(comparisons: Comparisons, claim: Claim) -> str:
    """What the verdicts on a claim of likeness would be by half and by twice the margin."""
    lines = []
    for factor in (0.5, 2):
        for name, attacker in ATTACKERS.items():
            statuses: dict[str, Status] = {}
            for measure in MEASURES:
                pairs = [comparisons[leak(*pair, attacker, measure)] for pair in claim.pairs]
                scaled = [pair._replace(margin=factor * pair.margin) for pair in pairs]
                statuses[measure] = judge(scaled, claim.expected).status
            margin = f"{100 * factor * SMALL:g}%"
            lines.append(f"- With a margin of {margin}, by {name}: {overall(statuses)}.")
    return "\n".join(lines)


def largest_loss(comparisons: Comparisons, claim: Claim, measure: str) -> str:
    """The largest relative loss of a variant against full precision, with its interval."""
    losses = []
    for name, attacker in ATTACKERS.items():
        level = comparisons.study.each(FULL, attacker, measure).mean().item() - GUESSES[measure]
        for first, second in claim.pairs:
            compared = comparisons[leak(first, second, attacker, measure)]
            losses.append((-compared.estimate.value / level, compared, level, first, name))
    part, compared, level, variant, name = max(losses, key=lambda loss: loss[0])
    low, high = (-100 * bound / level for bound in (compared.estimate.high, compared.estimate.low))
    sign = "shown" if compared.shown else "not shown"
    return (
        f"{variant} by {name}: {100 * part:.0f}% ({low:z.0f} to {high:z.0f}) of what full "
        f"precision leaks in {NAMES[measure]}; this loss is {sign}"
    )


def trades(comparisons: Comparisons, claims: Sequence[Claim]) -> str:
    """Which of two methods leaks more to the strongest attack, and which is more accurate.

    Both are told only where they are shown.
    """
    lines = []
    for first, second in (pair for claim in claims for pair in claim.pairs):
        by_measure: dict[str, Compared] = {
            m: comparisons[leak(first, second, STRONGEST, m)] for m in MEASURES
        }
        accurate = comparisons[accuracy(first, second)]
        words = {"less": f"{first} is less accurate", "more": f"{first} is more accurate"}
        shown = "no difference of accuracy shown" if not accurate.shown else words[accurate.shown]
        lines.append(f"- {ends(first, second, by_measure)}; {shown}.")
    return "\n".join(lines)


def joint_counts(comparisons: Comparisons) -> str:
    """What joint LiRA gains, by what the attacker holds."""
    groups: dict[str, list[tuple[str, Compared]]] = {}
    for held, compared in joint_rows(comparisons):
        names = held["variants"]
        two = "full precision and one quantized version"
        label = two if len(names) == 2 else "three quantized versions of the same bits"
        label = label if len(names) < 4 else f"all {len(names)} versions"
        widths = names[0].partition("-")[2] if FULL not in names else ""
        groups.setdefault(label, []).append((widths, compared))
    lines = []
    for label, members in groups.items():
        parts = []
        for word, text in (("more", "gain shown"), ("less", "loss shown"), (None, "nothing shown")):
            found = [(name, pair) for name, pair in members if pair.shown == word]
            if found:
                names = listed([name for name, _ in found]) if found[0][0] else ""
                small = sum(pair.small for _, pair in found)
                count = f"{len(found)} of {len(members)}" + (f": {names}" if names else "")
                parts.append(f"{text} for {count} ({small} small)")
        lines.append(f"- {label}: {'; '.join(parts)}.")
    return "\n".join(lines)


def told_apart(comparisons: Comparisons) -> str:
    """Whether calibration images are told from other members."""
    areas = comparisons.study.results.findings["calibration"]
    pairs = [comparisons["calibration", variant] for variant in areas]
    values = [Estimate(**area).value for area in areas.values()]
    shown = counted(sum(pair.shown is not None for pair in pairs), len(pairs))
    small = counted(sum(pair.small for pair in pairs), len(pairs))
    return (
        f"AUC {min(values):.3f} to {max(values):.3f} over {len(pairs)} variants; a difference from "
        f"0.5 is shown for {shown} and small for {small}"
    )


def standing(study: Study) -> str:
    """Where members stand, and where each kind of shadows expects them, in mean z."""
    parts = []
    for variant in TERNARY:
        scores = study.results.findings["z_scores"][variant]
        means = [
            (scores[kind]["members"]["mean"], scores[kind]["shadows_in"]["mean"])
            for kind in ("unquantized", "matched")
        ]
        (there, expected), (matched, matched_expected) = means
        parts.append(
            f"{variant} {there:.2f} ({expected:.2f} expected) by full-precision shadows, "
            f"{matched:.2f} ({matched_expected:.2f}) by matched ones"
        )
    return "; ".join(parts)


def small_mismatch(comparisons: Comparisons) -> str:
    """For how many ternary variants the mismatch in AUC is small by the rules of the page."""
    counts = []
    for attack, name in ((None, "the strongest of each kind"), (LIRA, f"`{LIRA}`")):
        pairs = [comparisons[missed(variant, attack, "auc")] for variant in TERNARY]
        counts.append(f"{counted(sum(pair.small for pair in pairs), len(pairs))} by {name}")
    return f"The mismatch in AUC is itself small for {' and '.join(counts)}."


def switching(study: Study) -> str:
    """How much of what matched shadows add to LiRA another attack finds without them, in AUC."""
    attack, shares = "rmia_offline", []
    for variant in TERNARY:
        unquantized = study.each(variant, PAPERS, "auc")
        added = study.each(variant, MATCHED_LIRA, "auc") - unquantized
        other = study.each(variant, PAPERS._replace(attack=attack), "auc") - unquantized
        shares.append(f"{share(ratio_of_means(other, added))} on {variant}")
    return (
        f"By changing the attack to `{attack}` (chosen after seeing this table), an attacker with "
        f"full-precision shadows finds of the AUC that matched shadows add to `{LIRA}`: "
        f"{', '.join(shares)}."
    )


def overfit(study: Study) -> str:
    """By how many points more often members are classified correctly: 2 AUC - 1 of the gap attack.

    Source: the AUC of a score with two values is (1 + TPR - FPR) / 2.
    """
    (gap,) = [row for row in study.rows[FULL, "none"] if row.attack == "gap"]
    return f"{100 * (2 * gap.summary.auc.value - 1):.0f}"
