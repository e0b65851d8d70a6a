"""Numbers of the study: what an attacker finds on each target, and the differences of these."""

from collections.abc import Mapping, Sequence
from math import floor, isnan, log10
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.cross_choice import cross_outcome
from attacks.evaluate import Row
from attacks.game import FULL
from attacks.metrics.between import paired
from attacks.metrics.differences import Outcome, ratio_of_means
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Measured, Metric
from docs.study.verdicts import Uncorrected
from reporting.results import Results

MEASURES: tuple[Metric, ...] = ("auc", "tpr_1pct", "tpr_01pct")
GUESSES = {"auc": 0.5, "tpr_1pct": 0.01, "tpr_01pct": 0.001}
LIRA = "lira_online"  # the attack of the paper's Fig. 1
DIGITS = 5  # of kept numbers
SMALL = 0.05  # of what is found at full precision: a smaller difference is called small


class Attacker(NamedTuple):
    """Who attacks.

    Attributes:
        kinds: what the shadows went through; several kinds are one attacker who has all of them.
        attack: name of the attack; None is the strongest, among those without shadows too.
    """

    kinds: tuple[str, ...]
    attack: str | None = None


NOBODY = Attacker(())  # for the test accuracy
PAPERS = Attacker(("unquantized",), LIRA)
MATCHED_LIRA = Attacker(("matched",), LIRA)
STRONGEST = Attacker(("matched", "unquantized", "recalibrated"))  # whichever were run
UNMATCHED = Attacker(("unquantized",))  # the strongest with full-precision shadows or none
REPAIRED = Attacker(("unquantized", "recalibrated"))  # who may recalibrate them, too
ATTACKERS = {"the paper's attacker": PAPERS, "the strongest attack": STRONGEST}


class Contrast(NamedTuple):
    """A difference, first - second, of two attacked variants in one measure."""

    first: tuple[str, Attacker]
    second: tuple[str, Attacker]
    measure: str


def leak(first: str, second: str, attacker: Attacker, measure: str) -> Contrast:
    """How much more the first variant leaks than the second, to one attacker."""
    return Contrast((first, attacker), (second, attacker), measure)


def accuracy(first: str, second: str) -> Contrast:
    """How much more accurate the first variant is than the second."""
    return leak(first, second, NOBODY, "accuracy")


def contrasts_of(first: str, second: str) -> list[Contrast]:
    """How two variants differ in accuracy, and in leakage by each attacker and measure."""
    leaks = [leak(first, second, a, m) for a in ATTACKERS.values() for m in MEASURES]
    return [accuracy(first, second), *leaks]


def missed(variant: str, attack: str | None, measure: str) -> Contrast:
    """How much more matched shadows find than full-precision ones."""
    matched, unquantized = Attacker(("matched",), attack), Attacker(("unquantized",), attack)
    return Contrast((variant, matched), (variant, unquantized), measure)


def uncorrected(
    first: Outcome, second: Outcome, margin: float, together: bool = True
) -> Uncorrected:
    """Compare two outcomes on the same targets, first - second, by Student's t.

    The variance that the draw of shadows adds is counted where it is known. Nothing is shown where
    all targets differ by the same amount but for the rounding of kept numbers, because t would then
    claim certainty.

    Args:
        first: what is compared.
        second: what it is compared with.
        margin: the size up to which the difference is small.
        together: whether one fleet's shadows attack both, so that their noise cancels.
    """
    difference, rounding = first.minus(second), _rounding(first, second)
    if not difference.measured.values.any():  # the same attack on both sides
        return Uncorrected(Estimate(0.0, 0.0, 0.0), 1.0, margin)
    if together:
        first, second = difference, Outcome(second.minus(second).measured)
    alike = float(difference.measured.values.std(correction=0)) <= rounding
    estimate, p = paired(first, second)
    if isnan(p) or alike:
        return Uncorrected(estimate._replace(low=-1.0, high=1.0), 1.0, margin)
    return Uncorrected(estimate, p, margin)


