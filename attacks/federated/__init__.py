"""Attacks on federated training: signals of rounds in, scores out.

Every attack maps what one kind of attacker sees of audited federations (`View`), and of shadow
federations, to scores `[targets, clients, examples]`: how likely each example is that client's
member. Scores of a client that never took part in a recorded round are NaN.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from attacks.cases import Case
from attacks.federated.convolution import score_convolution
from attacks.federated.peers import contrast, fedmia, standardise
from attacks.federated.reference import FEWEST_OUT
from attacks.federated.shadow_attacks import keep, lda, series, sum_z
from attacks.federated.view import View, last_round, mean_over_rounds
from attacks.rounds import RoundSignal

Needs = Literal["none", "peers", "shadows"]


class FederatedAttack(NamedTuple):
    """One entry of the registry.

    Attributes:
        run: scores of the audited federations, from their view, that of the shadows and the cases.
        needs: what the attacker compares with; `peers` are the other clients of a round.
        peers: whether it compares with peers beside its shadows.
        fewest: number of shadow federations in which nobody holds a given example, that it needs.
    """

    run: Callable[[View, View, Sequence[Case]], Tensor]
    needs: Needs
    peers: bool = False
    fewest: int = FEWEST_OUT

    @property
    def uses_peers(self) -> bool:
        """Whether an attacker needs to see each upload."""
        return self.peers or self.needs == "peers"


def _alone(name: RoundSignal, reduce: Callable[[Tensor], Tensor], needs: Needs) -> FederatedAttack:
    """An attack on one signal of each federation by itself."""

    def run(view: View, shadows: View, cases: Sequence[Case]) -> Tensor:
        return torch.stack([reduce(view.signals[name][case.target].double()) for case in cases])

    return FederatedAttack(run, needs)


def _contrast(signal: Tensor) -> Tensor:
    return mean_over_rounds(contrast(signal))


def _loss(phi: Tensor) -> Tensor:
    return logsigmoid(phi)  # minus the cross-entropy


def _fedmia_loss(phi: Tensor) -> Tensor:
    return fedmia(_loss(phi))


ATTACKS: dict[str, FederatedAttack] = {
    "last_phi": _alone("phi", last_round, "none"),
    "mean_phi": _alone("phi", mean_over_rounds, "none"),
    "mean_gradient": _alone("gradient", mean_over_rounds, "none"),
    "mean_cosine": _alone("cosine", mean_over_rounds, "none"),
    "contrast_phi": _alone("phi", _contrast, "peers"),
    "contrast_gradient": _alone("gradient", _contrast, "peers"),
    "contrast_cosine": _alone("cosine", _contrast, "peers"),
    "fedmia_loss": _alone("phi", _fedmia_loss, "peers"),
    "fedmia_cosine": _alone("cosine", fedmia, "peers"),
    "z_phi": FederatedAttack(partial(sum_z, name="phi"), "shadows"),
    "z_gradient": FederatedAttack(partial(sum_z, name="gradient"), "shadows"),
    "z_cosine": FederatedAttack(partial(sum_z, name="cosine"), "shadows"),
    "lda": FederatedAttack(
        partial(lda, prepare={"phi": keep, "gradient": keep, "cosine": keep}), "shadows"
    ),
    "lda_standardised": FederatedAttack(
        partial(lda, prepare={"phi": keep, "gradient": keep, "cosine": standardise}),
        "shadows",
        peers=True,
    ),
    "lda_contrast": FederatedAttack(
        partial(lda, prepare={"phi": contrast, "gradient": contrast, "cosine": contrast}),
        "shadows",
        peers=True,
    ),
    "gradient_series": FederatedAttack(
        partial(series, prepare={"gradient": keep}), "shadows", fewest=1
    ),
    "cs_mia": FederatedAttack(partial(series, prepare={"phi": torch.sigmoid}), "shadows", fewest=1),
    "zari_series": FederatedAttack(
        partial(series, prepare={"phi": torch.sigmoid}, score=score_convolution),
        "shadows",
        fewest=1,
    ),
    "nasr_series": FederatedAttack(
        partial(series, prepare={"phi": _loss, "gradient": keep, "cosine": keep}),
        "shadows",
        fewest=1,
    ),
}
