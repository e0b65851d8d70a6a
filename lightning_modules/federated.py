"""Federated averaging (McMahan et al. 2017, arXiv:1602.05629): one fit is one federation."""

from math import cos, pi
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from attacks.rounds import ATTACKER
from datamodules.batches import Batch
from datamodules.clients import Visit
from datamodules.images import ImageDataModule
from datamodules.seeds import derive_seed
from lightning_modules.adversaries import State, ascend, candidates, isolate
from lightning_modules.classifier import Classifier
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.options import ModelOptions
from quantization.updates import UNROUNDED, parse_update, round_tensor, update_bytes


class FederatedClassifier(Classifier):
    """A classifier that clients train one after another, each from the same weights.

    An epoch is a round. Each of its clients trains the weights sent out, `start`, by SGD without
    momentum from before; its update, the difference, is rounded and taken. After the last client
    the network has the new weights: start + sum of n_k / n times update k, for n_k examples of n.
    Buffers, as BatchNorm's, are averaged with the same shares, and counters are those of the
    largest client. An update that is not finite is left out, and weighs nothing.

    A server that isolates sends each client its own last upload in the place of `start`, in part or
    whole, and averages updates as before. A client that ascends does so before it uploads.

    `start`, `sent` and `uploads` stay until callbacks have seen the end of the epoch. Differences
    are in float64, so that an update that is not rounded loses nothing.

    Args:
        data: the data set.
        seed: the model's seed.
        options: the network, and how clients train it.
        federated: how updates travel, and who is malicious.
    """

    def __init__(
        self,
        data: ImageDataModule,
        seed: int,
        options: ModelOptions,
        federated: FederatedOptions,
    ) -> None:
        shape = tuple(data.pool.shape[1:])
        super().__init__(data.num_classes, len(data.mean), seed, options, shape)
        self.automatic_optimization = False
        self.rounding, self.feedback = parse_update(federated.update), federated.error_feedback
        self.residuals: dict[int, State] = {}  # what rounding took from each client's last update
        self.adversary, self.strength = federated.adversary, federated.strength
        self.branches: dict[int, State] = {}  # the last upload of each client that is isolated
        self.start: State = {}
        self.sent: dict[int, State] = {}  # the weights that each client began with
        self.uploads: dict[int, State] = {}  # the weights that the server has of each client
        self.left_out: list[int] = []  # clients of this round

    @property
    def upload_bytes(self) -> int:
        """Bytes that a client uploads: its rounded update, and buffers as they are."""
        sizes = [weight.numel() for weight in self.network.parameters() if weight.requires_grad]
        return update_bytes(sizes, self.rounding) + sum(b.nbytes for b in _buffers(self.network))

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        tensors = tensors_of(self.network)
        self.start = {key: value.detach().clone() for key, value in tensors.items()}
        self.sent, self.uploads, self.left_out = {}, {}, []
        self._examples, self._largest = 0, 0
        self._sums: State = {}  # of updates and of buffers, each times its client's examples

    def on_train_batch_start(self, batch: Visit, batch_idx: int) -> None:
        """Send a client its weights."""
        self.sent[batch.client] = self.start
        if (own := self.branches.get(batch.client)) is not None:
            self.sent[batch.client] = isolate(self.start, own, self.strength)
            set_tensors(self.network, self.sent[batch.client])

    def training_step(self, visit: Visit, batch_idx: int) -> None:  # type: ignore[override]
        """Train one client."""
        optimizer = cast(LightningOptimizer, self.optimizers())
        convert = self.trainer.precision_plugin.convert_input
        for number, batch in enumerate(visit.batches):
            loss = super().training_step(cast(Batch, convert(batch)), number)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            torch.clear_autocast_cache()  # if on, it holds weights from before the step
        if self.adversary == "ascent" and visit.client == ATTACKER:
            data = cast(ImageDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
            ascend(self.network, map(convert, candidates(data)), self.strength)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: object, batch: Visit, batch_idx: int) -> None:
        """Take a client's update, and go back to the weights that the round began with."""
        # the next client begins without momentum, and so does a checkpoint
        cast(LightningOptimizer, self.optimizers()).optimizer.state.clear()
        if not self._take(batch):
            self.left_out.append(batch.client)
        set_tensors(self.network, self.start)
        if batch.last and self._examples:
            set_tensors(self.network, self._average())

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        uploads = len(self.uploads) + len(self.left_out)
        self.log("federated/bytes", float(uploads * self.upload_bytes))
        cast(LRScheduler, self.lr_schedulers()).step()
        self.start, self.sent, self.uploads = {}, {}, {}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """SGD, with the learning rate of a round constant and, over rounds, a cosine to zero."""
        optimizer = self.make_optimizer(self.network.parameters(), self.device.type == "cuda")
        rounds = max(1, self.trainer.max_epochs or 1)  # 0 in a fit without epochs
        scheduler: LRScheduler
        if self.schedule == "cosine":
            scheduler = LambdaLR(optimizer, lambda done: (1 + cos(pi * done / rounds)) / 2)
        else:
            scheduler = OneCycleLR(optimizer, self.lr, rounds, cycle_momentum=False)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "name": "train/learning_rate"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.residuals:
            checkpoint["residuals"] = self.residuals
        if self.branches:
            checkpoint["branches"] = self.branches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.residuals = checkpoint.get("residuals", {})
        self.branches = checkpoint.get("branches", {})

    def _take(self, visit: Visit) -> bool:
        """Add a client's rounded update to the sums; False if something in it is not finite."""
        trained, draws = tensors_of(self.network), torch.Generator()
        draws.manual_seed(derive_seed(self.seed, "upload", self.current_epoch, visit.client))
        residual, begun = self.residuals.get(visit.client, {}), self.sent[visit.client]
        sent, lost, upload = {}, {}, {}
        for key, value in trained.items():
            if not isinstance(value, nn.Parameter):  # a buffer travels as it is
                sent[key] = upload[key] = value.clone()
                continue
            start = begun[key].double()
            wanted = value.double() - start
            if key in residual:
                wanted += residual[key].to(wanted.device)
            if not wanted.isfinite().all():  # nothing to round
                return False
            full = self.rounding.bits == UNROUNDED or not value.requires_grad
            sent[key] = wanted if full else round_tensor(wanted, self.rounding, draws).double()
            lost[key] = (wanted - sent[key]).float()
            upload[key] = (start + sent[key]).to(value.dtype)
        if not all(value.isfinite().all() for value in [*sent.values(), *upload.values()]):
            return False
        self._add(sent, visit.examples)
        self.uploads[visit.client] = upload
        if self.feedback:
            self.residuals[visit.client] = lost
        if self.adversary == "isolate":
            self.branches[visit.client] = upload
        return True

    def _add(self, sent: State, examples: int) -> None:
        self._examples += examples
        for key, value in sent.items():
            if value.is_floating_point():
                self._sums[key] = self._sums.get(key, 0) + examples * value.double()
            elif examples > self._largest:
                self._sums[key] = value
        self._largest = max(self._largest, examples)

    def _average(self) -> State:
        """The weights after a round."""
        means: State = {}
        for key, value in tensors_of(self.network).items():
            if not value.is_floating_point():
                means[key] = self._sums[key]
                continue
            mean = self._sums[key] / self._examples
            if isinstance(value, nn.Parameter):
                mean = self.start[key].double() + mean
            means[key] = mean.to(value.dtype)
        return means


def tensors_of(network: nn.Module) -> State:
    """A network's parameters and saved buffers by name; what layers share comes once."""
    saved = network.state_dict().keys()
    buffers = {key: value for key, value in network.named_buffers() if key in saved}
    return {**dict(network.named_parameters()), **buffers}


@torch.no_grad()
def set_tensors(network: nn.Module, state: State) -> None:
    """Give a network the values of `state`, in place."""
    for key, value in tensors_of(network).items():
        value.copy_(state[key])


def _buffers(network: nn.Module) -> list[Tensor]:
    return [t for t in tensors_of(network).values() if not isinstance(t, nn.Parameter)]