def _rounding(first: Outcome, second: Outcome) -> float:
    """The last digit that is kept of the largest of some numbers."""
    sides = [outcome.measured.values.abs().max().item() for outcome in (first, second)]
    return 10.0 ** (floor(log10(max(*sides, 1e-12))) + 1 - DIGITS)


class Study:
    """An audit's results, to compare in pairs.

    Args:
        results: of an audit, or what is kept of them.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.rows: dict[tuple[str, str], list[Row]] = {}
        for row in results.rows:
            self.rows.setdefault((row.variant, row.knowledge), []).append(row)
        self.variants = list(results.variants)

    @property
    def config(self) -> Mapping[str, Any]:
        """The options of the experiment; none for models that were trained elsewhere."""
        return self.results.experiment.config if self.results.experiment else {}

    def rows_of(self, variant: str, attacker: Attacker) -> list[Row]:
        """What an attacker can do; at full precision all kinds of own shadows are the same."""
        own = variant == FULL and "other" not in attacker.kinds
        kinds = ("matched",) if own else attacker.kinds
        rows = [row for kind in kinds for row in self.rows.get((variant, kind), [])]
        if attacker.attack is None:
            rows += self.rows.get((variant, "none"), [])
        return [row for row in rows if attacker.attack in (None, row.attack)]

    def best(self, variant: str, attacker: Attacker, measure: Metric = "auc") -> Row:
        """The row that is highest by one measure."""
        rows = self.rows_of(variant, attacker)
        return max(rows, key=lambda row: getattr(row.summary, measure).value)

    def each(self, variant: str, attacker: Attacker, measure: str) -> Float[Tensor, " targets"]:
        """One number per target, by the attack that is strongest on the other half of them."""
        return self.outcome(variant, attacker, measure).measured.values

    def outcome(
        self, variant: str, attacker: Attacker, measure: str, targets: Sequence[int] | None = None
    ) -> Outcome:
        """The same with what either half of the shadows finds, where the audit recorded it.

        Args:
            variant: the variant that is attacked.
            attacker: who attacks; nobody for the test accuracy, which knows of no shadows.
            measure: one of `MEASURES`, or `accuracy`.
            targets: positions of the targets; None for all of them.
        """
        if measure == "accuracy":
            facts, halves = self.results.variants[variant], None
            values = torch.tensor(facts.accuracy_by_target, dtype=torch.float64)
        else:
            found = cross_outcome(self.rows_of(variant, attacker), cast("Metric", measure))
            values, halves = found.measured.values, found.halves
        if targets is not None:
            values = values[list(targets)]
            halves = None if halves is None else halves[:, list(targets)]
        return Outcome(Measured(values, values.new_zeros(len(values), 0)), halves)

    def difference(self, contrast: Contrast) -> Float[Tensor, " targets"]:
        """The difference on each target."""
        first, second, measure = contrast
        return self.each(*first, measure) - self.each(*second, measure)

    def margin(self, attacker: Attacker, measure: str) -> float:
        """The size up to which a difference is small: a share of what full precision leaks."""
        if measure == "accuracy":
            return 0.0
        found = self.each(FULL, attacker, measure).mean().item()
        return SMALL * max(0.0, found - GUESSES[measure])

    def compare(self, contrast: Contrast) -> Uncorrected:
        """Compare two sides of a contrast."""
        first, second, measure = contrast
        return uncorrected(
            self.outcome(*first, measure),
            self.outcome(*second, measure),
            self.margin(first[1], measure),
        )

    def mismatch(self, variant: str, attack: str | None, measure: str = "auc") -> Estimate | None:
        """Share of the gain that full-precision shadows see and matched ones do not.

        Returns:
            What matched shadows find beyond full-precision ones, over the gain in privacy that
            full-precision ones see, with Fieller's interval; None where no gain is shown.
        """
        contrast = missed(variant, attack, measure)
        unquantized = contrast.second[1]
        gained = self.difference(leak(FULL, variant, unquantized, measure))
        if gained.mean() <= 0:
            return None
        return ratio_of_means(self.difference(contrast), gained)
