"""Learners that solve a ridge regression for their head, without a gradient."""

import copy
from itertools import accumulate
from typing import Any, cast

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from continual.ridge import as_targets, check_gamma
from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from datamodules.seeds import derive_seed
from lightning_modules.float32 import tf32
from lightning_modules.headed import HeadedNetwork
from lightning_modules.headed_classifier import HeadedClassifier
from lightning_modules.options import CalibrationOptions
from lightning_modules.regressions import REGRESSIONS
from lightning_modules.ridge_head import RidgeHead, Rows
from lightning_modules.rounded_worlds import round_worlds
from lightning_modules.worlds import Pool, draw_worlds, expose, solve_members, solve_worlds
from quantization.variant import Variant


class AnalyticClassifier(HeadedClassifier):
    """A learner that sees each task once, in order, as ACIL and DS-AL do.

    The state of its regression is in float64, and so in checkpoints; the head is the weight in
    float32. After each task, ACIL's head is what a regression over all tasks so far would give.
    """

    def make_head(self, features: int) -> nn.Module:
        """A head without anything learnt."""
        options = self.continual.analytic
        self.regression = REGRESSIONS[self.continual.learner](options)
        self.state, self.energy = self.regression.start(), 0.0
        self.before = self.regression.inverse(self.state)  # R when the stage began
        return RidgeHead(features, options.buffer, self.num_classes, self.regression.compensated)

    @property
    def order(self) -> list[int]:
        """All classes in the order of the tasks, which is that of a regression's columns."""
        return [label for group in self.classes for label in group]

    @property
    def ends(self) -> list[int]:
        """Number of classes known after each task."""
        return list(accumulate(map(len, self.classes)))

    def targets(self, labels: Tensor) -> Float64[Tensor, "examples classes"]:
        """One-hot targets, with columns in the order of the tasks."""
        column = torch.tensor(self.order, device=labels.device).argsort()
        return as_targets(column[labels], self.num_classes)

    def begin_stage(self, stage: int) -> None:
        tensors = self.regression.pack(self.state)
        self.state = self.regression.unpack({k: v.to(self.device) for k, v in tensors.items()})
        self.before = self.regression.inverse(self.state)

    def learn(self, batch: Batch, number: int) -> None:
        """Learn from one batch: a step of SGD for a backbone, or the regression's update."""
        if self.pretraining:
            super().learn(batch, number)
            return
        rows = rows_of(self.network, batch)
        energy = self.energy + rows.joined().square().sum().item()
        if not energy < float("inf"):
            return  # the backbone diverged, which its outputs show
        self.energy = energy
        check_gamma(energy, self.continual.analytic.gamma)
        known, seen = [0, *self.ends][self.stage : self.stage + 2]
        targets = self.targets(batch.labels)[:, :seen]
        self.state = self.regression.update(self.state, rows, targets, known)

    def end_stage(self, stage: int) -> None:
        self.state = self.regression.finish(self.state, [0, *self.ends][stage])
        weight = self.regression.weight(self.state)
        cast(RidgeHead, self.network.head).fill(weight, self.order[: weight.shape[1]])

    def describe_stage(self) -> dict[str, Any]:
        columns = self.continual.analytic.buffer
        return {"columns": columns, "fewer_rows": self._served < columns}

    def record(self, network: nn.Module, audited: bool) -> dict[str, Tensor]:
        pool, stage = self._pool(cast(HeadedNetwork, network)), self.stage
        after, options = self.regression.inverse(self.state), self.continual.analytic
        if not pool.rows.features.isfinite().all():  # diverged, so there is nothing to solve for
            return {}
        tensors = expose(self.before, after, pool.rows.features, self._served)
        if audited:  # by its weight as it is released, in float32
            weight = cast(RidgeHead, network.head).output.weight.detach()[self.order].T.double()
            tensors |= solve_members(pool, weight, options.gamma, stage)
        if audited and options.worlds:
            members = draw_worlds(self.seed, options.worlds, len(pool.task))
            worlds = solve_worlds(self.regression, pool, members, stage)
            places = torch.tensor(self.order).argsort()
            worlds["world_outputs"] = worlds["world_outputs"][:, :, places]
            tensors |= worlds
        kept = ("world_members", "world_seconds")
        return {k: (v if k in kept else v.float()).cpu().contiguous() for k, v in tensors.items()}

    def round_worlds(
        self, variant: str, quantized: nn.Module, calibration: CalibrationOptions
    ) -> dict[str, Tensor]:
        """What heads of worlds output once they are rounded as a variant of this model is.

        Args:
            variant: its name.
            quantized: its network, in evaluation mode.
            calibration: images that a quantizer looks at, which a world draws among its own.
        """
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        device = next(quantized.parameters()).device
        trained = copy.deepcopy(self.network).float().eval().to(device)
        pool, seen = self._pool(trained), self._pool(cast(HeadedNetwork, quantized)).rows.features
        if not pool.rows.features.isfinite().all():  # diverged
            return {}
        members = draw_worlds(self.seed, self.continual.analytic.worlds, len(pool.task))
        # by a seed of their own: with the target's, both would draw the same of what both learnt
        count, seed = calibration.images, derive_seed(self.seed, "worlds", "calibration")
        images = [data.draw_calibration("members", own, count, seed) for own in members]
        parsed = Variant.parse(variant)
        worlds = round_worlds(self.regression, pool, seen, members, images, parsed)
        places = torch.tensor(self.order).argsort()
        return {name: t[:, :, places].cpu().contiguous() for name, t in worlds.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        state = self.regression.pack(self.state)
        checkpoint["regression"] = {"state": state, "energy": self.energy}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint["regression"]
        self.state, self.energy = self.regression.unpack(kept["state"]), kept["energy"]

    @property
    def _served(self) -> int:
        """Rows of this epoch's task."""
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return len(data.served(self.current_epoch))

    def _pool(self, network: HeadedNetwork) -> Pool:
        """The pool as the regression sees it."""
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        parts = [rows_of(network, batch) for batch in data.pool_batches("identity")]
        others = [part.other for part in parts if part.other is not None]
        rows = Rows(
            torch.cat([part.features for part in parts]), torch.cat(others) if others else None
        )
        device = rows.features.device
        targets = self.targets(data.pool.labels.to(device))
        return Pool(rows, targets, self.stream.task.to(device), self.ends)


@torch.no_grad()
@tf32(False)
def rows_of(network: HeadedNetwork, batch: Batch) -> Rows:
    """What a regression learns of a batch, in true float32 up to the random features."""
    with torch.autocast(batch.images.device.type, enabled=False):
        features = network.backbone(batch.images)
        return cast(RidgeHead, network.head).rows(features)
