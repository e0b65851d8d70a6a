"""Elastic weight consolidation in a fit: what a stage adds to what holds the weights."""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from continual.fisher import Consolidation, consolidate, diagonal_fisher, gained
from continual.fisher_equations import MOST as SOLVED
from continual.fisher_equations import Measured, tell
from datamodules.images import ImageDataModule
from datamodules.seeds import derive_seed

MOST = 6 * 512  # examples of a stage that its Fisher is measured on, as many as SDMLP's code takes


def consolidate_stage(
    before: Consolidation | None,
    network: nn.Module,
    data: ImageDataModule,
    epoch: int,
    scale: float,
    seed: int,
) -> tuple[Consolidation, Measured]:
    """Add a stage that ends to what holds the weights of a network.

    Its Fisher is measured on the examples of the stage's own task, as they are; on as many as
    `MOST`, drawn from the seed, if there are more.

    Args:
        before: what held them so far.
        network: the network at the end of the stage.
        data: the examples, assigned to a learner of tasks.
        epoch: an epoch of the stage, from 0.
        scale: factor of the logits.
        seed: the model's seed.

    Returns:
        What holds them now, and the stage's own Fisher as the difference tells it.
    """
    own, tasks = data.served(epoch), data.tasks
    if tasks is not None:  # without exemplars, and where all tasks are served, without the others
        own = own[tasks.task[own] == tasks.stage(epoch)]
    if len(own) > MOST:
        draws = torch.Generator().manual_seed(derive_seed(seed, "fisher", epoch))
        own = own[torch.randperm(len(own), generator=draws)[:MOST]].sort().values
    fisher = diagonal_fisher(network, data.calibration_images("members", own), scale)
    after = consolidate(before, dict(network.named_parameters()), fisher)
    return after, Measured(gained(before, after), after.fisher, len(own))


def expose_fisher(
    network: nn.Module,
    data: ImageDataModule,
    measured: Measured,
    task: Bool[Tensor, " examples"],
    scale: float,
    solve: bool,
) -> dict[str, Tensor]:
    """What a stage's Fisher gives away of the examples of its task.

    Args:
        network: the network at the end of the stage.
        data: the pool.
        measured: the Fisher.
        task: which examples of the pool are of the stage's task.
        scale: factor of the logits.
        solve: whether to solve for who was measured.

    Returns:
        By name, 0 for examples of other tasks: `fisher_excess`, and if it is asked for and there
        are no more candidates than can be solved for, `fisher_solved`. Nothing of weights that
        diverged.
    """
    if not all(part.isfinite().all() for part in measured.total.values()):
        return {}
    candidates = task.nonzero().flatten()
    images = data.calibration_images("members", candidates)
    told = tell(network, images, measured, scale, solve and len(candidates) <= SOLVED)
    tensors = {"fisher_excess": told.excess, "fisher_solved": told.solved}
    return {
        name: torch.zeros(len(task)).index_put_((candidates,), known.float().cpu())
        for name, known in tensors.items()
        if known is not None
    }
