"""The callback that records what an attacker sees of a federation's rounds."""

import copy
import json
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks.gradients import cosines, log_norms, logit_gradients
from attacks.rounds import ATTRIBUTE, SIGNALS
from attacks.signals import signals
from datamodules.attributes import Attribute, vary
from datamodules.images import Batch, ImageDataModule
from lightning_modules.federated import FederatedClassifier, State, set_tensors
from lightning_modules.float32 import tf32
from lightning_modules.last_layer import find_last_linear
from storage.files import save_whole, write_text
from storage.names import round_file


class RecordRounds(Callback):
    """Write `rounds/<round>.safetensors` at the end of some rounds, and a record of all at the end.

    Place it before the checkpoint, so that the files of the rounds that training has passed exist,
    and before the weights, which never lack their record. Uploads are not stored: each goes over
    the pool once, in order, as it is, in evaluation mode and true float32.

    Args:
        folder: the model's folder.
        record: path of the record, beside the weights.
        rounds: rounds that are recorded, counted from 1.
        sizes: number of examples of each client.
        attribute: a column whose values are all tried; None for none.
    """

    def __init__(
        self,
        folder: Path,
        record: Path,
        rounds: Collection[int],
        sizes: list[int],
        attribute: Attribute | None = None,
    ) -> None:
        self.folder, self.record, self.rounds, self.sizes = folder, record, rounds, sizes
        self.attribute = attribute
        self.bytes: list[int] = []  # uploaded in each round
        self.left_out: dict[str, list[int]] = {}  # round -> clients; JSON knows no other keys
        self.unchanged: list[int] = []  # rounds without an upload

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("bytes", "left_out", "unchanged")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, done = cast(FederatedClassifier, pl_module), trainer.current_epoch + 1
        self._note(module, done)
        path = self.folder / round_file(done)
        if done in self.rounds and not path.exists():
            data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
            end = {key: value.detach() for key, value in module.network.state_dict().items()}
            network = copy.deepcopy(module.network)
            seen = record_round(network, module.start, module.uploads, end, data, self.attribute)
            save_whole(path, seen)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        facts = {"sizes": self.sizes, "recorded": sorted(self.rounds)} | self.state_dict()
        write_text(self.record, json.dumps(facts))

    def _note(self, module: FederatedClassifier, done: int) -> None:
        known = {client for clients in self.left_out.values() for client in clients}
        self.bytes.append((len(module.uploads) + len(module.left_out)) * module.upload_bytes)
        if not module.uploads:
            self.unchanged.append(done)
        if module.left_out:
            self.left_out[str(done)] = module.left_out
        for client in sorted({*module.left_out} - known):
            warnings.warn(
                f"{self.folder.name}: client {client} uploaded weights that are not finite in "
                f"round {done}, which are left out, as all such are; {self.record.name} lists "
                "them. Lower `--model.lr` if there are many.",
                stacklevel=2,
            )


@tf32(False)
@torch.inference_mode()
def record_round(
    network: nn.Module,
    start: State,
    uploads: dict[int, State],
    end: State,
    data: ImageDataModule,
    attribute: Attribute | None = None,
) -> dict[str, Tensor]:
    """The signals of one round, by their name in its file.

    Args:
        network: the architecture, which is changed.
        start: the weights that were sent out.
        uploads: client -> its weights as the server has them.
        end: the weights after the round.
        data: the pool.
        attribute: a column whose values are tried in turn in the place of the examples' own.
    """
    network = network.float().eval()
    layer = find_last_linear(network, next(data.pool_batches("identity")).images[:2])
    before = _Model(network, start, layer)
    models = [_Model(network, state, layer) for state in [*uploads.values(), end]]
    rows = []
    for batch in data.pool_batches("identity"):
        versions = [batch, *(vary(data, attribute, batch) if attribute else ())]
        rows.append(torch.stack([_see(before, models, version) for version in versions]))
    own, *others = torch.cat(rows, 3)
    record = {"participants": torch.tensor(list(uploads), dtype=torch.int64)} | _name(own)
    if others:
        record |= {f"{ATTRIBUTE}{key}": part for key, part in _name(torch.stack(others, 1)).items()}
    return record


def _see(
    before: "_Model", models: Sequence["_Model"], batch: Batch
) -> Float[Tensor, "signals models examples"]:
    """The signals of a batch under each upload and under the new weights."""
    errors, features, _ = before.see(batch)
    parts = []
    for model in models:
        own_errors, own_features, phi = model.see(batch)
        bias = None if model.bias is None else before.bias - model.bias
        norms = log_norms(own_errors, own_features, bias=bias is not None)
        angles = cosines(errors, features, before.weight - model.weight, bias)
        parts.append(torch.stack([phi, norms.float(), angles.float()]))
    return torch.stack(parts, 1)


def _name(signals: Float[Tensor, "signals *values models examples"]) -> dict[str, Tensor]:
    """The signals of the uploads by name, and those of the new weights, which come last."""
    named = dict(zip(SIGNALS, signals, strict=True))
    return {
        **{name: signal[..., :-1, :] for name, signal in named.items()},
        **{f"global_{name}": signal[..., -1, :] for name, signal in named.items()},
    }


class _Model:
    """A network with some weights, and what its last layer is given."""

    def __init__(self, network: nn.Module, state: State, layer: str) -> None:
        self.network = copy.deepcopy(network)
        set_tensors(self.network, state)
        last = cast(nn.Linear, self.network.get_submodule(layer))
        self.weight = last.weight.detach().double().cpu()
        self.bias = None if last.bias is None else last.bias.detach().double().cpu()
        last.register_forward_pre_hook(self._keep)

    def see(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """P - y of each example, what the last layer computes on, and phi; on the CPU."""
        logits, labels = self.network(batch.images).cpu(), batch.labels.cpu()
        return logit_gradients(logits, labels), self.features.cpu(), signals(logits, labels).phi

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]
