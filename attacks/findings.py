"""What follows from the scores of all attacks: comparisons, bounds, and who is exposed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.calibrated import calibration_auc
from attacks.epsilon import EpsilonBound, epsilon_bound, one_run_epsilon
from attacks.evaluate import Case, Scored, by_shadows, score
from attacks.exposure import Change, change, exposure
from attacks.intervals import Estimate, Summary, mean_auc, summarise
from attacks.observed import Observed
from attacks.paired import Difference, holm, paired_differences
from attacks.slices import Stacked
from attacks.versions import lira_joint

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
        against_reference: AUC of the strongest attack, minus that on the reference.
        against_full_shadows: AUC of the strongest attack with matched shadows, minus that of the
            strongest with full-precision ones.
        beyond_gap: AUC of the strongest attack, minus that of the gap attack.
        versions: attackers who hold two versions, and all of them; none where joint LiRA lacks
            two shadows on a side of an example.
        calibration: AUC of telling calibration examples from other members.
        bounds: on epsilon.
        convergence: AUC of one attack by the number of shadows.
        exposures: of each example.
        changes: of exposures, against the reference.
    """

    reference: str
    against_reference: list[Difference]
    against_full_shadows: list[Difference]
    beyond_gap: list[Difference]
    versions: list[Versions]
    calibration: dict[str, Estimate]
    bounds: dict[str, Bounds]
    convergence: dict[str, tuple[str, dict[int, Estimate]]]
    exposures: dict[str, Float[Tensor, " examples"]]
    changes: dict[str, Change]


class Best:
    """The strongest attack of each kind, by AUC, kept while attacks are made."""

    def __init__(self) -> None:
        self.overall: dict[str, Scored] = {}  # by variant
        self.by_knowledge: dict[tuple[str, str], Scored] = {}
        self.gap: dict[str, Scored] = {}

    def add(self, scored: Scored) -> None:
        """Take account of one more attack."""
        row = scored.row
        _keep(self.overall, row.variant, scored)
        _keep(self.by_knowledge, (row.variant, row.knowledge), scored)
        if row.attack == "gap":
            self.gap[row.variant] = scored


Key = TypeVar("Key")


def _keep(kept: dict[Key, Scored], key: Key, scored: Scored) -> None:
    if key not in kept or scored.row.summary.auc.value > kept[key].row.summary.auc.value:
        kept[key] = scored


def find(
    seen: Mapping[str, Observed],
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
    best: Best,
    calibrated: Mapping[str, Bool[Tensor, "models examples"]],
) -> Findings:
    """Draw every conclusion.

    Args:
        seen: signals of all models, by variant.
        members: which model trained on which example.
        cases: who is audited, and by whom.
        best: the strongest attacks, and their scores.
        calibrated: which example each model's quantizer looked at, by variant.
    """
    audited = members[[case.target for case in cases]]
    scores = {variant: scored.scores for variant, scored in best.overall.items()}
    reference = "full" if "full" in seen else next(iter(seen))
    others = [variant for variant in seen if variant != reference]
    shared = [v for v in others if {(v, "matched"), (v, "full")} <= best.by_knowledge.keys()]
    kinds = {
        f"{variant}, {knowledge} shadows": best.by_knowledge[variant, knowledge].scores
        for variant in shared
        for knowledge in ("matched", "full")
    }
    gaps = {f"the gap attack on {variant}": s.scores for variant, s in best.gap.items()}
    exposures = {variant: exposure(some, audited) for variant, some in scores.items()}
    calibration = {
        variant: calibration_auc(seen[variant].phi, members, mask, cases)
        for variant, mask in calibrated.items()
    }
    return Findings(
        reference,
        paired_differences(scores, audited, [(v, reference) for v in others]),
        paired_differences(
            kinds, audited, [(f"{v}, matched shadows", f"{v}, full shadows") for v in shared]
        ),
        paired_differences(
            scores | gaps, audited, [(v, f"the gap attack on {v}") for v in best.gap]
        ),
        _correct(list(_hold_versions(seen, members, cases, best, reference))),
        {variant: some for variant, some in calibration.items() if some is not None},
        {variant: _bound(some, audited) for variant, some in scores.items()},
        {
            variant: (scored.row.attack, _converge(some, members, cases, scored.row.attack))
            for variant, some in seen.items()
            if (scored := best.by_knowledge.get((variant, "matched")))
        },
        exposures,
        {variant: change(exposures[reference], exposures[variant]) for variant in others},
    )


def _hold_versions(
    seen: Mapping[str, Observed],
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
    best: Best,
    reference: str,
) -> Iterator[Versions]:
    audited = members[[case.target for case in cases]]
    counts = torch.stack([members[case.shadows].sum(0) for case in cases])
    most = torch.tensor([len(case.shadows) for case in cases])[:, None]
    if torch.minimum(counts, most - counts).min() < 2:
        return  # LiRA has no spread, and who asked for no such attack is to get the rest
    others = [variant for variant in seen if variant != reference]
    held: list[tuple[str, ...]] = [(reference, variant) for variant in others]
    if len(others) > 1:
        held.append((reference, *others))
    for names in held:
        phi = Stacked([seen[name].phi for name in names])
        found = torch.empty(audited.shape, dtype=torch.float64)
        for shadows, positions in by_shadows(cases).items():
            targets, rows = [cases[position].target for position in positions], list(shadows)
            found[positions] = lira_joint(phi[targets][..., :], phi[rows], members[rows], "fixed")
        alone = max(names, key=lambda name: best.overall[name].row.summary.auc.value)
        both = {"joint": found, alone: best.overall[alone].scores}
        (gain,) = paired_differences(both, audited, [("joint", alone)])
        yield Versions(names, summarise(found, audited), alone, gain)


def _correct(versions: list[Versions]) -> list[Versions]:
    """Correct the gains for their number: each was compared by itself."""
    adjusted = holm([held.gain.p for held in versions])
    return [
        held._replace(gain=held.gain._replace(p_holm=p))
        for held, p in zip(versions, adjusted, strict=True)
    ]


def _bound(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Bounds:
    guesses = max(2, int(GUESSES * scores.shape[1]) // 2 * 2)
    each = [one_run_epsilon(*one, guesses) for one in zip(scores, members, strict=True)]
    tested = epsilon_bound(scores, members) if len(scores) > 1 else None
    return Bounds(tested, sum(each) / len(each), guesses)


def _converge(
    seen: Observed, members: Bool[Tensor, "models examples"], cases: Sequence[Case], attack: str
) -> dict[int, Estimate]:
    """AUC of an attack with matched shadows, by how many of them it has: 2, 4, 8, ... all."""
    audited, most = members[[case.target for case in cases]], len(cases[0].shadows)
    points = {}
    for count in [*(2**k for k in range(1, most.bit_length()) if 2**k < most), most]:
        fewer = [Case(target, shadows[:count]) for target, shadows in cases]
        try:
            scores = score([attack], seen, seen, members, fewer)[attack]
        except ValueError:  # of one shadow a side LiRA has no spread
            continue
        points[count] = mean_auc(list(zip(scores, audited, strict=True)))
    return points
