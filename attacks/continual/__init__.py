"""Attacks on learners of tasks: one task's examples after one stage in, scores out.

Every attack maps what is seen of one task's examples at the end of one stage (`Cell`) to scores
`[targets, examples]`; larger is likelier a member.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor

from attacks.continual.cell import Cell
from attacks.continual.paired import shadows_paired, worlds_paired
from attacks.continual.residuals import loss, residual_lira
from attacks.continual.state import (
    exemplars,
    fisher_bound,
    fisher_equations,
    fisher_lira,
    leverage_lira,
    leverage_threshold,
    normal_equations,
    range_test,
    subnetwork_lira,
    subnetwork_share,
)
from attacks.tasks import FORMS, Form

Holds = Literal["snapshot", "snapshots", "state", "candidates"]
Compares = Literal["nothing", "shadows", "worlds"]
Needs = Literal[
    "leverage", "outside", "worlds", "exemplars", "solved",
    "fisher_excess", "fisher_solved", "subnetwork_share",
]  # fmt: skip


class ContinualAttack(NamedTuple):
    """One entry of the registry.

    Attributes:
        run: scores of the audited models.
        compares: what an attacker compares with: shadows, or heads over the target's own features.
        holds: what it holds beside its shadows: a snapshot, the learner's state at that time, or
            candidates among which is every example that was learnt, and a snapshot or the state.
        needs: fields of `Cell` that must be known.
        control: whether it is made to show what a weaker attacker would miss, and is no risk.
        ratio: whether scores are log-likelihood ratios, whose sum over snapshots is an attack by
            one who holds all of them.
    """

    run: Callable[[Cell], Tensor]
    compares: Compares = "shadows"
    holds: Holds = "snapshot"
    needs: tuple[Needs, ...] = ()
    control: bool = False
    ratio: bool = False

    def suits(self, cell: Cell) -> bool:
        """Whether a cell has what the attack needs."""
        known = (getattr(cell, field) for field in self.needs)
        return all(value is not None and len(value) > 0 for value in known)


def _of_leverage(form: Form) -> dict[str, ContinualAttack]:
    """The attacks on R as it is stored in one form."""
    attacks = {
        "leverage": ContinualAttack(
            partial(leverage_threshold, form=form), "nothing", "state", ("leverage",)
        ),
        "leverage_lira": ContinualAttack(
            partial(leverage_lira, form=form),
            "shadows",
            "state",
            ("leverage",),
            ratio=form == "float64",
        ),
    }
    return {f"{name}_{form}": attack for name, attack in attacks.items()}


ATTACKS: dict[str, ContinualAttack] = {
    "loss": ContinualAttack(loss, "nothing"),
    "residual_lira": ContinualAttack(residual_lira, ratio=True),
    "residual_lira_own_columns": ContinualAttack(
        partial(residual_lira, own_columns=True), control=True
    ),
    "residual_lira_paired": ContinualAttack(shadows_paired, needs=("leverage",), ratio=True),
    "residual_lira_worlds": ContinualAttack(worlds_paired, "worlds", needs=("worlds",), ratio=True),
    "range_test": ContinualAttack(range_test, "nothing", "state", ("outside",)),
    **{name: attack for form in FORMS for name, attack in _of_leverage(form).items()},
    "normal_equations": ContinualAttack(normal_equations, "nothing", "candidates", ("solved",)),
    "fisher_bound": ContinualAttack(fisher_bound, "nothing", "state", ("fisher_excess",)),
    "fisher_lira": ContinualAttack(fisher_lira, "shadows", "state", ("fisher_excess",)),
    "fisher_equations": ContinualAttack(
        fisher_equations, "nothing", "candidates", ("fisher_solved",)
    ),
    "subnetwork_share": ContinualAttack(
        subnetwork_share, "nothing", "state", ("subnetwork_share",)
    ),
    "subnetwork_lira": ContinualAttack(subnetwork_lira, "shadows", "state", ("subnetwork_share",)),
    "exemplars": ContinualAttack(exemplars, "nothing", "state", ("exemplars",)),
}
