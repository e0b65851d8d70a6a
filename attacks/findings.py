"""What follows from the scores of all attacks: comparisons, bounds, and who is exposed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.calibration_set import calibration_auc
from attacks.evaluate import lacking, score
from attacks.game import Case, Knowledge, Observed, by_shadows
from attacks.joint_lira import lira_joint
from attacks.metrics.differences import Difference, holm, paired_differences
from attacks.metrics.epsilon import EpsilonBound, epsilon_bound, one_run_epsilon
from attacks.metrics.exposure import Change, change, exposure
from attacks.metrics.intervals import Estimate, Summary, mean_auc, summarise
from attacks.slices import Stacked
from attacks.strongest import Kept, Strongest
from attacks.z_scores import Standing, stand_all

GUESSES = 0.1  # share of the examples that the one-run audit guesses


class Versions(NamedTuple):
    """An attacker who holds several versions of one model.

    Attributes:
        names: of the versions.
        summary: what joint LiRA reveals.
        best: the version that leaks most by itself.
        gain: AUC beyond that of the strongest attack on `best`.
    """

    names: tuple[str, ...]
    summary: Summary
    best: str
    gain: Difference


class Bounds(NamedTuple):
    """Lower bounds on epsilon of one variant, at 95% confidence.

    Attributes:
        tested: from error rates over targets; None with a single target.
        one_run: mean over targets of the one-run audit, each by itself.
        guesses: of a one-run audit, fixed beforehand.
    """

    tested: EpsilonBound | None
    one_run: float
    guesses: int


class Findings(NamedTuple):
    """All of them, by variant where nothing else is said.

    Attributes:
        reference: what the others are compared with: full precision, or the first variant.
        attack: the strongest on it, which exposures are by.
        against_reference: AUC of the strongest attack, minus that on the reference.
        against_full_shadows: AUC of the strongest attack with matched shadows, minus that of the
            strongest with full-precision ones.
        beyond_gap: AUC of the strongest attack, minus that of the gap attack.
        versions: attackers who hold the reference and another version, or all of them, or without
            the reference those of as many bits by several methods; none where joint LiRA lacks two
            shadows on a side of an example.
        calibration: AUC of telling calibration examples from other members.
        bounds: on epsilon.
        convergence: AUC of one attack by the number of shadows.
        exposures: of each example, by one attack.
        changes: of exposures, against the reference.
        standing: where members and others stand among each kind of shadows; none where those lack
            two without an example.
    """

    reference: str
    attack: str
    against_reference: list[Difference]
    against_full_shadows: list[Difference]
    beyond_gap: list[Difference]
    versions: list[Versions]
    calibration: dict[str, Estimate]
    bounds: dict[str, Bounds]
    convergence: dict[str, tuple[str, dict[int, Estimate]]]
    exposures: dict[str, Float[Tensor, " examples"]]
    changes: dict[str, Change]
    standing: dict[str, dict[Knowledge, Standing]]


def find(
    seen: Mapping[str, Observed],
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
    best: Strongest,
    calibrated: Mapping[str, Bool[Tensor, "models examples"]],
) -> Findings:
    """Draw every conclusion.

    Args:
        seen: signals of all models, by variant; the others are compared with the first.
        members: which model trained on which example.
        cases: who is audited, and by whom.
        best: the strongest attacks on every variant.
        calibrated: which example each model's quantizer looked at, by variant.
    """
    audited = members[[case.target for case in cases]]
    reference, *others = seen
    kept = best.variants
    scores = {variant: some.scores for variant, some in kept.items()}
    shared = [v for v in others if {"matched", "full"} <= kept[v].by_knowledge.keys()]
    kinds = {
        f"{variant}, {kind} shadows": some
        for variant in shared
        for kind, some in kept[variant].by_knowledge.items()
    }
    gaps = {f"the gap attack on {v}": k.gap for v, k in kept.items() if k.gap is not None}
    exposures = {variant: exposure(some.alike, audited) for variant, some in kept.items()}
    calibration = {
        variant: calibration_auc(seen[variant].phi, members, mask, cases)
        for variant, mask in calibrated.items()
    }
    return Findings(
        reference,
        best.attack,
        paired_differences(scores, audited, [(v, reference) for v in others]),
        paired_differences(
            kinds, audited, [(f"{v}, matched shadows", f"{v}, full shadows") for v in shared]
        ),
        paired_differences(
            scores | gaps,
            audited,
            [(v, name) for v in kept if (name := f"the gap attack on {v}") in gaps],
        ),
        _correct(list(_hold_versions(seen, members, cases, scores))),
        {variant: some for variant, some in calibration.items() if some is not None},
        {variant: _bound(some, audited) for variant, some in kept.items()},
        {
            variant: (some.matched, _converge(seen[variant], members, cases, some.matched))
            for variant, some in kept.items()
            if some.matched
        },
        exposures,
        {variant: change(exposures[reference], exposures[variant]) for variant in others},
        {}
        if lacking("lira_offline", seen.values(), members, cases)
        else stand_all(seen, members, cases),
    )


def _hold_versions(
    seen: Mapping[str, Observed],
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
    scores: Mapping[str, Float[Tensor, "targets examples"]],
) -> Iterator[Versions]:
    if lacking("lira_online", seen.values(), members, cases):
        return  # who asked for no such attack is to get the rest
    audited = members[[case.target for case in cases]]
    areas = {name: _mean_auc(some, audited).value for name, some in scores.items()}
    reference, *others = seen
    held: list[tuple[str, ...]] = [(reference, variant) for variant in others]
    alike: dict[str, list[str]] = {}
    for variant in others:
        alike.setdefault(variant.partition("-w")[2], []).append(variant)
    held += [tuple(some) for bits, some in alike.items() if bits and len(some) > 1]
    if len(others) > 1:
        held.append((reference, *others))
    for names in held:
        phi = Stacked([seen[name].phi for name in names])
        found = torch.empty(audited.shape, dtype=torch.float64)
        for shadows, positions in by_shadows(cases).items():
            targets, rows = [cases[position].target for position in positions], list(shadows)
            found[positions] = lira_joint(phi[targets][..., :], phi[rows], members[rows], "fixed")
        alone = max(names, key=areas.__getitem__)
        both = {"joint": found, alone: scores[alone]}
        (gain,) = paired_differences(both, audited, [("joint", alone)])
        yield Versions(names, summarise(found, audited), alone, gain)


def _correct(versions: list[Versions]) -> list[Versions]:
    """Correct the gains for their number: each was compared by itself."""
    adjusted = holm([held.gain.p for held in versions])
    return [
        held._replace(gain=held.gain._replace(p_holm=p))
        for held, p in zip(versions, adjusted, strict=True)
    ]


def _bound(kept: Kept, members: Bool[Tensor, "targets examples"]) -> Bounds:
    guesses = max(2, int(GUESSES * members.shape[1]) // 2 * 2)
    each = [one_run_epsilon(*one, guesses) for one in zip(kept.scores, members, strict=True)]
    tested = epsilon_bound(kept.tested, members) if len(members) > 1 else None
    return Bounds(tested, sum(each) / len(each), guesses)


def _converge(
    seen: Observed, members: Bool[Tensor, "models examples"], cases: Sequence[Case], attack: str
) -> dict[int, Estimate]:
    """AUC of an attack with matched shadows, by how many of them it has: 2, 4, 8, ... all."""
    audited, most = members[[case.target for case in cases]], len(cases[0].shadows)
    points = {}
    for count in [*(2**k for k in range(1, most.bit_length()) if 2**k < most), most]:
        fewer = [Case(target, shadows[:count]) for target, shadows in cases]
        if not lacking(attack, [seen], members, fewer):  # of one shadow a side LiRA has no spread
            scores = score([attack], seen, seen, members, fewer)[attack]
            points[count] = _mean_auc(scores, audited)
    return points


def _mean_auc(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Estimate:
    return mean_auc(list(zip(scores, members, strict=True)))
