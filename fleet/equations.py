"""Cost of the normal equations that tell who a ridge head learnt, from a trial and arithmetic."""

import time
from typing import NamedTuple

import torch

from continual.normal_equations import MOST, solve_membership
from continual.ridge import as_targets
from datamodules.images import ImageDataModule
from datamodules.tasks import tasks_of
from lightning_modules.continual import list_classes
from lightning_modules.continual_options import ContinualOptions

TRIED = 1024  # candidates of the trial
MATRICES = 3  # candidates by candidates, of 8 bytes a number, that are held at once


class EquationsCost(NamedTuple):
    """Cost of the normal equations of one audited model, after all of its tasks.

    Attributes:
        seconds: time to solve them.
        memory: bytes that the largest of them take beside the model.
    """

    seconds: float = 0.0
    memory: int = 0


def try_equations(continual: ContinualOptions, data: ImageDataModule) -> EquationsCost:
    """Solve for who was learnt among a few candidates, and scale the time to those of all tasks.

    Made for random features, because the time does not depend on their values.
    """
    if not continual.solves:
        return EquationsCost()
    task = tasks_of(data.pool.labels.cpu(), list_classes(continual, data.num_classes))
    candidates = [n for n in task.bincount().cumsum(0).tolist() if n <= MOST]
    if not candidates:
        return EquationsCost()
    few, options, classes = min(candidates[-1], TRIED), continual.analytic, data.num_classes
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(few, options.buffer, generator=generator, dtype=torch.float64)
    weight = torch.rand(options.buffer, classes, generator=generator, dtype=torch.float64)
    targets = as_targets(torch.arange(few) % classes, classes)
    rows, columns, wanted = (t.to(data.device) for t in (features, weight, targets))
    for _ in range(2):  # the first time counts for nothing, as libraries are loaded then
        started = time.perf_counter()
        solve_membership(rows, wanted, columns, options.gamma).cpu()
    rate = (time.perf_counter() - started) / operations(few, options.buffer, classes)
    seconds = rate * sum(operations(n, options.buffer, classes) for n in candidates)
    return EquationsCost(seconds, MATRICES * 8 * candidates[-1] ** 2)


def operations(candidates: int, columns: int, classes: int) -> float:
    """Multiply-adds of the products of all candidates, and of a solution of as many equations."""
    return candidates**2 * (columns + classes) + candidates**3 / 3
