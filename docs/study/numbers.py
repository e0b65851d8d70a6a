"""Numbers of the study: what two precisions differ by, for one attacker, on the same targets."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.metrics.differences import holm, mean_difference, ratio_of_means
from attacks.metrics.intervals import Estimate
from attacks.strongest import cross_choose

Knowledge = Literal["full", "matched"]
Metric = Literal["auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct"]
Verdict = Literal["alike", "less", "more", "unclear"]
PAPERS = "lira_online"  # the attack of the paper's Fig. 1
MARGIN = 0.01  # AUC below which a difference is none that matters here


class Attacker(NamedTuple):
    """Who attacks: what the shadows went through, and one attack, or the strongest."""

    knowledge: Knowledge
    attack: str | None = None


FULL_LIRA, MATCHED_LIRA = Attacker("full", PAPERS), Attacker("matched", PAPERS)
FULL_BEST, MATCHED_BEST = Attacker("full"), Attacker("matched")
ATTACKERS = {
    "LiRA online, full-precision shadows": FULL_LIRA,
    "LiRA online, matched shadows": MATCHED_LIRA,
    "strongest attack, full-precision shadows": FULL_BEST,
    "strongest attack, matched shadows": MATCHED_BEST,
}


class Compared(NamedTuple):
    """A mean difference over targets, its p, and that corrected for the others beside it."""

    estimate: Estimate
    p: float
    p_holm: float

    def verdict(self, margin: float = MARGIN) -> Verdict:
        """What is shown; whatever is within the margin is alike, even if it is not nought."""
        if self.estimate.low > -margin and self.estimate.high < margin:
            return "alike"
        if self.p_holm >= 0.05:
            return "unclear"
        return "less" if self.estimate.value < 0 else "more"


class Study:
    """An audit's results, to compare in pairs.

    Args:
        results: what results.json holds.
    """

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results = results
        self.rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in results["rows"]:
            self.rows.setdefault((row["variant"], row["knowledge"]), []).append(row)
        self.variants = list(dict.fromkeys(row["variant"] for row in results["rows"]))

    def rows_of(self, variant: str, attacker: Attacker) -> list[Mapping[str, Any]]:
        """What an attacker can do; at full precision both kinds of shadows are the same."""
        kind = "matched" if variant == "full" else attacker.knowledge
        rows = self.rows[variant, kind]
        if attacker.attack is None:
            return [*rows, *self.rows.get((variant, "none"), [])]
        return [row for row in rows if row["attack"] == attacker.attack]

    def best(self, variant: str, attacker: Attacker, metric: Metric = "auc") -> Mapping[str, Any]:
        """The row that is highest by one metric."""
        return max(self.rows_of(variant, attacker), key=lambda row: row[metric])

    def each(self, variant: str, attacker: Attacker, metric: Metric) -> Float[Tensor, " targets"]:
        """One number a target; the strongest attack is chosen on the other half of the targets."""
        rows = self.rows_of(variant, attacker)
        values = torch.tensor([row["by_target"][metric] for row in rows], dtype=torch.float64)
        return cross_choose(list(values), values)

    def accuracies(self, variant: str) -> Float[Tensor, " targets"]:
        """Test accuracy of each target."""
        (row, *_) = self.rows[variant, "matched"]
        return torch.tensor(row["by_target"]["accuracy"], dtype=torch.float64)

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
        full, matched = Attacker("full", attack), Attacker("matched", attack)
        return compare(
            [self.each(v, matched, metric) - self.each(v, full, metric) for v in variants]
        )

    def mismatch(self, variant: str, attack: str | None, metric: Metric = "auc") -> Estimate | None:
        """Share of the privacy that full-precision shadows see gained and matched ones do not.

        Returns:
            1 - gain seen by matched shadows / gain seen by full-precision ones, with Fieller's
            interval; None where the latter is not shown.
        """
        full, matched = Attacker("full", attack), Attacker("matched", attack)
        seen_full = self.each(variant, full, metric)
        gained = self.each("full", full, metric) - seen_full
        return ratio_of_means(self.each(variant, matched, metric) - seen_full, gained)


def compare(differences: Sequence[Float[Tensor, " _"]]) -> list[Compared]:
    """Student's t over targets of each, with p corrected for their number."""
    found = [mean_difference(some) for some in differences]
    corrected = holm([p for _, p in found])
    return [
        Compared(estimate, p, p_holm)
        for (estimate, p), p_holm in zip(found, corrected, strict=True)
    ]
