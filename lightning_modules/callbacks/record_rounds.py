"""The callback that records what an attacker sees of a federation's rounds."""

import copy
import json
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from attacks.rounds import ATTACKER
from datamodules.images import ImageDataModule
from lightning_modules.federated import FederatedClassifier
from lightning_modules.federated_options import CosineName
from lightning_modules.observe import Seen, leave_out, record_round
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
        cosine: layers whose gradients are compared with updates.
    """

    def __init__(
        self,
        folder: Path,
        record: Path,
        rounds: Collection[int],
        sizes: list[int],
        cosine: CosineName = "last",
    ) -> None:
        self.cosine = cosine
        self.folder, self.record, self.rounds, self.sizes = folder, record, rounds, sizes
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
            seen = Seen(module.start, module.sent, module.uploads, end)
            if module.adversary != "isolate":  # whose clients never see the global model
                seen = seen._replace(others=leave_out(seen, ATTACKER, self.sizes))
            save_whole(path, record_round(network, seen, data, self.cosine))

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
