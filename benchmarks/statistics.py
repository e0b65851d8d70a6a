"""Do intervals hold the truth in 95%, and do tests find something in 5% where there is nothing?

    OMP_NUM_THREADS=1 python -m benchmarks.statistics       # every check, 400 simulations each
    python -m benchmarks.statistics differences --repetitions 50

Signals are Gaussian: phi of an example is its difficulty, which all models share, plus noise of the
model, of the variant, and the leak of members. Each check is made by the rule of the audit and by a
plainer one ("plain") that it replaced, on the same simulations.

Seed 0, 100 simulations per setting (standard errors of 1 to 3 points), on one thread of a shared
2-core EPYC. `coverage` took 0.5 CPU minutes, `nothing` 2.4, and `differences` more than 10:

    found where equal (5%), strongest attack: plain -> ours     AUC           TPR at 1% FPR
      16 shadows,  2 targets, no leak / a leak              3, 9 -> 4, 5%     4, 7 -> 4, 4%
      16 shadows,  4 targets, no leak                          7 -> 7%           6 -> 4%
      16 shadows, 10 targets, no leak / a leak              9, 4 -> 8, 3%    5, 10 -> 5, 8%
    a TPR's interval holds the truth (95%)                  at 1% FPR         at 0.1% FPR
       1 target x 500, 2000, 5000          61, 67, 62 -> 99, 99, 93%   51, 50, 36 -> 99, 98, 97%
      10 targets x 500, 2000                       95, 86 -> 99, 97%           32, 53 -> 100, 99%
    8 attacks that know nothing show a leak (5%)          1        2        4       10 targets
      AUC of the strongest above 1/2                  15->2     4->4     2->2      5->5%
      its balanced accuracy above 1/2                100->11   21->1    89->3    100->4%
      its one-run epsilon above 0                      5->5    18->8    22->4     46->5%

The settings of `differences` with 4 targets and a leak, with 32 shadows and with every shadow
audited were not reached in this run. The single target's balanced accuracy was measured before its
interval knew of the choice, and the TPRs of `differences` with thresholds of the other half of the
targets throughout. A leak of 1% of the examples is found in 23% (4 targets x 1,000) and 73% (8 x
2,000) of 30 simulations, where AUC alone finds 17%: both rest on the TPR at 1% FPR.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import norm, ttest_1samp
from scipy.stats import t as student
from torch import Tensor

from attacks.evaluate import Row, Scored, evaluate
from attacks.findings import find_differences
from attacks.game import Case, Game, ModelSignals, make_cases
from attacks.metrics.differences import Outcome, variance_of_mean
from attacks.metrics.epsilon import epsilon_bound, one_run_epsilon
from attacks.metrics.intervals import clopper_pearson, summarise
from attacks.metrics.measures import RATES, Metric, measure
from attacks.metrics.roc import roc
from attacks.strongest import Strongest
from reporting.text import NAMES

SEED = 0
ATTACKS = ("global_threshold", "attack_r", "rmia_online", "lira_online_fixed", "lira_offline_fixed")
FIXED = "lira_online_fixed"


class Rate(NamedTuple):
    """How often something happened, by the audit's rule and by the plain one."""

    check: str
    setting: str
    expected: str
    plain: float
    ours: float
    repetitions: int


