"""Calibration as a second membership: was a training example used to calibrate the quantizer?"""

from attacks.game import Game
from attacks.lira import fit_sides, lira_fitted
from attacks.metrics.intervals import Estimate, mean_auc
from attacks.slices import Chosen

FEWEST = 2  # shadows on each side of an example, as LiRA needs


def calibration_auc(game: Game, variant: str) -> Estimate | None:
    """AUC of online LiRA that tells calibration examples from a model's other training examples.

    "In" are the shadows that trained on and were calibrated on an example, "out" those that only
    trained on it; examples with fewer than two shadows of either kind are excluded.

    Args:
        game: `calibrated` has the variant; members of a model only count where it trained on them.
        variant: what is attacked, with shadows quantized like it.

    Returns:
        Mean over the targets with its 95% interval; None where there is nothing to tell apart, as
        when every member is a calibration example.
    """
    phi, members, calibrated = game.signals[variant].phi, game.members, game.calibrated[variant]
    curves = []
    for target, shadows in game.cases:
        included = (members & calibrated)[shadows]
        excluded = (members & ~calibrated)[shadows]
        usable = (included.sum(0) >= FEWEST) & (excluded.sum(0) >= FEWEST) & members[target]
        truth = calibrated[target][usable]
        if truth.sum() < 2 or (~truth).sum() < 2:
            continue
        positions = usable.nonzero()[:, 0]
        known = Chosen(phi[shadows], positions)
        inside, outside = fit_sides(known, (included[:, positions], excluded[:, positions]))
        signals = phi[[target]][..., :][..., positions]
        curves.append((lira_fitted(signals, inside, outside, "fixed")[0], truth))
    return mean_auc(curves) if curves else None
