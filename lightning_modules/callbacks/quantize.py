"""When a network is quantized: once, after its training has ended."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from quantization.calibration import Calibration, DivergedError
from quantization.quantize import quantize_network
from quantization.quantized_network import QuantizedNetwork, layer_bits
from quantization.rounding.grid import Bits
from quantization.variant import Variant
from storage.weights import save_quantized

Calibrate = Callable[[Variant], Calibration]


def save_variant(
    network: nn.Module,
    path: Path,
    variant: Variant,
    calibrate: Calibrate,
    patterns: Mapping[str, Bits],
) -> None:
    """Write one variant to `path`, and beside it, as JSON, what became of each layer.

    No grid fits weights that diverged. Such a network is written as it is: its signals, which are
    not finite either, then tell what became of it, and the rest of the fleet goes on.
    """
    state = network.state_dict()
    calibration = calibrate(variant) if variant.calibrates else None
    try:
        if not all(state[key].isfinite().all() for key in layer_bits(network, variant, patterns)):
            raise DivergedError
        quantized, record = quantize_network(network, variant, calibration, patterns)
    except DivergedError:
        save_quantized(path, QuantizedNetwork(variant, {}, state))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.partial")
    try:
        partial.write_text(json.dumps(record.as_json(calibration)))
        os.replace(
            partial, path.with_suffix(".json")
        )  # first, so that with the weights it is there
    finally:
        partial.unlink(missing_ok=True)
    save_quantized(path, quantized)


class Quantize(Callback):
    """Save the quantized variants of `pl_module.network` after a fit, those that have no file yet.

    In `on_fit_end`, and never in place: a weight changed in `on_train_end` can reach `last.ckpt`.

    Args:
        model_dir: where the files go, `<variant>.safetensors` and `<variant>.json`.
        variants: what to make.
        calibrate: the images for a variant that looks at some.
        patterns: bits of some layers by the pattern of their names.
        note: told which variant is begun.
    """

    def __init__(
        self,
        model_dir: Path,
        variants: Sequence[Variant],
        calibrate: Calibrate,
        patterns: Mapping[str, Bits],
        note: Callable[[str], None],
    ) -> None:
        self.model_dir, self.variants, self.note = model_dir, variants, note
        self.calibrate, self.patterns = calibrate, patterns

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = pl_module.get_submodule("network")
        home = next(network.parameters()).device
        network.to(trainer.strategy.root_device)  # Lightning has moved it back to the CPU by now
        for variant in self.variants:
            path = self.model_dir / f"{variant}.safetensors"
            if not path.exists():
                self.note(str(variant))
                save_variant(network, path, variant, self.calibrate, self.patterns)
        network.to(home)
