"""The membership game: who is attacked by whom, and what the attacker sees of each model."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from attacks.cases import Case, by_shadows
from attacks.lira import Fit, fit_sides
from attacks.recalibrate import FEWEST, Expected, expect, recalibrate
from attacks.rmia import DEFAULT, RmiaOptions
from attacks.rounds import Candidates, Rounds
from attacks.slices import Chosen, Sliced
from attacks.tasks import Tasks

FULL = "full"  # the variant at the end of training, at full precision
Knowledge = Literal["matched", "unquantized", "recalibrated", "other", "none"]
OTHER = "other: "  # before a variant, for the shadows of another experiment that attack it


class ModelSignals(NamedTuple):
    """Signals of all models of a fleet in one variant; any but phi may be unknown.

    Attributes:
        phi: scaled logits of the audited examples, in nats.
        hinge: margins of the same examples, in units of the logits; above 0 where classified
            correctly.
        population: phi of examples that no model trained on.
        population_hinge: hinge of these examples.
        features: representations of the audited examples and of the population, for regression.
        labels: classes of the audited examples and of the population.
        embeddings: what each model computes of the audited examples before its last layer, in a few
            numbers; it need not be known of models that are not audited.
        population_embeddings: the same of the population.
    """

    phi: Float[Sliced, "models queries examples"]
    hinge: Float[Sliced, "models queries examples"] | None = None
    population: Float[Sliced, "models queries population"] | None = None
    population_hinge: Float[Sliced, "models queries population"] | None = None
    features: tuple[Tensor, Tensor] | None = None
    labels: tuple[Tensor, Tensor] | None = None
    embeddings: Float[Sliced, "models components examples"] | None = None
    population_embeddings: Float[Sliced, "models components population"] | None = None

    def of(self, models: Sequence[int]) -> "ModelSignals":
        """Select models by position."""
        rows = list(models)
        return self._replace(**{name: signal[rows] for name, signal in self._known().items()})

    def on(self, examples: Int64[Tensor, " chosen"]) -> "ModelSignals":
        """Select audited examples by ascending position; features stay, and nothing is read."""
        hinge = None if self.hinge is None else Chosen(self.hinge, examples)
        embeddings = None if self.embeddings is None else Chosen(self.embeddings, examples)
        labels = self.labels and (self.labels[0][examples], self.labels[1])
        return self._replace(
            phi=Chosen(self.phi, examples), hinge=hinge, labels=labels, embeddings=embeddings
        )

    def read(self) -> "Target":
        """Read the signals into memory."""
        known: dict[str, Any] = {name: signal[..., :] for name, signal in self._known().items()}
        return Target(**known, features=self.features, labels=self.labels)

    def _known(self) -> dict[str, Sliced]:
        signals = self._replace(features=None, labels=None)._asdict()  # the same for all models
        return {name: signal for name, signal in signals.items() if signal is not None}


class Target(NamedTuple):
    """`ModelSignals` in memory, of models that are attacked together."""

    phi: Float[Tensor, "targets queries examples"]
    # An attack runs only where what it needs is known, so these are tensors to it.
    hinge: Any = None
    population: Any = None
    population_hinge: Any = None
    features: Any = None
    labels: Any = None
    embeddings: Any = None
    population_embeddings: Any = None


class Shadows:
    """Shadow models; what several attacks need of them is computed once.

    Args:
        signals: of the shadows.
        included: which shadow trained on which example.
        rmia: choices of RMIA.
    """

    def __init__(
        self,
        signals: ModelSignals,
        included: Bool[Tensor, "models examples"],
        rmia: RmiaOptions = DEFAULT,
    ) -> None:
        self.phi, self.included, self.rmia = signals.phi, included, rmia
        self.population: Any = signals.population  # known to every attack that needs it

    @cached_property
    def inside(self) -> Fit:
        """Each example's fit over the shadows that trained on it."""
        return self._sides[0]

    @cached_property
    def outside(self) -> Fit:
        """Each example's fit over the other shadows; the first kind may be missing."""
        if self.included.sum(0).min() < 2:
            return fit_sides(self.phi, (~self.included,))[0]
        return self._sides[1]

    @cached_property
    def expected(self) -> Expected:
        """What these shadows expect of a model that trained on no example."""
        return expect(self.phi, self.included, self.population)

    def recalibrate(self, targets: Target) -> Target:
        """Move the targets' phi to where these shadows expect that of a non-member."""
        phi, population = recalibrate(targets.phi, targets.population, self.expected)
        return targets._replace(phi=phi, population=population)

    @cached_property
    def _sides(self) -> list[Fit]:
        return fit_sides(self.phi, (self.included, ~self.included))  # in one reading


