"""Real work before anything is written: a pass in evaluation, and some steps of training.

What a network or a library raises becomes one line: in which step, in which layer, and a way out.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from datamodules.batches import Batch
from lightning_modules.classifier import Classifier
from lightning_modules.complaints import complain, find_forward
from lightning_modules.logits import OutputError
from storage.files import serialise


def rehearse(classifier: Classifier, batches: Sequence[Batch], trainer: Trainer) -> list[str]:
    """Evaluate a copy of a network, and train another for a step per batch, as a fit would.

    Neither the network nor a global generator of random numbers is changed.

    Args:
        classifier: the model to be trained.
        batches: batches to train on, with their labels.
        trainer: a trainer for one device, which gives the device and the precision.

    Returns:
        Names of the parameters that train, but get no gradient.

    Raises:
        ValueError: something fails, in one line.
    """
    device = trainer.strategy.root_device
    with isolate_rng(include_cuda=device.type == "cuda"):
        return _Rehearsal(classifier, trainer).run(batches)


def check_unused(unused: Sequence[str], processes: int, strategy: str) -> list[str]:
    """Notes on parameters without a gradient.

    Raises:
        ValueError: several processes train a model, and would wait for these gradients.
    """
    if not unused:
        return []
    names = first_of(unused)
    if processes > 1 and "find_unused_parameters_true" not in strategy:
        raise ValueError(
            f"The loss does not depend on {names}, whose gradients {processes} processes would wait"
            " for. Pass `--trainer.strategy ddp_find_unused_parameters_true`, or leave them out."
        )
    return [f"Note: training leaves {names} as drawn, because the loss does not depend on that."]


def first_of(names: Sequence[str]) -> str:
    """The first three of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _Rehearsal:
    """Copies of a network at work, and errors that say which part of the work failed."""

    def __init__(self, classifier: Classifier, trainer: Trainer) -> None:
        self.classifier, self.device = classifier, trainer.strategy.root_device
        self.precision = trainer.precision_plugin
        self.network = classifier.get_submodule("network")
        self.name, self.worked = type(self.network).__name__, False

    def run(self, batches: Sequence[Batch]) -> list[str]:
        self._check_weights()
        first = batches[0].images[:2].to(self.device)
        with self._step(self.network, "when it is copied"):
            audited = copy.deepcopy(self.network).to(self.device).float()
        self._save(audited)
        self._check_numbers(self._evaluate(audited, first), first)
        trained = copy.deepcopy(self.network).to(self.device)
        trained = self.precision.convert_module(trained)
        with (
            self._step(trained, "when gradients of single images are kept"),
            ExitStack() as stack,
        ):
            stack.enter_context(self.classifier.hooked(trained))
            hooks = stack.pop_all()
        with hooks:
            unused = self._train_steps(trained, first, batches)
        with self._step(trained, "when it is copied after a step of training"):
            copy.deepcopy(trained)
        return unused

    def _train_steps(
        self, trained: nn.Module, first: Tensor, batches: Sequence[Batch]
    ) -> list[str]:
        """Train for a step per batch; returns the names of the parameters without a gradient."""
        optimizer = self.classifier.make_optimizer(trained.parameters())
        self._train(trained, batches[0], optimizer)
        named = trained.named_parameters()
        unused = [key for key, p in named if p.requires_grad and p.grad is None]
        if len(unused) == sum(p.requires_grad for p in trained.parameters()):
            raise ValueError(
                f"{self.name} must return logits that depend on its parameters, got logits that "
                f"depend on none of {len(unused)}. Use its layers in `forward`."
            )
        for batch in batches[1:]:  # it may keep something that the next step trips over
            with self.precision.val_step_context():
                self._evaluate(trained, self.precision.convert_input(first))
            self._train(trained, batch, optimizer)
        return unused

    def _check_weights(self) -> None:
        weights = list(self.network.parameters())
        if not any(weight.requires_grad for weight in weights):
            frozen = f", got {len(weights)} with `requires_grad` off" if weights else ", got none"
            raise ValueError(
                f"{self.name} must have parameters that train{frozen}. Take a network with weights,"
                " and freeze only some of them."
            )

    def _save(self, network: nn.Module) -> None:
        state = network.state_dict()
        others = [key for key, value in state.items() if not isinstance(value, Tensor)]
        if others:
            raise ValueError(
                f"{self.name} must have a `state_dict` of tensors alone, got others as "
                f"{', '.join(others)}. Leave out `get_extra_state`, or let it return a tensor."
            )
        with self._step(network, "when its weights are saved and read"):
            network.load_state_dict(load(serialise(state)))

    @torch.inference_mode()
    def _evaluate(self, network: nn.Module, images: Tensor) -> Tensor:
        with self._step(network, f"in evaluation on images of {tuple(images.shape[1:])}"):
            logits: Tensor = network.eval()(images)
        self._check_logits(logits, len(images))
        self.worked = True
        return logits

    def _check_numbers(self, logits: Tensor, images: Tensor) -> None:
        for what, values in (("images", images), ("logits", logits)):
            if wrong := int(values.isnan().sum()):
                raise ValueError(
                    f"{self.name} must see and return numbers, got {wrong} NaN among "
                    f"{values.numel()} {what} before any training. Initialise its weights, and "
                    "look for divisions by zero."
                )

    def _train(self, network: nn.Module, batch: Batch, optimizer: Optimizer) -> None:
        images = self.precision.convert_input(batch.images.to(self.device))
        labels, size = batch.labels.to(self.device), len(batch.labels)

        def forward() -> Float[Tensor, ""]:
            with self.precision.train_step_context():
                logits = network.train()(images.clone())  # a network may work in place
                self._check_logits(logits, size)
                return cross_entropy(logits, labels)

        def both() -> None:
            torch.autograd.backward(forward())

        optimizer.zero_grad(set_to_none=True)
        with self._step(network, f"in a training step on {size} images"):
            loss = forward()
        with self._step(network, f"in the backward pass of a training step on {size} images", both):
            torch.autograd.backward(loss)
        with self._step(network, "in the optimizer's step"):
            optimizer.step()

    def _check_logits(self, logits: Tensor, size: int) -> None:
        expected = (size, self.classifier.num_classes)
        if (shape := tuple(logits.shape)) == expected:
            return
        hint = (
            "Let its constructor take `num_classes`, or pass the number in `--model.network_args`."
        )
        if not shape:
            hint = "Return the logits, not a loss; BitLeak computes that itself."
        elif len(shape) != 2:
            hint = "Average over places or tokens, or take one of them, such as a class token's."
        elif shape[0] != size:
            hint = "Keep the images apart: the first axis is the batch."
        raise OutputError(
            f"{self.name} must return logits of shape {expected}, got {shape}. {hint}"
        )

    @contextmanager
    def _step(
        self, network: nn.Module, step: str, again: Callable[[], object] | None = None
    ) -> Iterator[None]:
        """Turn errors into one line; `again` repeats the work, to find the place in a network."""
        try:
            yield
        except OutputError:
            raise
        except (Exception, SystemExit) as error:  # whatever a network or a library raises
            place = find_forward(again) if again else ""
            raise ValueError(complain(network, step, error, place, self.worked)) from error
