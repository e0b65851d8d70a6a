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
from lightning_modules.options import ModelOptions


class PrivateClassifier(Classifier):
    """A classifier whose steps see each example's gradient clipped, and their sum with noise.

    The update is that sum over the expected size of a batch, which says nothing about the batch.
    Noise is drawn from torch's generator, which is seeded anew in each epoch.

    Args:
        data: the data set; its `batch_size` is the expected one.
        seed: the model's seed.
        options: the network, and how it is trained, with a known noise.
    """

    def __init__(self, data: ImageDataModule, seed: int, options: ModelOptions) -> None:
        shape = tuple(data.pool.shape[1:])
        super().__init__(data.num_classes, len(data.mean), seed, options, shape)
        self.dp, self.batch_size = options.dp, data.batch_size

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

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)  # noisy gradients have another layout in memory

    @contextmanager
    def hooked(self, network: nn.Module) -> Iterator[None]:
        """Keep the gradient of each example in the parameters of a network.

        Raises:
            NotImplementedError: a layer keeps buffers, as BatchNorm does.
        """
        from opacus.grad_sample import GradSampleModule

        # hooks see the values between layers, which nothing may overwrite
        in_place = [layer for layer in network.modules() if getattr(layer, "inplace", False)]
        images = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        handles = [layer.register_forward_pre_hook(_contiguous) for layer in images]
        if errors := GradSampleModule.validate(network):
            raise errors[0]  # it would raise all of them, as a list
        hooks = GradSampleModule(network)
        try:
            for layer in in_place:
                layer.inplace = False  # type: ignore[assignment]
            yield
        finally:
            for layer in in_place:
                layer.inplace = True  # type: ignore[assignment]
            for handle in handles:
                handle.remove()
            hooks.to_standard_module()
            # left by Opacus: an empty list, and the last sum of gradients without its noise
            for layer in network.modules():
                vars(layer).pop("activations", None)
            for weight in network.parameters():
                vars(weight).pop("summed_grad", None)

    def make_optimizer(self, parameters: Iterable[nn.Parameter], fused: bool = False) -> Optimizer:
        from opacus.optimizers import DPOptimizer

        optimizer: Optimizer = DPOptimizer(
            super().make_optimizer(parameters, fused),
            noise_multiplier=self.dp.noise,
            max_grad_norm=self.dp.clip,
            expected_batch_size=self.batch_size,
        )
        return optimizer


def _contiguous(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs of a convolution in NCHW: of NHWC, Opacus 1.6 computes wrong gradients."""
    return tuple(images.contiguous() for images in inputs)


def find_batchnorm(network: nn.Module) -> list[str]:
    """Names of the layers that mix the examples of a batch."""
    return [name for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)]