class Curve(NamedTuple):
    """A way to trade accuracy for leakage that other variants are compared with.

    Attributes:
        name: what it is, in a phrase: `early stopping`.
        variants: from the one that is expected to leak least to `full`.
        against: the variants that are compared with networks of equal accuracy on the curve.
    """

    name: str
    variants: Sequence[str]
    against: Sequence[str]


class Proven(NamedTuple):
    """What is proven of a variant of models that were trained with differential privacy.

    Attributes:
        epsilon: upper bound on epsilon, in nats; None if nothing is proven.
        delta: probability with which the bound may fail.
        reason: why nothing is proven, in a phrase; empty if something is.
    """

    epsilon: float | None
    delta: float
    reason: str = ""


class Game(NamedTuple):
    """All that an audit's attacks, findings and comparisons start from.

    Attributes:
        signals: of all models, by variant; the first variant is what others are compared with.
        members: which model trained on which example.
        cases: who is audited, and by whom.
        calibrated: which example each model's quantizer looked at, for the variants whose
            calibration can be audited.
        kept: which examples of the pool these are; None for all of them.
        rmia: choices of RMIA.
        tuned: instead of `rmia.a`, the `a` of each case by the variant of its shadows.
        accuracy: test accuracy of each case's target, by variant; empty where it is unknown.
        snapshots: the variants on the way to `full`, in the order of training.
        curves: what other variants are compared with at equal accuracy.
        proven: what differential privacy proves of each variant; empty without it.
        others: signals of another experiment's shadows, by `OTHER` and the variant they attack, in
            the rows of the shadows here; empty without such an experiment.
        widths: how many channels of each group pruning kept in each model; None for dense models.
        rounds: what was recorded of federated training, of all models; None without it.
        other_rounds: the same of another experiment's shadows, in the rows of the shadows here.
        attribute: rounds with every value of an attribute; None where none was recorded.
        tasks: what was recorded of learning in tasks, of all models; None without it.
        by_stage: signals at the end of each task's stage, which are attacked task by task; they are
            no `snapshots`, because not all of them have learned all tasks.
        quantized_stages: the same of networks quantized at the end of each stage, by the name of
            the last, then by their own; empty where only the end of training was quantized.
    """

    signals: Mapping[str, ModelSignals]
    members: Bool[Tensor, "models examples"]
    cases: Sequence[Case]
    calibrated: Mapping[str, Bool[Tensor, "models examples"]] = {}
    kept: Bool[Tensor, " pool"] | None = None
    rmia: RmiaOptions = DEFAULT
    tuned: Mapping[str, Sequence[float]] = {}
    accuracy: Mapping[str, Float[Tensor, " targets"]] = {}
    snapshots: Sequence[str] = ()
    curves: Sequence[Curve] = ()
    proven: Mapping[str, Proven] = {}
    others: Mapping[str, ModelSignals] = {}
    widths: Float[Tensor, "models groups"] | None = None
    rounds: Rounds | None = None
    other_rounds: Rounds | None = None
    attribute: Candidates | None = None
    tasks: Tasks | None = None
    by_stage: Mapping[str, ModelSignals] = {}
    quantized_stages: Mapping[str, Mapping[str, ModelSignals]] = {}

    @property
    def variants(self) -> list[str]:
        """Names of the variants, the reference first."""
        return list(self.signals)

    @property
    def audited(self) -> Bool[Tensor, "targets examples"]:
        """Which audited model trained on which example."""
        return self.members[[case.target for case in self.cases]]

    def shadow_variants(self, variant: str) -> dict[Knowledge, str]:
        """The variant of the shadows for each kind of knowledge.

        Against `full` itself all kinds of this experiment are the same, and called `matched`.
        """
        kinds: dict[Knowledge, str] = {"matched": variant}
        if variant != FULL and FULL in self.signals:
            kinds["unquantized"] = FULL
            if not self.lacking_to_recalibrate(variant):
                kinds["recalibrated"] = FULL
        if (other := f"{OTHER}{variant}") in self.others:
            kinds["other"] = other
        return kinds

    def lacking_to_recalibrate(self, variant: str) -> list[str]:
        """What `recalibrated` shadows need against a variant that is not known, in words."""
        needed = [self.signals[name] for name in (FULL, variant) if name in self.signals]
        populations = [signals.population for signals in needed]
        missing = [] if len(needed) == 2 else ["full-precision shadows"]
        if any(p is None for p in populations):
            missing.append("signals on a population")
        elif any(p is not None and p.shape[-1] < FEWEST for p in populations):
            missing.append(f"a population of {FEWEST}")
        outside = (~self.members[list(shadows)] for shadows in by_shadows(self.cases))
        if not all(side.any(0).all() for side in outside):
            missing.append("1 shadow without each example")
        return missing

    def shadows(self, variant: str, group: Sequence[int], case: int) -> Shadows:
        """The shadows that attack a case, as they are in one variant.

        Args:
            variant: the variant of the shadows, as `shadow_variants` has it.
            group: their positions among the models.
            case: position of a case that they attack.
        """
        rows, rmia = list(group), self.rmia
        if variant in self.tuned:
            rmia = rmia._replace(a=self.tuned[variant][case])
        signals = self.others.get(variant) or self.signals[variant]
        return Shadows(signals.of(rows), self.members[rows], rmia)


