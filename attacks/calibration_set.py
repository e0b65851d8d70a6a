"""Calibration as a second membership: was a training example used to calibrate the quantizer?"""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from attacks.lira import fit_sides, lira_fitted
from attacks.metrics.intervals import Estimate, mean_auc
from attacks.slices import Chosen, Sliced

FEWEST = 2  # shadows a side of an example, as LiRA needs


def calibration_auc(
    phi: Float[Sliced, "models queries examples"],
    members: Bool[Tensor, "models examples"],
    calibrated: Bool[Tensor, "models examples"],
    cases: Sequence[tuple[int, list[int]]],
) -> Estimate | None:
    """AUC of online LiRA that tells calibration examples from a model's other training examples.

    "In" are the shadows that trained and were calibrated on an example, "out" those that only
    trained on it; examples with fewer than two of a kind are left out.

    Args:
        phi: signals of all models in one variant, in nats.
        members: which model trained on which example.
        calibrated: which model's quantizer looked at which example; members only count.
        cases: who is audited, and by whom, as positions of models.

    Returns:
        Mean over the targets with its 95% interval; None where there is nothing to tell apart, as
        when every member is a calibration example.
    """
    found = []
    for target, shadows in cases:
        inside = (members & calibrated)[shadows]
        outside = (members & ~calibrated)[shadows]
        usable = (inside.sum(0) >= FEWEST) & (outside.sum(0) >= FEWEST) & members[target]
        truth = calibrated[target][usable]
        if truth.sum() < 2 or (~truth).sum() < 2:
            continue
        some = usable.nonzero()[:, 0]
        known = Chosen(phi[shadows], some)
        calibration, others = fit_sides(known, (inside[:, some], outside[:, some]))
        seen = phi[[target]][..., :][..., some]
        found.append((lira_fitted(seen, calibration, others, "fixed")[0], truth))
    return mean_auc(found) if found else None
