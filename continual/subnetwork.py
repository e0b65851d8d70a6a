"""Selective Subnetwork Distillation: which neurons a task has used, and how they are held.

Reconstructed from the abstract and a summary of arXiv:2512.15267, whose text and code could not be
read. Open choices are arguments: which activations, and which way the divergence goes.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import kl_div


def most_frequent(counts: Int[Tensor, " neurons"], units: int) -> Int[Tensor, " units"]:
    """Neurons that were selected most often, in ascending order; of equal ones the lower first.

    Args:
        counts: how many examples of the task each neuron was selected on.
        units: number of neurons wanted.

    Raises:
        ValueError: the layer has fewer neurons.
    """
    if not 1 <= units <= len(counts):
        raise ValueError(
            f"`units` must be 1 to {len(counts)}, the neurons of the layer, got {units}."
        )
    order = counts.argsort(descending=True, stable=True)
    return order[:units].sort().values


def share_on(
    active: Float[Tensor, "examples neurons"], units: Int[Tensor, " units"]
) -> Float[Tensor, " examples"]:
    """Share of each example's activations that is on some neurons; 0 where all are silent."""
    whole = active.sum(1)
    return active[:, units].sum(1) / torch.where(whole > 0, whole, 1)


def selection_entropy(counts: Int[Tensor, " neurons"], examples: int) -> Float[Tensor, " neurons"]:
    """Bits of whether a neuron is selected on an example of the task; 0 if always or never.

    Args:
        counts: how many examples of the task each neuron was selected on.
        examples: number of examples of the task.
    """
    chance = counts.double() / examples
    chances = torch.stack([chance, 1 - chance])
    return -torch.xlogy(chances, chances).sum(0).div(torch.log(torch.tensor(2.0))).float()


def distillation(
    student: Float[Tensor, "batch units"],
    teacher: Float[Tensor, "batch units"],
    temperature: float,
    forward: bool = True,
) -> Float[Tensor, ""]:
    """Mean over examples of the divergence of two softmaxes, in nats, times temperature squared.

    Of a single unit it is 0 whatever the activations, because its softmax is 1.

    Args:
        student: logits, or activations of the selected neurons, of the network in training.
        teacher: the same of the frozen network.
        temperature: what both are divided by.
        forward: KL(teacher || student), as Hinton et al. 2015 (arXiv:1503.02531); otherwise
            KL(student || teacher), the order that SSD's summary writes.
    """
    log_student = (student / temperature).log_softmax(1)
    log_teacher = (teacher.detach() / temperature).log_softmax(1)
    given, reference = (log_student, log_teacher) if forward else (log_teacher, log_student)
    divergence = kl_div(given, reference, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def distilled_loss(
    loss: Float[Tensor, ""],
    hidden: Float[Tensor, ""],
    logits: Float[Tensor, ""],
    alpha: float,
    lam: float,
) -> Float[Tensor, ""]:
    """SSD's loss: alpha * loss + (1 - alpha) * (lam * hidden + (1 - lam) * logits).

    Args:
        loss: cross-entropy on the task in training.
        hidden: distillation of the selected neurons.
        logits: distillation of the logits.
        alpha: share of the cross-entropy.
        lam: share of the selected neurons in the rest.
    """
    return alpha * loss + (1 - alpha) * (lam * hidden + (1 - lam) * logits)
