"""How the AUC of an attack grows with the rounds that are seen, and with the shadow federations."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from attacks.cases import Case, by_shadows
from attacks.federated import FederatedAttack
from attacks.federated.measures import measure_auc
from attacks.federated.view import View
from attacks.metrics.intervals import Estimate, two_way
from attacks.rounds import NOBODY


def over_rounds(
    attack: FederatedAttack, view: View, shadows: View, cases: Sequence[Case], done: Sequence[int]
) -> dict[int, Estimate]:
    """AUC of an attack that sees the first recorded rounds alone, by how many rounds are done."""
    found = {}
    for count, number in enumerate(done, start=1):
        scores = attack.run(view.first(count), shadows.first(count), cases)
        found[number] = two_way(measure_auc(scores, _holders(view, cases)))
    return found


def over_shadows(
    attack: FederatedAttack, view: View, shadows: View, cases: Sequence[Case]
) -> dict[int, Estimate]:
    """AUC of an attack with the first 2, 4, 8 and so on shadow federations, up to all.

    Federations come in complementary pairs, so that of the first n each example is held in half.
    Numbers with which the attack cannot be made are left out.
    """
    most, found = min(len(case.shadows) for case in cases), {}
    powers = (2**power for power in range(1, most.bit_length()))
    for count in sorted({*powers, most}):
        fewer = [case._replace(shadows=case.shadows[:count]) for case in cases]
        groups = by_shadows(fewer)
        out = min(int((shadows.holder[list(g)] == NOBODY).sum(0).min()) for g in groups)
        if out >= attack.fewest:
            scores = attack.run(view, shadows, fewer)
            found[count] = two_way(measure_auc(scores, _holders(view, cases)))
    return found


def _holders(view: View, cases: Sequence[Case]) -> Int64[Tensor, "federations examples"]:
    return view.holder[torch.tensor([case.target for case in cases])]
