"""Ridge heads that learn the digits task by task: random features, one solve per model and task.

They are solved apart from `lightning_modules`, and from `continual` but for who is solved for from
a weight, so that attacks are tested on learners whose code shares nothing with ours.
"""

import time
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

import datamodules
from attacks.cases import make_cases
from attacks.game import FULL, Game, ModelSignals
from attacks.signals import signals
from attacks.tasks import FORMS, Form, Stage, Tasks, Worlds, task_of
from continual.normal_equations import solve_membership

CLASSES = 10


class Options(NamedTuple):
    """What is solved.

    Attributes:
        pool: audited examples; the other digits are the test split.
        shadows: number of shadows, an even number.
        targets: number of targets.
        tasks: number of tasks; the first have a class more where 10 do not divide.
        width: number of random features.
        gamma: of the ridge.
        worlds: heads on random halves of the pool over each audited model's features.
        shuffle: whether membership is drawn anew after training: a null.
        seed: of features and membership.
    """

    pool: int = 450
    shadows: int = 8
    targets: int = 2
    tasks: int = 3
    width: int = 128
    gamma: float = 0.1
    worlds: int = 8
    shuffle: bool = False
    seed: int = 0


class Features(NamedTuple):
    """Random features of the digits and their classes."""

    pool: Float[Tensor, "pool width"]
    labels: Int64[Tensor, " pool"]
    test: Float[Tensor, "test width"]
    test_labels: Int64[Tensor, " test"]


class Head(NamedTuple):
    """One ridge head after one stage."""

    weight: Float[Tensor, "width classes"]
    inverse: Float[Tensor, "width width"]


def read_digits(options: Options) -> datamodules.Digits:
    """The images."""
    data = datamodules.Digits(pool_size=options.pool)
    data.setup("fit")
    return data


def make_features(options: Options) -> Features:
    """phi(x) = ReLU(B x) of the pool and of the test split."""
    data = read_digits(options)
    generator = torch.Generator().manual_seed(options.seed + 1)
    weight = torch.rand(64, options.width, generator=generator, dtype=torch.float64) / 4 - 0.125
    pool, test = (
        (split.images.flatten(1).double() / 255 @ weight).relu() for split in (data.pool, data.test)
    )
    return Features(pool, data.pool.labels, test, data.test.labels)


def make_game(options: Options) -> Game:
    """Solve every model, and say who attacks whom with what."""
    data, members = make_features(options), draw_members(options)
    classes = [part.tolist() for part in torch.arange(CLASSES).tensor_split(options.tasks)]
    solved = [solve(data, inside, classes, options.gamma) for inside in members]
    cases = make_cases(options.shadows, options.targets)
    shown = members
    if options.shuffle:
        shown = draw_members(options._replace(seed=options.seed + 500))
    stages = []
    for place in range(options.tasks):
        heads = [models[place] for models in solved]
        stage = _record(data, members, classes, heads, place)
        stages.append(stage._replace(solved=_solve_members(data, classes, heads, place, options)))
    worlds = {case.target: make_worlds(data, classes, options, case.target) for case in cases}
    stages = [
        stage._replace(worlds={row: known[place] for row, known in worlds.items()})
        for place, stage in enumerate(stages)
    ]
    names = [*(f"task-{n + 1}" for n in range(options.tasks - 1)), FULL]
    by_stage = {
        name: _signals(data, [models[place] for models in solved], classes, place)
        for place, name in enumerate(names)
    }
    tasks = Tasks(classes, data.labels, stages)
    return Game({FULL: by_stage[FULL]}, shown, cases, tasks=tasks, by_stage=by_stage)


