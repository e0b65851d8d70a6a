"""The page's tables, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attacks.game import FULL
from attacks.metrics.intervals import Estimate
from docs.study.claims import (
    METHODS,
    PAPERS_TPR,
    SHADOW_ATTACKS,
    TERNARY,
    WIDTHS,
    Claim,
    Comparisons,
    joint_key,
)
from docs.study.numbers import ATTACKERS, LIRA, MEASURES, Study, accuracy, leak, missed
from docs.study.verdicts import NAMES, Compared
from reporting.text import show, show_difference

HEADLINE = (("auc", None), ("auc", LIRA), ("tpr_01pct", LIRA))  # rows that the headline quotes


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def points(estimate: Sequence[float]) -> str:
    """A difference of shares in percentage points, with its sign."""
    value, low, high = (100 * number for number in estimate[:3])
    return f"{value:+z.1f} ({low:+z.1f} to {high:+z.1f})"


def share(estimate: Estimate | None) -> str:
    """A share of a gain, which may be below none and above all of it."""
    if estimate is None:
        return "no gain shown"
    value, low, high = (100 * number for number in estimate[:3])
    return f"{value:z.0f}% ({low:z.0f} to {high:z.0f})"


def cell(compared: Compared, measure: str) -> str:
    """A difference with its interval, after the sign for what it shows."""
    text = show_difference if measure == "auc" else points
    return f"{compared.sign} {text(compared.estimate)}".strip()


def verdicts(comparisons: Comparisons, claims: Mapping[str, Claim]) -> str:
    """Every claim with its verdict, for each attacker."""
    rows = [
        (claim.text, *(comparisons.overall(claim, attacker) for attacker in ATTACKERS))
        for claim in claims.values()
    ]
    return table(("the paper's claim", *(f"by {attacker}" for attacker in ATTACKERS)), rows)


def counted_verdicts(comparisons: Comparisons, claims: Iterable[Claim]) -> str:
    """Every claim with its number of pairs, and the verdict for each attacker."""
    rows = []
    for claim in claims:
        found = (comparisons.overall(claim, attacker) for attacker in ATTACKERS)
        rows.append((claim.text, str(len(claim.pairs)), *found))
    return table(("claim", "pairs", *(f"by {attacker}" for attacker in ATTACKERS)), rows)


def shares(comparisons: Comparisons) -> str:
    """Share of the gain that was mismatch, by every attack and measure."""
    rows = []
    for measure in MEASURES:
        for attack in SHADOW_ATTACKS:
            name = f"`{attack}`" if attack else "the strongest of each kind"
            cells = []
            for variant in TERNARY:
                shown = comparisons[missed(variant, attack, measure)].shown
                text = share(comparisons.study.mismatch(variant, attack, measure))
                cells.append(text if shown else f"? {text}")
            if (measure, attack) in HEADLINE:
                cells = [f"**{text}**" for text in cells]
            rows.append((NAMES[measure], name, *cells))
    return table(("measure", "attack", *TERNARY), rows)


def by_bits(comparisons: Comparisons) -> str:
    """What matched shadows find beyond full-precision ones, at every width."""
    rows = []
    for width in WIDTHS.values():
        for method in METHODS:
            cells = [f"{method}-{width}"]
            for attack in (LIRA, None):
                for measure in MEASURES:
                    compared = comparisons[missed(cells[0], attack, measure)]
                    cells.append(cell(compared, measure))
            rows.append(cells)
    columns = [f"{NAMES[m]}, {name}" for name in ("`lira_online`", "strongest") for m in MEASURES]
    return table(("variant", *columns), rows)


def claim_table(comparisons: Comparisons, claims: Sequence[Claim]) -> str:
    """How much more accurate the first is than the second, and how much more it leaks."""
    return pairs_table(comparisons, [pair for claim in claims for pair in claim.pairs])


def pairs_table(comparisons: Comparisons, pairs: Sequence[tuple[str, str]]) -> str:
    """The same for pairs of variants."""
    rows = []
    for first, second in pairs:
        name = first if second == FULL else f"{first} beyond {second}"
        accurate = comparisons[accuracy(first, second)]
        cells = [name, cell(accurate, "accuracy")]
        for attacker in ATTACKERS.values():
            for measure in MEASURES:
                compared = comparisons[leak(first, second, attacker, measure)]
                cells.append(cell(compared, measure))
        rows.append(cells)
    columns = [f"{NAMES[m]}, {attacker}" for attacker in ATTACKERS for m in MEASURES]
    return table(("variant", "test accuracy", *columns), rows)


def joint_rows(comparisons: Comparisons) -> list[tuple[Mapping[str, Any], Compared]]:
    """What an attacker holds, and what joint LiRA gains over the strongest attack on the best."""
    joint = comparisons.study.results.findings["joint_lira"]
    return [(held, comparisons[joint_key(held)]) for held in joint]


def joint_table(comparisons: Comparisons) -> str:
    """What an attacker gains who holds several versions, but for full precision and one more."""
    rows = []
    for held, compared in joint_rows(comparisons):
        names = held["variants"]
        if len(names) > 2:
            text = " + ".join(names) if len(names) < 4 else f"all {len(names)}"
            area = show(Estimate(**held["summary"]["auc"]))
            rows.append((text, area, held["best"], cell(compared, "auc")))
    columns = "versions", "AUC, joint LiRA", "leaks most alone", "beyond its strongest attack"
    return table(columns, rows)


def levels(study: Study) -> str:
    """The variants of the paper's figure, as a table of levels."""
    rows = []
    for variant, papers in PAPERS_TPR.items():
        cells = [variant, show(study.results.variants[variant].accuracy, percent=True)]
        for attacker in ATTACKERS.values():
            for measure in MEASURES:
                row = study.best(variant, attacker, measure)
                percent = measure != "auc"
                cells.append(show(getattr(row.summary, measure), percent=percent))
        rows.append((*cells, f"{100 * papers:.1f}%"))
    columns = [f"{NAMES[m]}, {attacker}" for attacker in ATTACKERS for m in MEASURES]
    return table(("variant", "test accuracy", *columns, "TPR at 0.1% FPR in the paper"), rows)
