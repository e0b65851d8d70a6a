"""When a network is quantized: once, after its training has ended."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from quantization.model import QuantizedNetwork, layer_bits, quantize_network
from quantization.storage import save_quantized
from quantization.variant import Variant


def save_variants(network: nn.Module, model_dir: Path, variants: Sequence[Variant]) -> None:
    """Write `model_dir/<variant>.safetensors` for each variant that has no file yet.

    No grid fits weights that diverged. Such a network is written as it is: its signals, which are
    not finite either, then tell what became of it, and the rest of the fleet goes on.
    """
    state = network.state_dict()
    for variant in variants:
        path = model_dir / f"{variant}.safetensors"
        if path.exists():
            continue
        if all(state[key].isfinite().all() for key in layer_bits(network, variant)):
            save_quantized(path, quantize_network(network, variant))
        else:
            save_quantized(path, QuantizedNetwork(variant, {}, state))


class Quantize(Callback):
    """Save the quantized variants of `pl_module.network` after a fit.

    In `on_fit_end`, and never in place: a weight changed in `on_train_end` can reach `last.ckpt`.
    """

    def __init__(self, model_dir: Path, variants: Sequence[Variant]) -> None:
        self.model_dir, self.variants = model_dir, variants

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        save_variants(pl_module.get_submodule("network"), self.model_dir, self.variants)
