"""Elastic weight consolidation in a fit: what a stage adds to what holds the weights."""

import torch
from torch import nn

from continual.fisher import Consolidation, consolidate, diagonal_fisher
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
) -> Consolidation:
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
    """
    own, tasks = data.served(epoch), data.tasks
    if tasks is not None:  # without exemplars, and where all tasks are served, without the others
        own = own[tasks.task[own] == tasks.stage(epoch)]
    if len(own) > MOST:
        draws = torch.Generator().manual_seed(derive_seed(seed, "fisher", epoch))
        own = own[torch.randperm(len(own), generator=draws)[:MOST]].sort().values
    fisher = diagonal_fisher(network, data.calibration_images("members", own), scale)
    return consolidate(before, dict(network.named_parameters()), fisher)
