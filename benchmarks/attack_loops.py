"""LiRA and RMIA as they are usually written, beside ours: their cost, and how far scores differ."""

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from attacks.lira import lira
from attacks.rmia import log_ratio, rmia
from benchmarks.synthetic_fleet import Cost, Fleet, drop_cached, timed
from storage.saved_signals import SavedSignal


def loop(target: np.ndarray, shadows: np.ndarray, included: np.ndarray) -> np.ndarray:
    """Online LiRA as it is usually written, one example at a time."""
    scores = []
    for j in range(target.shape[-1]):
        inside, outside = shadows[included[:, j], :, j], shadows[~included[:, j], :, j]
        log_in, log_out = (
            norm.logpdf(target[:, j], np.median(side, 0), np.std(side, 0) + 1e-30)
            for side in (inside, outside)
        )
        scores.append((log_in - log_out).mean())
    return np.array(scores)


def time_lira(fleet: Fleet) -> Cost:
    """Cost of our LiRA on all examples, with the shadows' files read in slices."""
    drop_cached(fleet)
    shadows, target, included = read_lira(fleet)
    return timed(lambda: lira(target, shadows, included, "example"))[1]


def read_lira(fleet: Fleet) -> tuple[SavedSignal, Tensor, Tensor]:
    """Inputs of LiRA: the shadows' signals on disk, a target's signals, and the membership."""
    phi, included = fleet.signal("phi"), fleet.members()[: fleet.shadows]
    return phi[list(range(fleet.shadows))], phi[[fleet.shadows]][..., :][0], included


def compare_lira(fleet: Fleet, looped: int) -> tuple[Cost, dict[str, tuple[Cost, float]]]:
    """Cost of our LiRA on all examples and of each loop on a few, with the largest difference.

    All find their examples in memory, the loops in float64.
    """
    signals, target, included = read_lira(fleet)
    shadows = signals[..., :]
    ours, cost = timed(lambda: lira(target, shadows, included, "example"))
    values = target[:, :looped].double().numpy(), shadows[..., :looped].double().numpy()
    mask, queries = included[:, :looped].numpy(), range(fleet.queries)

    def each_query() -> np.ndarray:
        scores = [loop(values[0][[a]], values[1][:, [a]], mask) for a in queries]
        return np.asarray(np.mean(scores, 0))

    loops = {"all queries at once": lambda: loop(*values, mask), "each query": each_query}
    usual = {}
    for name, function in loops.items():
        scores, slow = timed(lambda: torch.from_numpy(function()))  # noqa: B023
        usual[f"a loop over examples, {name}"] = slow, (ours[:looped] - scores).abs().max().item()
    return cost, usual


def matrix(ratios: Tensor, population: Tensor) -> Tensor:
    """Mean over queries of the share of the population that each example exceeds, pair by pair."""
    shares = []
    for part in torch.split(ratios.exp(), 500, -1):
        pairs = part[:, :, None] / population.exp()[:, None]
        shares.append((pairs > 1).double().mean(-1).mean(0))
    return torch.cat(shares)


def compare_rmia(fleet: Fleet, looped: int) -> tuple[Cost, dict[str, tuple[Cost, float]]]:
    """Cost of our RMIA on all examples and of all pairs on a few, with the largest difference.

    Both are given the ratios. Ours breaks ties by less than half a step of the share; rounding
    undoes that.
    """
    shadows = list(range(fleet.shadows))
    nobody = torch.zeros(fleet.shadows, fleet.population, dtype=torch.bool)
    masks = {"phi": fleet.members()[: fleet.shadows], "population": nobody}
    x, z = (
        log_ratio(
            fleet.signal(key)[[fleet.shadows]][..., :][0],
            fleet.signal(key)[shadows],
            mask,
            online=False,
        )
        for key, mask in masks.items()
    )
    scores, cost = timed(lambda: rmia(x, z))
    usual, slow = timed(lambda: matrix(x[:, :looped], z))
    steps = fleet.queries * fleet.population
    shares = (scores[:looped] * steps).round() / steps
    return cost, {"every pair": (slow, (shares - usual).abs().max().item())}