def draw_fleet(
    rng: np.random.Generator,
    shadows: int,
    targets: int,
    leak: float,
    examples: int = 400,
    variants: int = 2,
) -> Game:
    """Models whose variants leak alike and differ in noise alone."""
    pairs = [rng.permutation(examples) < examples // 2 for _ in range(shadows // 2)]
    halves = [rng.permutation(examples) < examples // 2 for _ in range(targets)]
    members = np.stack([half for pair in pairs for half in (pair, ~pair)] + halves)
    models, population = len(members), 200

    def base(size: int) -> np.ndarray:
        own = rng.normal(0, 0.3, (models, 1)) + rng.normal(size=(models, size))
        signals: np.ndarray = rng.normal(2, 2, size) + own
        return signals

    audited, others = base(examples) + leak * members, base(population)
    signals = {}
    for variant in range(variants):
        noisy = [s + rng.normal(0, 0.5, s.shape) for s in (audited, others)]
        phi, outside = (torch.from_numpy(s[:, None]).float() for s in noisy)
        signals[f"variant-{variant}"] = ModelSignals(phi, population=outside)
    return Game(signals, torch.from_numpy(members), make_cases(shadows, targets))


def differences(rng: np.random.Generator, repetitions: int) -> Iterator[Rate]:
    """Two variants that leak alike: how often a difference is found at p < 0.05.

    The plain rule is Student's t over targets, which does not see the shadows that they share.
    """
    for shadows, targets in ((16, 2), (16, 4), (16, 10), (32, 10), (16, 0), (32, 0)):
        for leak in (0.0, 1.0):
            found: dict[str, list[tuple[bool, bool]]] = {}
            for _ in range(repetitions):
                game = draw_fleet(rng, shadows, targets, leak)
                for name, attacks in (("strongest", ATTACKS), (FIXED, (FIXED,))):
                    best = Strongest(game)
                    for variant in game.variants:
                        best.add(evaluate(game, variant, attacks))
                    first, second = best.variants.values()
                    for metric in best.risks:
                        pair = best.outcome(first.best[metric], metric).minus(
                            best.outcome(second.best[metric], metric)
                        )
                        found.setdefault(f"{NAMES[metric]}, {name}", []).append(_reject(pair))
            setting = f"{shadows} shadows, {targets} targets, leak {leak:g}"
            for name, both in found.items():
                yield Rate(f"found where equal: {name}", setting, "5%", *_share(both), repetitions)


def _reject(pair: Outcome) -> tuple[bool, bool]:
    """Whether a difference is found at p < 0.05, by the plain rule and by ours."""
    values = pair.measured.values
    value, count = abs(float(values.mean())), len(values)
    plain = value > student.ppf(0.975, count - 1) * float(values.std()) / count**0.5
    variance, _, freedom = variance_of_mean(pair)
    return plain, value > student.ppf(0.975, freedom) * variance**0.5


def sentences(rng: np.random.Generator, repetitions: int) -> Iterator[Rate]:
    """Three variants that leak like the first: how often any sentence claims a difference.

    The plain rule corrects AUC alone, as if nothing else were compared.
    """
    for shadows, targets in ((16, 2), (16, 4), (16, 10), (16, 0)):
        claims = []
        for _ in range(repetitions):
            game = draw_fleet(rng, shadows, targets, 1.0, variants=4)
            best = Strongest(game)
            for variant in game.variants:
                best.add(evaluate(game, variant, ATTACKS))
            found = find_differences(game, best).against_reference
            ours = any(d.p_holm < 0.05 for group in found.values() for d in group.values())
            first, *others = (
                best.outcome(kept.best["auc"], "auc") for kept in best.variants.values()
            )
            p = [float(ttest_1samp(o.minus(first).measured.values, 0).pvalue) for o in others]
            claims.append((min(p) < 0.05 / len(p), ours))
        setting = f"{shadows} shadows, {targets} targets, leak 1"
        yield Rate("any sentence of 3 variants", setting, "5%", *_share(claims), repetitions)


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
                yield Rate(name, setting, "95%", *_share(both), repetitions)


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
            yield Rate(check, f"{targets} targets x 1000", "5%", *_share(all_both), repetitions)


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


def tails(rng: np.random.Generator, repetitions: int) -> Iterator[Rate]:
    """1% of the members leak everything: how often AUC (plain) and risk at both ends find it."""
    for targets, examples in ((4, 1000), (8, 2000)):
        found = []
        for _ in range(repetitions):
            game = draw_fleet(rng, 16, targets, 0.0, examples)
            leaky = torch.from_numpy(rng.random(examples) < 0.01) & game.members
            signals = dict(game.signals)
            second = signals["variant-1"]
            signals["variant-1"] = second._replace(phi=second.phi[..., :] + 12.0 * leaky[:, None])
            game = game._replace(signals=signals)
            best = Strongest(game)
            for variant in game.variants:
                best.add(evaluate(game, variant, ATTACKS))
            against = find_differences(game, best).against_reference
            shown = [d.p_holm < 0.05 for group in against.values() for d in group.values()]
            found.append((against["auc"]["variant-1"].p < 0.05, any(shown)))
        setting = f"{targets} targets x {examples} examples"
        yield Rate("found: 1% of the examples leak", setting, "-", *_share(found), repetitions)


def _share(both: Sequence[tuple[bool, bool]]) -> tuple[float, float]:
    plain, ours = np.mean(both, 0).tolist()
    return plain, ours


CHECKS: dict[str, Callable[[np.random.Generator, int], Iterator[Rate]]] = {
    check.__name__: check for check in (differences, sentences, coverage, nothing, tails)
}


def main() -> None:
    """Make the checks and print their rates with standard errors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}")
    parser.add_argument("--repetitions", type=int, default=400, help="simulations per setting")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'check':<50}{'setting':<34}{'expected':>9}{'plain':>9}{'ours':>16}")
    for name in options.checks or CHECKS:
        start = time.process_time()
        for rate in CHECKS[name](np.random.default_rng(SEED), options.repetitions):
            error = 100 * (rate.ours * (1 - rate.ours) / rate.repetitions) ** 0.5
            ours = f"{100 * rate.ours:.1f}% +-{error:.1f}"
            plain = f"{100 * rate.plain:.1f}%"
            line = f"{rate.check:<50}{rate.setting:<34}{rate.expected:>9}{plain:>9}{ours:>16}"
            print(line, flush=True)
        minutes = (time.process_time() - start) / 60
        print(f"{name}: {options.repetitions} simulations per setting, {minutes:.1f} CPU minutes")


if __name__ == "__main__":
    main()
