"""The callback that removes channels in the middle of a fit, and records how that went."""

import copy
import gc
import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.images import ImageDataModule
from datamodules.seeds import derive_seed
from lightning_modules.float32 import tf32
from lightning_modules.options import PruneOptions
from pruning.cut import count_parameters, cut, kept_positions, shapes_of, widths
from pruning.groups import Kept
from pruning.macs import macs
from pruning.penalty import shrink
from pruning.saliency import saliency
from pruning.stability import is_stable, jaccard
from pruning.threshold import choose, make_plan
from storage.files import write_text


class Prune(Callback):
    """Select channels at the end of epochs, shrink the others, and cut them once.

    Place it after the snapshots, which keep an epoch's network as it was trained, and before the
    checkpoint, which holds the network after the cut. Channels are selected by the weights alone,
    the same in all processes of a fit. The learning rate goes on as if nothing had happened, and so
    does the momentum of kept weights, which still is their mean gradient; that of the others goes
    with them. Test images only measure the cut.

    Args:
        path: the record, beside the weights; place the callback before the one that writes these.
        options: how channels are selected, and when.
        epochs: epochs of the whole fit.
        seed: the model's seed.
    """

    def __init__(self, path: Path, options: PruneOptions, epochs: int, seed: int) -> None:
        self.path, self.options, self.seed = path, options, seed
        self.first, self.last = options.epochs(epochs)
        self.kept: Kept = {}  # as selected after the last epoch
        self.stability: list[float] = []  # from the second selection on
        self.cut_after: int | None = None  # epochs
        self.accuracy: list[float] = []  # before and after the cut
        self.rate: float | None = None  # of a step that was just made

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("kept", "stability", "cut_after", "accuracy")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the dense network, before the weights of a checkpoint and the optimizer."""
        network, data = pl_module.get_submodule("network"), _data(trainer)
        self.plan = make_plan(network, torch.zeros(2, *data.pool.shape[1:]))
        self.widths, self.parameters = widths(network), count_parameters(network)
        if self.options.method == "init":
            self.kept = choose(self._scores(network), self.plan, self.options.remove)
            self._cut(trainer, pl_module, 0)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self.rate = optimizer.param_groups[0]["lr"]  # the schedule goes on after the step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ANN401
        rate, self.rate = self.rate, None
        if rate is None or not self.kept or self.cut_after is not None:
            return
        grown = (trainer.current_epoch + 1 - self.first) / (self.last - self.first)
        weights = dict(pl_module.get_submodule("network").named_parameters())
        shrink(weights, self.plan.groups, self.kept, rate * grown * self.options.strength)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        # a model that diverged stays as it is, and is reported
        if self.cut_after is not None or done < self.first or trainer.should_stop:
            return
        scores = self._scores(pl_module.get_submodule("network"))
        kept = trainer.strategy.broadcast(choose(scores, self.plan, self.options.remove))
        if self.kept:
            self.stability.append(jaccard(self.kept, kept))
            self._log(trainer, {"prune/stability": self.stability[-1]})
        self.kept = kept
        if done == self.last or is_stable(self.stability):
            self._cut(trainer, pl_module, done)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.cut_after is None:  # it diverged before
            return
        network = pl_module.get_submodule("network")
        at_the_end = _accuracy(network, _data(trainer), trainer.strategy.root_device)
        narrowed = widths(network).items()
        shapes = self.plan.shapes, shapes_of(network)
        record = {
            "method": self.options.method,
            "remove": self.options.remove,
            "first": self.first,
            "last": self.last,
            "cut_after": self.cut_after,
            "stable": is_stable(self.stability) if self.options.method == "ocs" else None,
            "stability": self.stability,
            "macs": [macs(each, self.plan.places) for each in shapes],
            "parameters": [self.parameters, count_parameters(network)],
            "widths": {layer: [self.widths[layer], width] for layer, width in narrowed},
            "accuracy": [*self.accuracy, at_the_end],
            "sizes": {group.name: group.size for group in self.plan.groups},
            "kept": self.kept,
        }
        write_text(self.path, json.dumps(record))

    def _scores(self, network: nn.Module) -> dict[str, Tensor]:
        """Scores of all channels; the lowest go."""
        if self.options.method == "random":
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "prune"))
            return {g.name: torch.rand(g.size, generator=generator) for g in self.plan.groups}
        return saliency(dict(network.named_parameters()), self.plan.groups)

    def _cut(self, trainer: Trainer, pl_module: LightningModule, epochs: int) -> None:
        network, data = pl_module.get_submodule("network"), _data(trainer)
        device = next(network.parameters()).device
        before = _accuracy(network, data, device)
        positions = kept_positions(self.plan.groups, self.kept, self.plan.shapes)
        cut(network, positions, trainer.optimizers)
        pl_module.kept = self.kept  # type: ignore[assignment]  # which weights files and checkpoints hold
        if isinstance(trainer.strategy, DDPStrategy) and trainer.optimizers:
            # its buckets are of the dense network's gradients
            trainer.strategy.model = pl_module
            gc.collect()
            trainer.strategy.configure_ddp()
        self.cut_after, self.accuracy = epochs, [before, _accuracy(network, data, device)]
        numbers = {"before": self.accuracy[0], "after": self.accuracy[1], "epoch": epochs}
        self._log(trainer, {f"prune/cut_{key}": value for key, value in numbers.items()})

    def _log(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)


def _data(trainer: Trainer) -> ImageDataModule:
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


@tf32(False)
@torch.inference_mode()
def _accuracy(network: nn.Module, data: ImageDataModule, device: torch.device) -> float:
    """Accuracy on the test split, in float32; the network stays as it is."""
    network = copy.deepcopy(network).to(device).float().eval()
    correct = [
        (network(batch.images.to(device)).argmax(1) == batch.labels.to(device)).cpu()
        for batch in data.test_batches()
    ]
    return torch.cat(correct).double().mean().item()
