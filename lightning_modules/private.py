"""Training by DP-SGD (Abadi et al. 2016, arXiv:1607.00133), with Opacus' hooks and optimizer."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from datamodules.images import Batch, ImageDataModule
from lightning_modules.classifier import Classifier
from lightning_modules.options import DpOptions, ModelOptions


class PrivateClassifier(Classifier):
    """A classifier whose steps see each example's gradient clipped, and their sum with noise.

    The update is that sum over the expected size of a batch, which says nothing about the batch.
    Noise is drawn from torch's generator, which is seeded anew in each epoch.

    Attributes:
        dp: noise and clipping norm.
        batch_size: expected number of examples in a batch.
    """

    dp: DpOptions
    batch_size: int

    def on_train_start(self) -> None:
        self._attached = ExitStack()
        self._attached.enter_context(self.hooked(self.network))

    def on_train_end(self) -> None:
        self._attached.close()  # before the network is copied for signals and quantization

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        self.empty = not len(batch.labels)
        if self.empty:  # no member was drawn: the step is one of noise alone
            return torch.zeros((), device=self.device, requires_grad=True)
        return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.empty:
            for weight in self.network.parameters():
                weight.grad_sample = weight.new_zeros(0, *weight.shape)  # type: ignore[attr-defined]

    @contextmanager
    def hooked(self, network: nn.Module) -> Iterator[None]:
        """Keep the gradient of each example in the parameters of a network.

        Raises:
            NotImplementedError: a layer keeps buffers, as BatchNorm does.
        """
        from opacus.grad_sample import GradSampleModule

        hooks = GradSampleModule(network)
        try:
            yield
        finally:
            hooks.to_standard_module()

    def make_optimizer(self, parameters: Iterable[nn.Parameter], fused: bool = False) -> Optimizer:
        from opacus.optimizers import DPOptimizer

        optimizer: Optimizer = DPOptimizer(
            super().make_optimizer(parameters, fused),
            noise_multiplier=self.dp.noise,
            max_grad_norm=self.dp.clip,
            expected_batch_size=self.batch_size,
        )
        return optimizer


def make_classifier(data: ImageDataModule, seed: int, options: ModelOptions) -> Classifier:
    """A model for the classes and the images of a data set, trained as its options say.

    Args:
        data: the data set.
        seed: the model's seed.
        options: the network, and how it is trained; with DP-SGD, its noise is known.
    """
    if not options.dp.on:
        return Classifier.for_data(data, seed, options)
    model = PrivateClassifier.for_data(data, seed, options)
    model.dp, model.batch_size = options.dp, data.batch_size
    return model


def find_batchnorm(network: nn.Module) -> list[str]:
    """Names of the layers that mix the examples of a batch."""
    return [name for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)]
