"""Several experiments compared: their results in, differences from the first one out."""

from collections.abc import Mapping, Sequence
from itertools import count
from math import isnan, nan
from pathlib import Path
from typing import NamedTuple

from attacks.cross_choice import cross_outcome
from attacks.evaluate import Row
from attacks.game import Knowledge
from attacks.metrics.between import paired, welch
from attacks.metrics.differences import Difference, Outcome, holm
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Measured, Metric
from reporting.pairing import Pairing
from reporting.results import Results
from reporting.text import kinds_of
from storage.files import as_unicode
from storage.names import is_snapshot
from storage.records import VariantFacts

Differences = Mapping[Metric, Difference | None]  # of one entry, by end of the risk


class Entry(NamedTuple):
    """One variant in one experiment.

    Attributes:
        variant: name of the variant.
        experiment: name of the experiment.
        facts: facts about the variant beside its leakage.
        rows: all attacks on it.
        risk: by metric, AUC and tail: the attack that is strongest by it.
        by_kind: the same by kind of shadows, where attacks without shadows count for each kind;
            a kind that the variant was not attacked with is missing.
        round_robin: whether the audited models are the shadows.
    """

    variant: str
    experiment: str
    facts: VariantFacts
    rows: Sequence[Row]
    risk: dict[Metric, Row]
    by_kind: dict[Metric, dict[Knowledge, Row]]
    round_robin: bool = False

    def outcome(self, end: Metric, targets: Sequence[int] = ()) -> Outcome:
        """What the strongest attack by one metric finds, on some targets or on all of them.

        It is chosen for each half of all targets on the other half, as within an audit. What the
        shadows add is unknown by a metric that the audit did not report the risk by, and where only
        part of a round robin is asked for.
        """
        found = cross_outcome(self.rows, end, self.round_robin)
        if not targets:
            return found
        chosen, known = list(targets), found.halves
        if known is not None:
            part = self.round_robin and len(chosen) < known.shape[1]
            known = None if part else known[:, chosen]
        values = found.measured.values[chosen]
        return found._replace(
            measured=Measured(values, values.new_zeros(len(chosen), 0)), halves=known
        )


def name_apart(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart, of equally many parts.

    Raises:
        ValueError: fewer than two folders, or the same folder twice.
    """
    whole = [folder.resolve() for folder in folders]
    if len(whole) < 2:
        raise ValueError(
            f"A comparison needs two run folders or more, got {len(whole)}. Name another."
        )
    twice = [folder for folder in whole if whole.count(folder) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice. Name each run folder once.")
    names = ([as_unicode("/".join(path.parts[-parts:])) for path in whole] for parts in count(1))
    return next(ends for ends in names if len(set(ends)) == len(ends))


def ends_of(results: Mapping[str, Results]) -> tuple[Metric, Metric]:
    """AUC, and the coarser of the audits' tails, at which all of them can be compared."""
    tails = {audit.tail for audit in results.values()}
    return "auc", "tpr_1pct" if "tpr_1pct" in tails else "tpr_01pct"


def enter(results: Mapping[str, Results]) -> list[Entry]:
    """Entries of all variants and experiments, grouped by variant.

    Attacks with the shadows of yet another experiment do not count: not every audit has them, and
    an experiment with more kinds of attackers would seem to leak more.
    """
    ends = ends_of(results)
    variants = dict.fromkeys(name for audit in results.values() for name in audit.variants)
    entries = []
    for variant in variants:
        for experiment, audit in results.items():
            rows = [r for r in audit.rows if r.variant == variant and r.knowledge != "other"]
            if rows:
                risk, by_kind = {}, {}
                kinds: list[Knowledge] = kinds_of(rows) or ["none"]
                for end in ends:
                    risk[end] = _strongest(rows, end)
                    by_kind[end] = {
                        kind: _strongest([r for r in rows if r.knowledge in (kind, "none")], end)
                        for kind in kinds
                    }
                facts, trained = audit.variants[variant], audit.experiment
                in_turn = trained is not None and not trained.targets
                entries.append(Entry(variant, experiment, facts, rows, risk, by_kind, in_turn))
    return entries


def _strongest(rows: Sequence[Row], metric: Metric) -> Row:
    return max(rows, key=lambda row: getattr(row.summary, metric).value)


def against_first(entries: Sequence[Entry], pairings: Mapping[str, Pairing]) -> list[Differences]:
    """How much the strongest attack differs from that in the first experiment, per entry and end.

    Paired, or by Welch's t. None for the first experiment itself and for variants that it lacks;
    NaN where unknown. Snapshots, which are many and alike, are corrected apart.
    """
    first = {e.variant: e for e in entries if e.experiment == entries[0].experiment}
    compared: dict[tuple[int, Metric], tuple[Estimate, float]] = {}
    for position, entry in enumerate(entries):
        reference = first.get(entry.variant)
        if reference is not None and reference is not entry:
            pairing = pairings[entry.experiment]
            test = paired if pairing.own else welch
            for end in entry.risk:
                pair = entry.outcome(end, pairing.own), reference.outcome(end, pairing.first)
                compared[position, end] = test(*pair)
    corrected: dict[tuple[int, Metric], float] = {}
    for snapshots in (False, True):
        family = {
            (position, end): p
            for (position, end), (_, p) in compared.items()
            if is_snapshot(entries[position].variant) == snapshots and not isnan(p)
        }
        corrected |= dict(zip(family, holm(list(family.values())), strict=True))
    return [
        {
            end: Difference(
                entry.experiment,
                entries[0].experiment,
                *compared[position, end],
                corrected.get((position, end), nan),
            )
            if (position, end) in compared
            else None
            for end in entry.risk
        }
        for position, entry in enumerate(entries)
    ]
