"""How often an interval holds the truth, and how often attacks that know nothing show a leak."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from attacks.cases import Case
from attacks.evaluate import Row, Scored
from attacks.game import Game
from attacks.metrics.epsilon import epsilon_bound, one_run_epsilon
from attacks.metrics.intervals import clopper_pearson, summarise
from attacks.metrics.measures import RATES, Metric, measure
from attacks.metrics.roc import roc
from attacks.strongest import Strongest
from reporting.text import NAMES


class Rate(NamedTuple):
    """How often something happened, by the audit's rule and by the plain one."""

    check: str
    setting: str
    expected: str
    plain: float
    ours: float
    repetitions: int


def coverage(rng: np.random.Generator, repetitions: int) -> Iterator[Rate]:
    """Independent examples of targets alike: how often an interval holds the truth.

    The plain rules for one target take the threshold as given: Clopper and Pearson's interval of a
    TPR. For several it is Student's t over each target's TPR at its own threshold.
    """
    truth = {metric: norm.sf(norm.isf(fpr) - 1) for metric, fpr in RATES.items()}
    for targets in (1, 2, 4, 10):
        for examples in (500, 2000, 5000) if targets == 1 else (500, 2000):
            held: dict[Metric, list[tuple[bool, bool]]] = {metric: [] for metric in RATES}
            for _ in range(repetitions):
                members = torch.from_numpy(rng.random((targets, examples)).argsort(1) % 2 == 0)
                scores = torch.from_numpy(rng.normal(size=members.shape)) + members
                summary = summarise(scores, members)
                for metric, fpr in RATES.items():
                    _, low, high, _ = getattr(summary, metric)
                    ends = _plain_interval(scores, members, fpr)
                    value = truth[metric]
                    held[metric].append((ends[0] <= value <= ends[1], low <= value <= high))
            for metric, both in held.items():
                name, setting = f"held: {NAMES[metric]}", f"{targets} targets x {examples} examples"
                yield Rate(name, setting, "95%", *share(both), repetitions)


def _plain_interval(scores: Tensor, members: Tensor, fpr: float) -> tuple[float, float]:
    """The interval of a TPR whose threshold is the largest allowed on the same target."""
    rates = []
    for row, inside in zip(scores, members, strict=True):
        curve = roc(row, inside)
        rates.append(float(curve.tpr[curve.fpr <= fpr + 1e-12][-1]))
    if len(rates) == 1:
        trials = int(members.sum())
        return clopper_pearson(round(rates[0] * trials), trials)[1:3]
    margin = student.ppf(0.975, len(rates) - 1) * np.std(rates, ddof=1) / len(rates) ** 0.5
    return float(np.mean(rates) - margin), float(np.mean(rates) + margin)


def nothing(rng: np.random.Generator, repetitions: int) -> Iterator[Rate]:
    """Eight attacks that know nothing: how often the strongest one's numbers show a leak.

    The plain rules: 95% intervals that do not know of the choice, balanced accuracy at the best
    threshold of the same examples, the mean over targets of bounds on epsilon.
    """
    for targets in (1, 2, 4, 10):
        shown: dict[str, list[tuple[bool, bool]]] = {}
        for _ in range(repetitions):
            members = torch.from_numpy(rng.random((targets, 1000)).argsort(1) < 500)
            common = rng.normal(size=members.shape)
            scores = [torch.from_numpy(common + rng.normal(size=common.shape)) for _ in range(8)]
            for check, both in _claims(scores, members).items():
                shown.setdefault(check, []).append(both)
        for check, all_both in shown.items():
            yield Rate(check, f"{targets} targets x 1000", "5%", *share(all_both), repetitions)


def _claims(scores: Sequence[Tensor], members: Tensor) -> dict[str, tuple[bool, bool]]:
    """Whether each number shows a leak, by the plain rule and by ours."""
    game = Game({}, members, [Case(target, []) for target in range(len(members))])
    best = Strongest(game)
    rows = []
    for position, own in enumerate(scores):
        summary, measured = summarise(own, members), measure(own, members)
        values = {metric: known.values.tolist() for metric, known in measured.items()}
        row = Row("full", "none", f"attack {position}", summary, 0, [], values)
        rows.append(Scored(row, own))
    best.add(rows)
    (kept,) = best.variants.values()
    strongest = kept.rows["auc"]
    own = scores[int(strongest.attack.split()[-1])]
    naive = summarise(own, members)
    half = len(kept.tested.members) // 2
    guesses = int(0.1 * kept.tested.members.shape[1]) // 2 * 2
    tested, inside = kept.tested.scores[half:], kept.tested.members[half:]
    alone = [one_run_epsilon(s[None], m[None], 100) for s, m in zip(own, members, strict=True)]
    best_accuracy = [float((c.tpr - c.fpr).max()) for c in map(roc, own, members)]
    margin = 0.0
    if len(members) > 1:
        margin = student.ppf(0.975, len(members) - 1) * np.std(best_accuracy, ddof=1)
    lowest = float(np.mean(best_accuracy)) - margin / len(members) ** 0.5
    return {
        "AUC of the strongest above 1/2": (naive.auc.low > 0.5, strongest.summary.auc.low > 0.5),
        "its balanced accuracy above 1/2": (
            lowest > 0,
            strongest.summary.balanced_accuracy.low > 0.5,
        ),
        "its one-run epsilon above 0": (
            float(np.mean(alone)) > 0,
            one_run_epsilon(tested, inside, guesses) > 0,
        ),
        "its epsilon from TPR and FPR above 0": (
            False,
            epsilon_bound(*kept.tested).epsilon > 0,
        ),
    }


def share(both: Sequence[tuple[bool, bool]]) -> tuple[float, float]:
    """How often the plain rule and ours found something."""
    plain, ours = np.mean(both, 0).tolist()
    return plain, ours
