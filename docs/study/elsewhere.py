"""The second edition's other fleets: weight decay, DP-SGD, published loops, the large pool."""

from attacks.game import FULL
from docs.study.claims import CLAIMS, TERNARY
from docs.study.comparisons import (
    ASYMMETRIC,
    INSTEAD_OF,
    Asked,
    claims_of,
    fast_pairs,
    published_order,
)
from docs.study.edition import Edition, OneFleet
from docs.study.fleets import BASE, published_of
from docs.study.numbers import ATTACKERS, MEASURES, Study
from docs.study.provenance import finished
from docs.study.sentences import judged
from docs.study.tables import cell, pairs_table, table
from docs.study.verdicts import NAMES
from reporting.bounds import compare_with_proofs, read_bounds, show_bounds
from reporting.text import listed


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
    columns, rows, _ = show_bounds(read_bounds(private.results.findings["epsilon"]))
    return table(columns, ([cell.text for cell in row] for row in rows))


def bounds(private: Study) -> str:
    """Whether the audited bounds are below the proven ones, as far as that can be tested."""
    return compare_with_proofs(read_bounds(private.results.findings["epsilon"]))


def privacy(private: Study) -> str:
    """How the private fleet was trained: its noise or its epsilon, and its clipping."""
    dp = private.config["model"]["dp"]
    strength = f"epsilon {dp['epsilon']:g}" if dp["epsilon"] else f"noise {dp['noise']:g}"
    return f"{strength} and clip {dp['clip']:g}"


def grids_table(edition: Edition) -> str:
    """The paper's ternary grid less ours."""
    return pairs_table(OneFleet(edition, BASE), [(ASYMMETRIC, TERNARY[0])])


def large_fleet(edition: Edition) -> str:
    """The large fleet's own network and size, and what its numbers cannot be compared with."""
    large, base = edition.fleets["large"], edition.fleets[BASE]
    summary, pool = large.results.rows[0].summary, large.config["data"]["init_args"]["pool_size"]
    own, first = (study.config["model"]["network"] for study in (large, base))
    told = (
        f"`{own}`, {finished(large)}, a pool of {pool:,} photographs and {summary.non_members:,} "
        f"non-members per target: a TPR at 0.1% FPR rests on {int(0.001 * summary.non_members)} "
        f"false positives per target, {summary.false_positives_01pct} in all."
    )
    if own == first:
        return told
    return (
        f"{told} The first fleet's network is `{first}`, so what differs from the sections above "
        "may be due to the network as well as to the pool: every comparison here is within this "
        "fleet, and none is with them."
    )


def large_pairs(edition: Edition) -> str:
    """The pairs of these claims."""
    claims = [claim for name, claim in claims_of(edition.fleets) if name == "large"]
    found = [pair for claim in claims for pair in claim.pairs]
    return pairs_table(OneFleet(edition, "large"), list(dict.fromkeys(found)))


def order(edition: Edition) -> str:
    """Whether the paper's order of methods is that of the published loops."""
    claim = published_order(edition.fleets["published"])
    if not claim.pairs:
        methods = loops_run(edition)
        return (
            f"Of {methods} alone the published loop was run, so whether the paper's order of the "
            "methods is that of their published loops stays open."
        )
    return f"Claim: {claim.text}.\n\n{judged(OneFleet(edition, 'published'), claim)}"


def loops_run(edition: Edition) -> str:
    """The methods whose published loops were run."""
    loops = published_of(edition.fleets["published"])
    return listed(list(dict.fromkeys(variant.split("-")[0] for variant in loops)))


def loops_table(edition: Edition) -> str:
    """Published loops beside fast roundings, and beside one another."""
    study = edition.fleets["published"]
    pairs = [*fast_pairs(study), *published_order(study).pairs]
    return pairs_table(OneFleet(edition, "published"), pairs)


def claims_table(edition: Edition) -> str:
    """The paper's claims that the large pool can test, with verdicts on the pairs that it has."""
    pairs_of = {claim.text: len(claim.pairs) for claim in CLAIMS.values()}
    fleet = OneFleet(edition, "large")
    rows = [
        (
            claim.text,
            f"{len(claim.pairs)} of {pairs_of[claim.text]}",
            *(fleet.overall(claim, attacker) for attacker in ATTACKERS),
        )
        for name, claim in claims_of(edition.fleets)
        if name == "large"
    ]
    columns = ("the paper's claim", "pairs", *(f"by {attacker}" for attacker in ATTACKERS))
    return table(columns, rows)