def draw_members(options: Options) -> Bool[Tensor, "models examples"]:
    """Random halves of the pool; shadows 2k and 2k + 1 are complementary."""
    generator = torch.Generator().manual_seed(options.seed)
    rows = options.shadows // 2 + options.targets
    half = torch.rand(rows, options.pool, generator=generator).argsort(1) < options.pool // 2
    pairs = half[: options.shadows // 2]
    return torch.cat([torch.stack([pairs, ~pairs], 1).flatten(0, 1), half[len(pairs) :]])


def solve(
    data: Features, inside: Bool[Tensor, " pool"], classes: list[list[int]], gamma: float
) -> list[Head]:
    """The head after each stage, from the sums of all members so far."""
    task, width = task_of(data.labels, classes), data.pool.shape[1]
    heads = []
    for place in range(len(classes)):
        rows = inside & (task <= place)
        phi, truth = data.pool[rows], one_hot(data.labels[rows], CLASSES).double()
        inverse = torch.linalg.inv(phi.T @ phi + gamma * torch.eye(width, dtype=torch.float64))
        heads.append(Head(inverse @ (phi.T @ truth), inverse))
    return heads


def make_worlds(
    data: Features, classes: list[list[int]], options: Options, row: int
) -> list[Worlds]:
    """Heads on random halves of the pool, after each stage."""
    generator = torch.Generator().manual_seed(1000 * options.seed + row)
    draws = torch.rand(options.worlds, options.pool, generator=generator).argsort(1)
    members, start = draws < options.pool // 2, time.perf_counter()
    solved = [solve(data, inside, classes, options.gamma) for inside in members]
    seconds = (time.perf_counter() - start) / max(1, options.worlds)
    return [
        Worlds(
            torch.stack([outputs(heads[place], data.pool, classes, place) for heads in solved]),
            torch.stack([_leverage(heads[place].inverse, data.pool) for heads in solved]).float(),
            members,
            seconds,
        )
        for place in range(len(classes))
    ]


def outputs(
    head: Head, phi: Float[Tensor, "examples width"], classes: list[list[int]], place: int
) -> Float[Tensor, "examples classes"]:
    """Outputs of a head, -100 for classes that were not seen by then."""
    unseen = [label for group in classes[place + 1 :] for label in group]
    found = phi @ head.weight
    found[:, unseen] = -100
    return found.float()


def store(inverse: Float[Tensor, "width width"], form: Form) -> Float[Tensor, "width width"]:
    """R as it is after storage in one form; int8 has a step for each row."""
    if form == "float16":
        return inverse.half().double()
    step = inverse.abs().amax(1, keepdim=True) / 127
    return (inverse / step).round() * step if form == "int8" else inverse


def _leverage(
    inverse: Float[Tensor, "width width"], phi: Float[Tensor, "examples width"]
) -> Float[Tensor, " examples"]:
    return (phi @ inverse * phi).sum(1)


def _record(
    data: Features,
    members: Bool[Tensor, "models pool"],
    classes: list[list[int]],
    heads: list[Head],
    place: int,
) -> Stage:
    """What training records of all models at the end of one stage."""
    task = task_of(data.labels, classes)
    tested = task_of(data.test_labels, classes)
    return Stage(
        outputs=torch.stack([outputs(head, data.pool, classes, place) for head in heads]),
        accuracy=torch.stack([_accuracy(head, data, classes, place, tested) for head in heads]),
        leverage={
            form: torch.stack(
                [_leverage(store(head.inverse, form), data.pool).float() for head in heads]
            )
            for form in FORMS
        },
        outside=torch.stack(
            [_outside(data.pool[inside & (task == place)], data.pool) for inside in members]
        ),
    )


def _solve_members(
    data: Features, classes: list[list[int]], heads: list[Head], place: int, options: Options
) -> Float[Tensor, "models examples"]:
    """Who was learnt, solved for from the weights of heads after a stage."""
    seen = [label for group in classes[: place + 1] for label in group]
    known = torch.isin(data.labels, torch.tensor(seen))
    targets = one_hot(data.labels, CLASSES).double()[known][:, seen]
    found = torch.zeros(len(heads), len(data.labels))
    for row, head in zip(found, heads, strict=True):
        weight = head.weight[:, seen]
        row[known] = solve_membership(data.pool[known], targets, weight, options.gamma).float()
    return found


def _outside(
    rows: Float[Tensor, "rows width"], phi: Float[Tensor, "examples width"]
) -> Float[Tensor, " examples"]:
    """Share of |phi|^2 outside the span of some rows."""
    basis = torch.linalg.svd(rows, full_matrices=False)
    rank = int((basis.S / basis.S[0] > 1e-9).sum())
    rest = phi - phi @ basis.Vh[:rank].T @ basis.Vh[:rank]
    share: Tensor = rest.square().sum(1) / phi.square().sum(1)
    return share.float()


def _accuracy(
    head: Head, data: Features, classes: list[list[int]], place: int, tested: Int64[Tensor, " test"]
) -> Float[Tensor, " tasks"]:
    correct = outputs(head, data.test, classes, place).argmax(1) == data.test_labels
    return torch.stack([correct[tested == t].double().mean() for t in range(len(classes))])


def _signals(
    data: Features, heads: list[Head], classes: list[list[int]], place: int
) -> ModelSignals:
    """Signals of all models at the end of one stage."""
    own = [signals(outputs(head, data.pool, classes, place), data.labels) for head in heads]
    test = [signals(outputs(head, data.test, classes, place), data.test_labels) for head in heads]
    return ModelSignals(
        phi=torch.stack([found.phi for found in own])[:, None],
        hinge=torch.stack([found.hinge for found in own])[:, None],
        population=torch.stack([found.phi for found in test])[:, None],
        population_hinge=torch.stack([found.hinge for found in test])[:, None],
        labels=(data.labels, data.test_labels),
    )
