"""What the numbers of an audit rest on, in words."""

from collections.abc import Sequence

from attacks import ATTACKS, RMIA
from attacks.evaluate import Row
from attacks.metrics.intervals import Summary
from storage.evidence import Evidence
from storage.own_code import digest


def describe_basis(evidence: Evidence, rows: Sequence[Row]) -> dict[str, str]:
    """What an audit's numbers rest on, by label.

    Args:
        evidence: what the audit rests on.
        rows: attacks on all variants.
    """
    own = describe_own(rows)
    return evidence.facts | own | describe_rmia(evidence, rows) | describe_measures(rows[0].summary)


def describe_own(rows: Sequence[Row]) -> dict[str, str]:
    """Import paths and fingerprints of the user's own attacks, by label; nothing without any."""
    paths = {row.attack: path for row in rows if (path := ATTACKS[row.attack].path)}
    words = [f"{name}: {path}, source {digest(path, '--attacks')}" for name, path in paths.items()]
    return {"own attacks": "; ".join(words)} if words else {}


def describe_measures(summary: Summary) -> dict[str, str]:
    """How rates and intervals were computed, by label; the same for every attack of an audit."""
    several = summary.targets > 1
    thresholds = (
        "set by the target's own non-members where they leave 2 false positives or more, otherwise "
        "chosen on the other half of the targets, whose scores are pooled, and corrected along the "
        "ROC for the false positives that it makes"
        if several
        else "set by the same target's non-members"
    )
    many, few = summary.false_positives_1pct, summary.false_positives_01pct
    per_target = " per target; over all targets" if several else ";"
    return {
        "non-members": f"{summary.non_members}{per_target} "
        f"a TPR at 1% FPR rests on {many} false positive{'' if many == 1 else 's'} and one at 0.1% "
        f"on {few}",
        "thresholds": f"of a TPR: {thresholds}, so that the FPR is exact on average; of balanced "
        f"accuracy: chosen on the other half of the {'targets' if several else 'examples'}",
        "intervals": "95%, over targets (Student's t) and examples, for these shadows"
        if several
        else "95%, over the examples of the single target, for these shadows; that of its "
        "strongest attack holds whichever attack was chosen",
    }


def describe_rmia(evidence: Evidence, rows: Sequence[Row]) -> dict[str, str]:
    """RMIA's population and reference, by label; nothing if it was not run."""
    game, attacks = evidence.game, {row.attack for row in rows}
    if not attacks.intersection(RMIA):
        return {}
    populations = (signals.population for signals in game.signals.values())
    sizes = [population.shape[-1] for population in populations if population is not None]
    if game.rmia.population == "pool":
        words = f"the other examples of the pool, {game.members.shape[1] - 1:,} examples"
    else:
        words = f"{'test split' if evidence.experiment else 'as given'}, {max(sizes):,} examples"
    words = f"population: {words}"
    if "rmia_offline" in attacks:
        chosen = sorted({a for by_case in game.tuned.values() for a in by_case})
        ends = " to ".join(dict.fromkeys(str(a) for a in (*chosen[:1], *chosen[-1:])))
        words += (
            f"; a tuned on shadows that pose as targets: {ends}"
            if chosen
            else f"; a = {game.rmia.a}"
        )
    return {"RMIA": words}
