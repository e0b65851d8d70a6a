"""The second edition's other fleets: weight decay, DP-SGD, published loops, the large pool."""

from attacks.game import FULL
from docs.study.claims import TERNARY
from docs.study.comparisons import (
    ASYMMETRIC,
    INSTEAD_OF,
    Asked,
    claims_of,
    fast_pairs,
    published_order,
)
from docs.study.edition import Edition, OneFleet
from docs.study.fleets import BASE
from docs.study.numbers import ATTACKERS, MEASURES, Study
from docs.study.sentences import judged
from docs.study.tables import cell, pairs_table, table
from docs.study.verdicts import NAMES, counted, listed


def instead(edition: Edition) -> str:
    """Weight decay minus the first fleet's full precision, and minus its ternary variant."""
    lines = []
    for other in INSTEAD_OF:
        parts = []
        for measure in ("accuracy", *MEASURES):
            compared = edition[Asked("decay", "instead", FULL, measure, other)]
            parts.append(f"{NAMES[measure]} {cell(compared, measure)}")
        lines.append(f"- Weight decay minus {other}: {', '.join(parts)}.")
    return "\n".join(lines)


def bounds_table(private: Study) -> str:
    """The audited lower bound on epsilon beside the proven upper bound, per variant."""
    rows = []
    for variant, bounds in private.results.findings["epsilon"].items():
        proven, tested = bounds["proven"], bounds["tested"]["epsilon"]
        lower = max(tested, bounds["one_run"])
        cells = [variant, f"{tested:.2f}", f"{bounds['one_run']:.2f}"]
        if proven is None or proven["epsilon"] is None:
            why = f"not proven: {proven['reason']}" if proven else "not proven"
            rows.append((*cells, why, "-"))
        else:
            rows.append((*cells, f"{proven['epsilon']:.2f}", f"{lower / proven['epsilon']:.2f}"))
    columns = "from TPR and FPR", "one-run audit", "proven upper bound", "lower / upper"
    return table(("variant", *columns), rows)


def bounds(private: Study) -> str:
    """Whether the audited bounds are below the proven ones, in one sentence."""
    proven = {
        variant: found
        for variant, found in private.results.findings["epsilon"].items()
        if found["proven"] and found["proven"]["epsilon"]
    }
    ratios = {
        variant: max(found["tested"]["epsilon"], found["one_run"]) / found["proven"]["epsilon"]
        for variant, found in proven.items()
    }
    broken = [variant for variant, ratio in ratios.items() if ratio > 1]
    if broken:
        return (
            f"It does not for {listed(broken)}, where the audited lower bound exceeds the proven "
            "upper bound: training is not as private as it says, or the auditor is wrong."
        )
    delta = next(iter(proven.values()))["proven"]["delta"]
    return (
        f"It does for {counted(len(proven), len(proven))} with a proof: the audited lower bound is "
        f"at most {max(ratios.values()):.2f} of the proven upper bound (delta {delta:g})."
    )


def privacy(private: Study) -> str:
    """How the private fleet was trained: its noise or its epsilon, and its clipping."""
    dp = private.config["model"]["dp"]
    strength = f"epsilon {dp['epsilon']:g}" if dp["epsilon"] else f"noise {dp['noise']:g}"
    return f"{strength} and clip {dp['clip']:g}"


def grids_table(edition: Edition) -> str:
    """The paper's ternary grid less ours."""
    return pairs_table(OneFleet(edition, BASE), [(ASYMMETRIC, TERNARY[0])])


def large_pairs(edition: Edition) -> str:
    """The pairs of these claims."""
    claims = [claim for name, claim in claims_of(edition.fleets) if name == "large"]
    found = [pair for claim in claims for pair in claim.pairs]
    return pairs_table(OneFleet(edition, "large"), list(dict.fromkeys(found)))


def order(edition: Edition) -> str:
    """Whether the paper's order of methods is that of the published loops."""
    claim = published_order(edition.fleets["published"])
    if not claim.pairs:
        return "Too few methods were run by their published loops to compare their order."
    return f"Claim: {claim.text}.\n\n{judged(OneFleet(edition, 'published'), claim)}"


def loops_table(edition: Edition) -> str:
    """Published loops beside the fast rounding, and beside one another."""
    study = edition.fleets["published"]
    pairs = [*fast_pairs(study), *published_order(study).pairs]
    return pairs_table(OneFleet(edition, "published"), pairs)


def claims_table(edition: Edition) -> str:
    """The paper's claims that the large pool can test, with verdicts."""
    fleet = OneFleet(edition, "large")
    rows = [
        (
            claim.text,
            str(len(claim.pairs)),
            *(fleet.overall(claim, attacker) for attacker in ATTACKERS),
        )
        for name, claim in claims_of(edition.fleets)
        if name == "large"
    ]
    columns = ("the paper's claim", "pairs", *(f"by {attacker}" for attacker in ATTACKERS))
    return table(columns, rows)
