"""What DP-SGD proves, by Opacus: epsilon of some steps, and the noise that a wanted epsilon takes.

Two training sets are neighbours if one is the other and one more example.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import ceil, floor, isnan, log10, nan
from typing import NamedTuple

import numpy as np

# PRV is tighter than RDP by a tenth to a quarter, but its grid grows with epsilon: a tenth of a
# second at 8, 5 s at 480, and more than 20 GB of memory at some thousands.
LARGEST = 100.0


class Mechanism(NamedTuple):
    """DP-SGD of one model: all that its epsilon depends on but the number of steps.

    Attributes:
        noise: standard deviation of the noise, in units of the clipping norm.
        sample_rate: chance of each member to be in a batch.
        delta: probability with which the bound may fail.
    """

    noise: float
    sample_rate: float
    delta: float


class Spent(NamedTuple):
    """An upper bound on epsilon, in nats, and the accountant that proves it: `PRV` or `RDP`."""

    epsilon: float
    accountant: str


@lru_cache
def spend(mechanism: Mechanism, steps: int) -> Spent:
    """Bound epsilon after some steps."""
    if not steps:
        return Spent(0.0, "PRV")
    epsilon = _account("rdp", mechanism, steps)
    if epsilon > LARGEST:
        return Spent(epsilon, "RDP")
    try:
        tighter = _account("prv", mechanism, steps)
    except RuntimeError:  # its grid does not hold this mechanism
        tighter = nan
    return Spent(epsilon, "RDP") if isnan(tighter) else Spent(max(0.0, tighter), "PRV")


@lru_cache
def solve_noise(epsilon: float, sample_rate: float, delta: float, steps: int) -> float:
    """Find the noise with which some steps cost at most `epsilon`; rounded up to 4 digits.

    Raises:
        ValueError: no noise suffices.
    """
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _quiet():
            noise = get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant="prv" if epsilon <= LARGEST / 2 else "rdp",
            )
    except (ValueError, RuntimeError) as error:  # PRV raises both
        raise ValueError(
            f"`model.dp.epsilon` of {epsilon:g} cannot be met in {steps} steps at a sampling rate "
            f"of {sample_rate:.3g} and delta {delta:g}, whatever the noise ({error}). Raise it, or "
            "raise `--model.dp.delta`."
        ) from error
    unit = 10.0 ** (floor(log10(noise)) - 3)
    return float(f"{ceil(noise / unit) * unit:.4g}")


def default_delta(members: int) -> float:
    """The largest power of ten below 1 / members."""
    return float(f"1e-{floor(log10(members)) + 1}")


def _account(kind: str, mechanism: Mechanism, steps: int) -> float:
    from opacus.accountants import create_accountant

    accountant = create_accountant(kind)
    accountant.history = [(mechanism.noise, mechanism.sample_rate, steps)]
    with _quiet():
        return float(accountant.get_epsilon(mechanism.delta))


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out notes on the orders of RDP, and on log(0), which is right at a rate of 1."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", over="ignore"):
        warnings.simplefilter("ignore")
        yield
