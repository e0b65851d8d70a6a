"""The callback that records what an attacker sees of a learner at the end of each task."""

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import Tensor, nn

from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from datamodules.tasks import tasks_of
from lightning_modules.continual import ContinualClassifier
from lightning_modules.float32 import tf32
from storage.files import save_whole, write_text
from storage.names import task_file


class RecordTasks(Callback):
    """Write `tasks/<number>.safetensors` at the end of each stage, and a record of all at the end.

    Place it before the checkpoint, so that the files of the stages that training has passed exist,
    and before the weights, which never lack their record. Networks compute in evaluation mode and
    true float32, on each example of the pool in order, as it is.

    Args:
        folder: the model's folder.
        record: path of the record, beside the weights.
        members: which examples of the pool the model trains on.
        audited: whether the model is audited.
    """

    def __init__(
        self, folder: Path, record: Path, members: Bool[Tensor, " examples"], audited: bool
    ) -> None:
        self.folder, self.record = folder, record
        self.members, self.audited = members.cpu(), audited
        self.stages: list[dict[str, Any]] = []  # facts on each

    def state_dict(self) -> dict[str, Any]:
        return {"stages": self.stages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stages = state_dict["stages"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, done = cast(ContinualClassifier, pl_module), trainer.current_epoch + 1
        if done in module.stream.ends:
            self._finish(trainer, module, module.stream.ends.index(done))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record weights that diverged in place of the stages that training did not reach."""
        module = cast(ContinualClassifier, pl_module)
        for stage in range(len(self.stages), len(module.stream.ends)):
            self._finish(trainer, module, stage)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast(ContinualClassifier, pl_module)
        facts = {"ends": list(module.stream.ends), "classes": module.classes, "stages": self.stages}
        write_text(self.record, json.dumps(facts))

    def _finish(self, trainer: Trainer, module: ContinualClassifier, stage: int) -> None:
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        path, stream = self.folder / task_file(stage + 1), module.stream
        if not path.exists():
            network = copy.deepcopy(module.network).float().eval()
            tensors = record_stage(network, data, module.classes)
            if stream.replay:
                tensors["exemplars"] = stream.exemplars(self.members, stage)
            save_whole(path, tensors | module.record(network, self.audited))
        accuracy = load_file(path)["accuracy"].tolist()
        rows = int((self.members & (stream.task == stage)).sum())
        self.stages.append({"rows": rows, "accuracy": accuracy} | module.describe_stage())
        measured = {f"task-{number}/accuracy": share for number, share in enumerate(accuracy, 1)}
        # a regression takes no step, so its stages would be one point over `trainer/global_step`
        measured["stage"] = float(stage + 1)
        for logger in trainer.loggers:
            logger.log_metrics(measured, step=trainer.global_step)


@tf32(False)
@torch.inference_mode()
def record_stage(
    network: nn.Module, data: ImageDataModule, classes: list[list[int]]
) -> dict[str, Tensor]:
    """Outputs on the pool, and the accuracy of each task on the test split, by their name.

    Args:
        network: the network in evaluation mode and float32.
        data: the pool and the test split.
        classes: classes of each task.
    """

    def outputs(batches: Iterable[Batch]) -> Tensor:
        return torch.cat([network(batch.images).float().cpu() for batch in batches])

    correct = (outputs(data.test_batches()).argmax(1) == data.test.labels.cpu()).double()
    task = tasks_of(data.test.labels.cpu(), classes)
    shares = [correct[task == number].mean() for number in range(len(classes))]
    return {
        "outputs": outputs(data.pool_batches("identity")),
        "accuracy": torch.stack(shares),
    }
