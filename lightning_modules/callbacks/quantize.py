"""The callback that quantizes a network, once, after its training has ended."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Bool
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from attacks.game import FULL
from datamodules.images import ImageDataModule
from datamodules.seeds import derive_seed
from datamodules.tasks import TaskStream
from lightning_modules.callbacks.peers import share
from lightning_modules.float32 import tf32
from lightning_modules.options import CalibrationOptions
from quantization.calibration import Calibration, DivergedError
from quantization.cost import count_layers, describe_cost
from quantization.mixed_options import MixedOptions
from quantization.quantize import quantize_network
from quantization.quantized_network import QuantizedNetwork, layer_bits
from quantization.rounding.grid import Bits
from quantization.shared import Shared
from quantization.variant import Variant, wanted
from storage.files import write_text
from storage.names import is_snapshot, of_snapshot, task_number
from storage.weights import load_into, load_quantized, save_quantized

Calibrate = Callable[[Variant], Calibration]


def calibrate(
    data: ImageDataModule,
    options: CalibrationOptions,
    members: Bool[Tensor, " examples"],
    seed: int,
    variant: Variant,
) -> Calibration:
    """Draw the images that a variant of one model looks at.

    Args:
        data: the data set to draw from.
        options: number of images, and of rounds of augmentation.
        members: the examples that the model trained on.
        seed: the model's seed; it fixes the draw and everything random in the quantization.
        variant: names the part of the data, and sets the number of images if it is the paper's.

    Raises:
        ValueError: there are no images to draw.
    """
    source = variant.calibration
    count, rounds = wanted(variant, options.images, options.rounds)
    indices = data.draw_calibration(source, members, count, seed)

    def augmented(round_number: int) -> Tensor:
        augment_seed = derive_seed(seed, "calibration", source, round_number)
        return data.calibration_images(source, indices, augment_seed)

    images = augmented(0) if rounds else data.calibration_images(source, indices)
    return Calibration(images, augmented, indices, source, seed, rounds)


class Common(NamedTuple):
    """What all variants of one model have in common.

    Attributes:
        image: an image as the network takes it, whose content does not matter.
        shared: what one variant leaves to the next.
        seed: the model's seed.
        patterns: bits of some layers, by a pattern of their names.
        mixed: how variants choose bits.
    """

    image: Tensor
    shared: Shared
    seed: int = 0
    patterns: Mapping[str, Bits] = {}
    mixed: MixedOptions = MixedOptions()


def save_variant(
    network: nn.Module, path: Path, variant: Variant, draw: Calibrate, common: Common
) -> None:
    """Write one variant to `path`, and the record of its layers and cost beside it, as JSON.

    No grid fits weights that diverged. Such a network is written unchanged: its signals, which are
    not finite either, show that it diverged, and the rest of the fleet goes on.
    """
    image, shared, seed, patterns, mixed = common
    state = network.state_dict()
    calibration = draw(variant) if variant.calibrates else None
    try:
        parameters = (key for key, _ in network.named_parameters())
        keys = parameters if variant.engine else layer_bits(network, variant, patterns)
        if not all(state[key].isfinite().all() for key in keys):
            raise DivergedError
        solved = _load_base(path, variant)
        quantized, record = quantize_network(
            network, variant, calibration, patterns, None, shared, seed, solved, mixed
        )
    except DivergedError:
        save_quantized(path, QuantizedNetwork(variant, {}, state))
        return
    # the record first, so that quantized weights never lack one
    layers = shared.once("layers", partial(count_layers, network, image))
    cost = describe_cost(layers, quantized, mixed.batch)
    text = json.dumps(record.as_json(calibration) | {"cost": cost})
    write_text(path.with_suffix(".json"), text)
    save_quantized(path, quantized)


def _load_base(path: Path, variant: Variant) -> QuantizedNetwork | None:
    """The quantized network that a control belongs to, if it was made before."""
    # An earlier fit leaves nothing but the file. `Shared` hands a base on where there is no file
    # yet: to several controls of one that was not asked for, and to one that comes after them.
    file = path.with_name(f"{path.stem.removesuffix(str(variant))}{variant.base}.safetensors")
    if not variant.is_control or not file.exists():
        return None
    base = load_quantized(file)
    return base if base.weights else None  # it has none if the network diverged


class Quantize(Callback):
    """Save those quantized variants of `pl_module.network` that have no file yet, after a fit.

    In `on_fit_end`, and never in place: a weight changed in `on_train_end` can reach `last.ckpt`.
    Each process of a fit saves its share of them.

    Args:
        model_dir: folder for the files, `<variant>.safetensors` and `<variant>.json`.
        variants: names of all variants, `full` and snapshots too, so that shares are those of the
            signals.
        options: images that a quantizer looks at.
        members: the examples that the model trained on.
        seed: the model's seed.
        patterns: bits of some layers, by a pattern of their names.
        note: called with the name of each variant when its quantization begins.
        mixed: how variants choose bits.
        stream: what a learner of tasks was served; None of others. Its snapshots are quantized with
            what was at hand in their stage.
    """

    def __init__(
        self,
        model_dir: Path,
        variants: Sequence[str],
        options: CalibrationOptions,
        members: Bool[Tensor, " examples"],
        seed: int,
        patterns: Mapping[str, Bits],
        note: Callable[[str], None],
        mixed: MixedOptions,
        stream: TaskStream | None = None,
    ) -> None:
        self.stream = stream
        self.model_dir, self.variants, self.note, self.mixed = model_dir, variants, note, mixed
        self.options, self.members, self.seed, self.patterns = options, members, seed, patterns

    @tf32(False)
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        network = pl_module.get_submodule("network")
        home = next(network.parameters()).device
        network.to(trainer.strategy.root_device)  # Lightning has already moved it back to the CPU
        image = next(data.test_batches()).images[:1]
        end = Shared()
        for snapshot, names in groupby(share(trainer, self.variants), _snapshot_of):
            missing = [name for name in names if self._lacks(name)]
            if not missing:
                continue
            # what variants of one network share is freed after them
            shared = Shared() if snapshot else end
            common = Common(image, shared, self.seed, self.patterns, self.mixed)
            state = network
            if snapshot:
                state = load_into(copy.deepcopy(network), self._path(snapshot))
            for name in missing:
                self.note(name)
                variant = Variant.parse(name.removeprefix(f"{snapshot}-"))
                members = self._at_hand(snapshot, variant)
                draw = partial(calibrate, data, self.options, members, self.seed)
                save_variant(state, self._path(name), variant, draw, common)
        network.to(home)

    def _lacks(self, name: str) -> bool:
        return name != FULL and not is_snapshot(name) and not self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self.model_dir / f"{name}.safetensors"

    def _at_hand(self, snapshot: str, variant: Variant) -> Bool[Tensor, " examples"]:
        """The row of membership from which calibration images are drawn."""
        if self.stream is None or not snapshot:
            return self.members
        stage = task_number(snapshot) - 1
        return self.stream.at_hand(self.members, stage, variant.calibration)


def _snapshot_of(name: str) -> str:
    """The snapshot that a variant is, or is made of; none of those at the end of training."""
    parts = of_snapshot(name)
    return parts.snapshot if parts else name if is_snapshot(name) else ""
