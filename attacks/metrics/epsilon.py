"""Lower bounds on differential privacy's epsilon, in nats: the smallest that an attack allows.

Training is (epsilon, delta)-private if adding or removing one example makes no outcome more than
exp(epsilon) times as likely, except with probability delta. An attack that fails proves nothing.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import beta, binom
from torch import Tensor

from attacks.metrics.roc import Roc, roc


class EpsilonBound(NamedTuple):
    """Lower bound on epsilon, the test that gave it, and the number of trials it rests on."""

    epsilon: float  # nats
    threshold: float
    tpr: float  # share of members with a score at or above the threshold
    fpr: float
    members: int
    non_members: int


def epsilon_bound(
    scores: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
    delta: float = 0.0,
    confidence: float = 0.95,
) -> EpsilonBound:
    """Bound epsilon by the error rates of a threshold test over targets and examples.

    The threshold with the best bound on the first half of the targets is tested on the second half.
    With exact limits of TPR and FPR, epsilon is at least log((TPR - delta) / FPR) and also at least
    log((1 - FPR - delta) / (1 - TPR)), from the examples below the threshold.

    Examples of one target are treated as independent trials, although they share a model: where
    their scores move together, the bound claims more confidence than it has.

    Args:
        scores: higher means likelier a member, on the same scale for every target.
        members: which examples are members.
        delta: probability with which the guarantee of epsilon may fail.
        confidence: probability that the bound holds; each of the two limits may fail with half of
            the remainder.

    Raises:
        ValueError: fewer than 2 targets, a NaN, or a half without members or non-members.

    Source: Jagielski et al. 2020, arXiv:2006.07709.
    """
    _check(confidence)
    if len(scores) < 2:
        raise ValueError(
            "`epsilon_bound` chooses and tests its threshold on different targets: at least 2 are "
            f"needed, got {len(scores)}. Train more, or use `one_run_epsilon`."
        )
    half = len(scores) // 2
    thresholds, chosen_on = _curve(scores[:half], members[:half])
    threshold = thresholds[_bound(chosen_on, _count(members[:half]), delta, confidence).argmax()]
    thresholds, tested_on = _curve(scores[half:], members[half:])
    point = (thresholds >= threshold).sum() - 1  # the first threshold is infinite
    rates = [rate[point : point + 1] for rate in tested_on]
    counts = _count(members[half:])
    bound = _bound(Roc(*rates), counts, delta, confidence).item()
    return EpsilonBound(bound, threshold.item(), rates[1].item(), rates[0].item(), *counts)


def one_run_epsilon(
    scores: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
    guesses: int,
    delta: float = 0.0,
    confidence: float = 0.95,
) -> float:
    """Bound epsilon, in nats, by the number of correct guesses about all targets together.

    For each target, half of the guesses say that the highest scores are members, half that the
    lowest are not; among tied scores, examples are drawn at random. A private model allows no more
    correct guesses than that many coins with heads probability 1 / (1 + exp(-epsilon)), whatever
    its examples share.

    Several targets count as one run: they are trained independently and each membership of an
    example concerns a single one of them, so that all of them together are as private as each. The
    theorem then holds for the sum of their correct guesses, with the examples of all targets.
    Targets may share shadows, which are fixed before. The attack must be chosen on other targets or
    other examples.

    Two assumptions hold only approximately. Examples should become members by independent fair
    coins, but our targets train on random halves of fixed size: without a leak, the number of
    correct guesses about m examples then has m / (m - 1) times the variance. And where each shadow
    is audited by the others, a guess about one model's members uses those of others that are
    guessed too: with 8 or 16 shadows of 400 examples and no leak, the bound exceeded 0 in 0 to 6%
    of 300 simulations, depending on the attack.

    Args:
        scores: higher means likelier a member.
        members: which examples are members.
        guesses: number of guesses per target, even, and fixed before the scores are seen.
        delta: probability with which the guarantee may fail; its price grows with the examples.
        confidence: probability that the bound holds.

    Raises:
        ValueError: a score is NaN, or `guesses` is odd, below 2 or more than the examples.

    Source: Steinke, Nasr, Jagielski 2023, arXiv:2305.08846, Theorem 5.2 and Appendix D.
    """
    _check(confidence)
    targets, examples = scores.shape
    if guesses % 2 or not 2 <= guesses <= examples:
        raise ValueError(f"`guesses` must be even, 2 to {examples} (all), got {guesses}.")
    if scores.isnan().any():
        raise ValueError(f"Scores must be numbers, got {int(scores.isnan().sum())} NaN.")
    right, total = _count_right(scores, members, guesses), targets * guesses
    return _allowing(right, total, scores.numel(), delta, confidence)


def largest_epsilon(
    members: int, non_members: int, guesses: int, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """The largest lower bound, in nats, that a perfect attack could reach on so many examples.

    It finds every member, accuses no non-member and guesses right every time. The larger of what
    `epsilon_bound` and `one_run_epsilon` then give: however much a training leaks, no audit of this
    size finds more.

    Args:
        members: number of members that test the attack, of all tested targets together.
        non_members: number of non-members that test it.
        guesses: number of guesses about all tested targets.
        delta: probability with which the guarantee may fail.
        confidence: probability that the bound holds.
    """
    _check(confidence)
    perfect = Roc(*torch.tensor([[0.0], [1.0]], dtype=torch.float64))  # FPR, TPR
    tested = float(_bound(perfect, (members, non_members), delta, confidence).item())
    return max(tested, _allowing(guesses, guesses, members + non_members, delta, confidence))


def _allowing(right: int, total: int, examples: int, delta: float, confidence: float) -> float:
    """The smallest epsilon that allows so many correct ones of all guesses, in nats."""
    short = np.arange(1, right + 1)

    def excess(epsilon: float) -> float:
        """By how much the probability of so many correct guesses exceeds 1 - confidence."""
        chance = expit(epsilon)
        p = binom.sf(right - 1, total, chance)
        if delta:
            just_short = (binom.pmf(right - short, total, chance).cumsum() / short).max(initial=0)
            p += 2 * examples * delta * just_short
        return float(p - (1 - confidence))

    return 0.0 if excess(0.0) >= 0 else float(brentq(excess, 0, 50))  # at 50 nats all are correct


def _count_right(
    scores: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
    guesses: int,
) -> int:
    """Count the correct ones of `guesses` guesses per target."""
    generator = torch.Generator().manual_seed(0)
    right = 0
    for row, inside in zip(scores, members, strict=True):
        # in the given order, tied scores would be guessed correctly where members come last
        shuffled = torch.randperm(len(row), generator=generator)
        ordered = inside[shuffled][row[shuffled].argsort(stable=True)]
        right += int((~ordered[: guesses // 2]).sum() + ordered[-guesses // 2 :].sum())
    return right


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}. 95% is 0.95.")


def _curve(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> tuple[Float[Tensor, " points"], Roc]:
    """Threshold of each point, infinite for the first, and the curve of all targets together."""
    curve = roc(scores.flatten(), members.flatten())
    return torch.cat([scores.new_tensor([torch.inf]), torch.unique(scores).flip(0)]), curve


def _count(members: Bool[Tensor, "targets examples"]) -> tuple[int, int]:
    """Number of members and of non-members, of all targets together."""
    return int(members.sum()), int((~members).sum())


def _bound(
    curve: Roc, counts: tuple[int, int], delta: float, confidence: float
) -> Float[np.ndarray, " points"]:
    """Lower bound on epsilon at each point of a curve, by Clopper and Pearson's limits."""
    inside, outside = counts
    hits, alarms = (curve.tpr * inside).round().numpy(), (curve.fpr * outside).round().numpy()
    error = (1 - confidence) / 2
    # NaN, without a warning, where there are no hits, or only alarms, and so no limit
    tpr = np.nan_to_num(beta.ppf(error, hits, inside - hits + 1), nan=0.0)
    fpr = np.nan_to_num(beta.ppf(1 - error, alarms + 1, outside - alarms), nan=1.0)
    ratio = np.maximum((tpr - delta) / fpr, (1 - fpr - delta) / (1 - tpr))
    bound: np.ndarray = np.log(np.maximum(ratio, 1))
    return bound
