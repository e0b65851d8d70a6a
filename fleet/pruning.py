"""Checks of pruning before any training: what it cannot be combined with, and a trial cut."""

import copy
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from datamodules.images import ImageDataModule
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions, PruneOptions
from lightning_modules.rehearsal import first_of
from pruning.cut import cut, kept_positions, zeroed
from pruning.groups import Kept
from pruning.saliency import saliency
from pruning.threshold import Plan, choose, make_plan

TOLERANCE = 1e-3  # of the largest logit; a wrong channel changes them by a good part


def check_pruning(prune: PruneOptions, model: ModelOptions, epochs: int) -> None:
    """Refuse options that pruning cannot be combined with.

    Args:
        prune: the options of pruning, with a method.
        model: the options of training.
        epochs: epochs of a fit.

    Raises:
        ValueError: Torch-Pruning is not installed, DP-SGD is asked for, or no epoch is left.
    """
    if find_spec("torch_pruning") is None:
        raise ValueError(
            "`--prune` needs Torch-Pruning, which is not installed: `pip install -e '.[prune]'`."
        )
    if model.dp.on:
        raise ValueError(
            f"`--prune {prune.method}` cannot be combined with `--model.dp`: which channels stay "
            "follows from the members, and no accountant counts that choice. Leave out one of them."
        )
    prune.epochs(epochs)


def rehearse_cut(prune: PruneOptions, classifier: Classifier, data: ImageDataModule) -> list[str]:
    """Cut a copy of the untrained network, and compare it with the dense one.

    Returns:
        Notes for the user: what will be removed, and which layers stay as they are.

    Raises:
        ValueError: the network cannot be traced, has no channels to remove, cannot lose so many, or
            computes something else without them.
    """
    network = copy.deepcopy(classifier.get_submodule("network")).cpu().float().eval()
    name, shape = type(network).__name__, data.pool.shape[1:]
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    plan = make_plan(network, images)
    if not plan.groups:
        stays = f" Its channels run through {first_of(plan.left)}." if plan.left else ""
        raise ValueError(
            f"`--prune` needs a network with channels to remove, got {name}, which has none beside "
            f"its inputs and logits.{stays} Take another `--model.network`, or leave it out."
        )
    if prune.remove > plan.most:
        raise ValueError(
            f"`prune.remove` must be at most {plan.most:.3f} for {name}, got {prune.remove:g}: a "
            "quarter of each layer's channels stays, and at least one."
        )
    kept = choose(saliency(dict(network.named_parameters()), plan.groups), plan, prune.remove)
    _compare(network, images, plan, kept)
    notes = [
        f"Pruning: {prune.method} removes at least {prune.remove:.0%} of the multiply-accumulates, "
        f"by {sum(group.size for group in plan.groups)} channels in {len(plan.groups)} groups."
    ]
    if plan.left:
        notes += [f"Note: pruning leaves the outputs of {first_of(plan.left)} as they are."]
    return notes


def cut_untrained(prune: PruneOptions, network: nn.Module, data: ImageDataModule) -> None:
    """Cut an untrained network, in place: what it costs is about what trained ones will."""
    plan = make_plan(network, torch.zeros(2, *data.pool.shape[1:]))
    kept = choose(saliency(dict(network.named_parameters()), plan.groups), plan, prune.remove)
    cut(network, kept_positions(plan.groups, kept, plan.shapes))


def _compare(network: nn.Module, images: Tensor, plan: Plan, kept: Kept) -> None:
    """Raise ValueError if a cut network fails, or computes something else than with zeros.

    With GroupNorm it rightly does, because zeros count in its statistics; there only the shapes are
    tried.
    """
    if not (wrong := _differs(network, images, plan, kept)):
        return
    alone = ({**plan.everything, group.name: kept[group.name]} for group in plan.groups)
    causes = [
        group.name
        for group, one in zip(plan.groups, alone, strict=True)
        if _differs(network, images, plan, one)
    ]
    raise ValueError(
        f"`--prune` cannot remove channels of {type(network).__name__}: without those of "
        f"{first_of(causes or [group.name for group in plan.groups])}, {wrong}. Its `forward` "
        "depends on where channels are, or on how many. Take another `--model.network`, or leave "
        "it out."
    )


@torch.inference_mode()
def _differs(network: nn.Module, images: Tensor, plan: Plan, kept: Kept) -> str:
    """What goes wrong in a cut network, in words; nothing if it computes what it should."""
    small = copy.deepcopy(network)
    cut(small, kept_positions(plan.groups, kept, plan.shapes))
    try:
        logits: Tensor = small(images)
    except Exception as error:  # whatever its `forward` raises
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    expected: Tensor = zeroed(network, plan.groups, kept)(images)
    if logits.shape != expected.shape:
        return f"logits of shape {tuple(logits.shape)} instead of {tuple(expected.shape)}"
    tensors = {piece.key.rpartition(".")[0] for group in plan.groups for piece in group.slices}
    if any(isinstance(network.get_submodule(name), nn.GroupNorm) for name in tensors):
        return ""
    largest = (logits - expected).abs().max()
    return "it computes something else" if largest > TOLERANCE * expected.abs().max() else ""
