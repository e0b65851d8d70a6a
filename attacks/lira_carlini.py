"""LiRA as its authors' code computes it, to compare with published numbers.

Source: Carlini et al. 2022, arXiv:2112.03570; google-research/privacy, `mi_lira_2021/plot.py`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.lira import fit_sides, log_normal
from attacks.slices import Sliced, slices_of


def lira_carlini(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
    online: bool,
    fixed: bool,
) -> Float[Tensor, "*targets examples"]:
    """Score as the authors' code does, flaws included, to compare with published numbers.

    Every example keeps only its first n shadows per side, n being the smallest count of any example
    (on coin-flip splits AUC 0.74 became 0.59). A spread is floored by adding 1e-30. The fixed one
    is the std of all values instead of residuals; online, that of the "in" values for both sides.
    Offline is two-sided, and so takes an unusually low phi for a member's (AUC 0.626 instead of
    `lira_offline`'s 0.753 on synthetic signals).

    Args:
        target: phi of the audited model, or of several that share their shadows, in nats.
        shadows: phi of each shadow model.
        included: whether that shadow model trained on that example.
        online: their `generate_ours` if true, else their `generate_ours_offline`.
        fixed: their `fix_variance`.

    Returns:
        Mean over queries of log N_in - log N_out, or of -log N_out; their sign is flipped so that
        higher means likelier a member, as everywhere here.

    Raises:
        ValueError: an example has fewer than two shadows on a side in use.
    """
    sides = _first(~included), _first(included)
    fits = fit_sides(shadows, sides if online else sides[:1], "median")
    overall = _std(shadows, sides[-1 if online else 0])
    logs = [
        log_normal(target, fit.location, (overall if fixed else fit.std) + 1e-30) for fit in fits
    ]
    score = -logs[0] if not online else logs[1] - logs[0]
    return score.mean(-2)


def _std(shadows: Sliced, side: Bool[Tensor, "models examples"]) -> Float[Tensor, ""]:
    """Population std of all values marked by `side`."""
    count = side.sum() * shadows.shape[1]

    def total(of: Callable[[Tensor], Tensor]) -> Tensor:
        parts = ((shadows[..., part].double(), side[:, None, part]) for part in slices_of(shadows))
        return torch.stack([of(x).where(mask, 0).sum() for x, mask in parts]).sum()

    mean = total(lambda x: x) / count
    return (total(lambda x: (x - mean).square()) / count).sqrt()


def _first(side: Bool[Tensor, "models examples"]) -> Bool[Tensor, "models examples"]:
    """Keep each example's first shadows, as many as the example with the fewest has."""
    return side & (side.cumsum(0) <= side.sum(0).min())
