"""Numbers of the study: what two variants differ by, for one attacker, on the same targets."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.evaluate import Row
from attacks.game import FULL, Knowledge
from attacks.metrics.differences import holm, mean_difference, ratio_of_means
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from attacks.strongest import cross_choose
from reporting.results import Results

Verdict = Literal["alike", "less", "more", "unclear"]
PAPERS = "lira_online"  # the attack of the paper's Fig. 1
MARGIN = 0.01  # AUC below which a difference is none that matters here


class Attacker(NamedTuple):
    """Who attacks: what the shadows went through, and one attack, or the strongest."""

    knowledge: Knowledge
    attack: str | None = None


UNQUANTIZED_LIRA, MATCHED_LIRA = Attacker("unquantized", PAPERS), Attacker("matched", PAPERS)
UNQUANTIZED_BEST, MATCHED_BEST = Attacker("unquantized"), Attacker("matched")
ATTACKERS = {
    "LiRA online, full-precision shadows": UNQUANTIZED_LIRA,
    "LiRA online, matched shadows": MATCHED_LIRA,
    "strongest attack, full-precision shadows": UNQUANTIZED_BEST,
    "strongest attack, matched shadows": MATCHED_BEST,
}


class Compared(NamedTuple):
    """A mean difference over targets, its p, and that corrected for the others beside it."""

    estimate: Estimate
    p: float
    p_holm: float

    def verdict(self, margin: float = MARGIN) -> Verdict:
        """What is shown; whatever is within the margin is alike, even if it is not 0."""
        if self.estimate.low > -margin and self.estimate.high < margin:
            return "alike"
        if self.p_holm >= 0.05:
            return "unclear"
        return "less" if self.estimate.value < 0 else "more"


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

    def rows_of(self, variant: str, attacker: Attacker) -> list[Row]:
        """What an attacker can do; at full precision both kinds of shadows are the same."""
        kind = "matched" if variant == FULL else attacker.knowledge
        rows = self.rows[variant, kind]
        if attacker.attack is None:
            return [*rows, *self.rows.get((variant, "none"), [])]
        return [row for row in rows if row.attack == attacker.attack]

    def best(self, variant: str, attacker: Attacker, metric: Metric = "auc") -> Row:
        """The row that is highest by one metric."""
        rows = self.rows_of(variant, attacker)
        return max(rows, key=lambda row: getattr(row.summary, metric).value)

    def each(self, variant: str, attacker: Attacker, metric: Metric) -> Float[Tensor, " targets"]:
        """One number per target, by the attack that is strongest on the other half of them."""
        rows = self.rows_of(variant, attacker)
        values = torch.tensor([row.by_target[metric] for row in rows], dtype=torch.float64)
        return cross_choose(list(values), values)

    def accuracies(self, variant: str) -> Float[Tensor, " targets"]:
        """Test accuracy of each target."""
        accuracies = self.results.variants[variant].accuracy_by_target
        return torch.tensor(accuracies, dtype=torch.float64)

    def leaks(
        self, pairs: Sequence[tuple[str, str]], attacker: Attacker, metric: Metric = "auc"
    ) -> list[Compared]:
        """How much more the first leaks than the second, to one attacker."""
        return compare(
            [
                self.each(first, attacker, metric) - self.each(second, attacker, metric)
                for first, second in pairs
            ]
        )

    def shadows(
        self, variants: Sequence[str], attack: str | None, metric: Metric = "auc"
    ) -> list[Compared]:
        """How much more matched shadows find than full-precision ones."""
        unquantized, matched = Attacker("unquantized", attack), Attacker("matched", attack)
        return compare(
            [self.each(v, matched, metric) - self.each(v, unquantized, metric) for v in variants]
        )

    def mismatch(self, variant: str, attack: str | None, metric: Metric = "auc") -> Estimate | None:
        """Share of the privacy that full-precision shadows see gained and matched ones do not.

        Returns:
            1 - gain seen by matched shadows / gain seen by full-precision ones, with Fieller's
            interval; None where the latter is not shown.
        """
        unquantized, matched = Attacker("unquantized", attack), Attacker("matched", attack)
        leak = self.each(variant, unquantized, metric)
        gained = self.each(FULL, unquantized, metric) - leak
        return ratio_of_means(self.each(variant, matched, metric) - leak, gained)


def compare(differences: Sequence[Float[Tensor, " _"]]) -> list[Compared]:
    """Student's t over targets of each, with p corrected for their number."""
    means = [mean_difference(difference) for difference in differences]
    corrected = holm([p for _, p in means])
    return [
        Compared(estimate, p, p_holm)
        for (estimate, p), p_holm in zip(means, corrected, strict=True)
    ]