def keep_examples(game: Game, usable: Bool[Tensor, " examples"]) -> Game:
    """Restrict a game to some of its examples, or return it as it is if these are all.

    The population stays whole.
    """
    if usable.all():
        return game
    examples = usable.nonzero().flatten()
    kept = usable if game.kept is None else game.kept.clone().masked_scatter_(game.kept, usable)
    # variants may share their features, which are copied only once
    shared = {id(k.features): k.features for k in game.signals.values() if k.features is not None}
    rows = {key: (own[examples], others) for key, (own, others) in shared.items()}
    return game._replace(
        signals={
            variant: known.on(examples)._replace(features=rows.get(id(known.features)))
            for variant, known in game.signals.items()
        },
        others={variant: known.on(examples) for variant, known in game.others.items()},
        members=game.members[:, examples],
        calibrated={variant: mask[:, examples] for variant, mask in game.calibrated.items()},
        rounds=game.rounds and game.rounds.on(examples),
        other_rounds=game.other_rounds and game.other_rounds.on(examples),
        attribute=game.attribute and game.attribute.on(examples),
        tasks=game.tasks and game.tasks.on(examples),
        by_stage=_keep_stages(game.by_stage, examples),
        quantized_stages={
            name: _keep_stages(stages, examples) for name, stages in game.quantized_stages.items()
        },
        kept=kept,
    )


def _keep_stages(
    stages: Mapping[str, ModelSignals], examples: Int64[Tensor, " chosen"]
) -> dict[str, ModelSignals]:
    """Signals of stages on some of their examples; no attack on tasks reads features."""
    return {name: known.on(examples)._replace(features=None) for name, known in stages.items()}
