"""The callback that records a few numbers of what an audited model computes before its output."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import pad

from attacks.embeddings import COMPONENTS, fit_projection
from datamodules.images import Batch, ImageDataModule
from lightning_modules.callbacks.peers import share
from lightning_modules.callbacks.record_signals import load_network
from lightning_modules.float32 import tf32
from storage.files import save_whole

KINDS = (nn.Linear, nn.Conv2d)  # of the layer whose input is the embedding; the first is preferred


class RecordEmbeddings(Callback):
    """Write `embeddings/<variant>.safetensors` for every variant of a model, after a fit.

    They hold the principal components of the input of the last layer, in float32: `embeddings`
    `[components, examples]` of the pool and `population` `[components, population]` of the test
    split, whose embeddings by the same network define the components. Each process of a fit goes
    over all images in order, with its share of the networks, one after another: the signals' files
    stay as they are.

    Args:
        folder: the model's folder, with a weights file for each variant.
        variants: names of the variants, `full` among them.
        query: the view of an example whose embedding is recorded.
        fill: whether components that a narrow network lacks are recorded as zeros, because others
            of the fleet, or snapshots from before a cut, have more.
    """

    def __init__(
        self, folder: Path, variants: Sequence[str], query: str, fill: bool = False
    ) -> None:
        self.folder, self.variants, self.query, self.fill = folder, variants, query, fill

    @tf32(False)
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        # Lightning has already moved the module back to the CPU.
        trained, device = pl_module.get_submodule("network"), trainer.strategy.root_device
        for variant in share(trainer, self.variants):
            path = self.folder / "embeddings" / f"{variant}.safetensors"
            if not path.exists():
                network = load_network(trained, self.folder / f"{variant}.safetensors")
                found = embed(network.to(device), data, self.query)
                if self.fill:
                    found = {k: pad(v, (0, 0, 0, COMPONENTS - len(v))) for k, v in found.items()}
                save_whole(path, found)


@torch.inference_mode()
def embed(network: nn.Module, data: ImageDataModule, query: str) -> dict[str, Tensor]:
    """Components of the embeddings of the pool and of the test split, by name."""
    layer = find_layer(network, next(data.test_batches(query)).images[:2])
    population = torch.cat(list(_embeddings(network, layer, data.test_batches(query))))
    projection = fit_projection(population)
    pool = [
        projection.apply(rows) for rows in _embeddings(network, layer, data.pool_batches(query))
    ]
    return {"embeddings": torch.cat(pool, 1), "population": projection.apply(population)}


@torch.inference_mode()
def find_layer(network: nn.Module, images: Float[Tensor, "batch channels ..."]) -> str:
    """Name of the layer whose input is the embedding: the last linear layer that the network calls.

    A network that calls no linear layer is embedded by the input of its last convolution.

    Args:
        network: a network in evaluation mode.
        images: two images or more.

    Raises:
        ValueError: it calls neither, or that layer has no row for each image.
    """
    kind, calls = type(network).__name__, list[tuple[str, nn.Module, Tensor]]()
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: calls.append((name, module, inputs[0]))
        )
        for name, module in network.named_modules()
        if isinstance(module, KINDS)
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    for layer in KINDS:
        for name, module, value in reversed(calls):
            if isinstance(module, layer):
                if len(value) == len(images) and value.ndim > 1:
                    return name
                raise ValueError(
                    f"`--record_embeddings true` needs a row for each of {len(images)} images in "
                    f"the input of `{name}`, the last layer of {kind}, got {tuple(value.shape)}. "
                    "Leave the option out."
                )
    raise ValueError(
        "`--record_embeddings true` records the input of the last linear layer, or else of the "
        f"last convolution, but {kind} calls neither as a module. Leave the option out, or end the "
        "network in an `nn.Linear`."
    )


def _embeddings(
    network: nn.Module, layer: str, batches: Iterable[Batch]
) -> Iterator[Float[Tensor, "batch inputs"]]:
    """Float64 inputs of a layer, averaged over places or tokens, by its last call on each batch."""
    latest: list[Tensor] = []
    module = network.get_submodule(layer)
    hook = module.register_forward_pre_hook(lambda _, inputs: latest.append(inputs[0]))
    try:
        for batch in batches:
            network(batch.images)
            value = latest[-1].double().cpu()
            latest.clear()
            channels = 1 if isinstance(module, nn.Conv2d) else -1
            rows = value.movedim(channels, -1)  # [batch, places or tokens, inputs], or two of them
            yield rows.flatten(1, -2).mean(1) if rows.ndim > 2 else rows
    finally:
        hook.remove()
