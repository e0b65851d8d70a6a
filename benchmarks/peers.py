"""Quantize a ResNet-20 with brevitas' or AIMET's AdaRound, to compare with BitLeak's quantizers.

Each peer needs its own packages, so this runs under its Python and exchanges files with ours:

    python3.11 -m venv /tmp/peers-brevitas
    /tmp/peers-brevitas/bin/pip install torch==2.14.1 torchvision==0.29.1
    /tmp/peers-brevitas/bin/pip install brevitas==0.13.4 accelerate tqdm jaxtyping
    python3.11 -m venv /tmp/peers-aimet
    /tmp/peers-aimet/bin/pip install torch==2.14.1 torchvision==0.29.1
    /tmp/peers-aimet/bin/pip install aimet-torch==2.42.0 jaxtyping

    OMP_NUM_THREADS=1 TQDM_DISABLE=1 /tmp/peers-aimet/bin/python benchmarks/peers.py --peer aimet \
        --input calibration.pt --output quantized.pt --bits 2 --iterations 1000

The input is `torch.save({"images": normalized float32 images, "state_dict": ...})`. The output has
the same keys in `state_dict`, with every weight on the grid of its row. BatchNorm is folded into
the weights first, as both peers do, and only its shift remains.
"""

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.pop(0)  # this folder, where statistics.py would hide the standard library's
sys.path.insert(0, str(Path(__file__).parents[1]))  # BitLeak is not installed beside the peer
from lightning_modules.architectures import resnet20

BATCH = 32  # AIMET's, where it is fixed, and the paper's; brevitas' default is 1
Weights = dict[str, Tensor]


def brevitas_adaround(
    network: nn.Module, images: Tensor, bits: float, iterations: int
) -> tuple[Weights, str]:
    """Quantize with brevitas' learned rounding layer by layer; the network changes in place."""
    from brevitas_examples.common.learned_round import learned_round_trainer as trainer
    from brevitas_examples.imagenet_classification.ptq import learned_round_utils as vision

    network, notes = _brevitas_network(network, bits)
    chosen = argparse.Namespace(
        learned_round="hard_sigmoid",
        learned_round_loss="regularised_mse",
        learned_round_lr=1e-3,
        learned_round_lr_scheduler=None,
        learned_round_batch_size=BATCH,
        learned_round_iters=iterations,
    )
    config = vision.parse_args_to_dataclass(chosen)
    config.training_args.use_amp = False  # or float16 on the CPU
    # By default the regulariser's schedule takes 1,000 iterations, however many are run.
    config.training_args.losses_args[0].kwargs["max_count"] = iterations
    trainer.LearnedRoundTrainer(config).train(
        model=network,
        model_forward=vision.vision_forward,
        block_forward=vision.vision_block_forward,
        data_loader=DataLoader(TensorDataset(images, images), BATCH),  # the second is not read
        cache=vision.CacheVision(),
        get_blocks_fn=lambda model: trainer.get_blocks(model, vision.is_layer),
    )
    layers = {name: m for name, m in network.eval().named_modules() if vision.is_layer(m, name)}
    return {f"{name}.weight": layer.quant_weight().value for name, layer in layers.items()}, notes


def _brevitas_network(network: nn.Module, bits: float) -> tuple[nn.Module, str]:
    """Replace the layers by brevitas' own, which round to nearest; also describe the grid."""
    from brevitas import nn as quant
    from brevitas.core.quant import IntQuant
    from brevitas.core.zero_point import _ScaleShiftZeroPoint
    from brevitas.graph.quantize import layerwise_quantize
    from brevitas.quant import scaled_int, shifted_scaled_int

    if bits == 1.58:
        grid = scaled_int.Int8WeightPerChannelFloatMSE.let(bit_width=2, narrow_range=True)
        notes = "symmetric grid {-1, 0, 1}, scale by MSE"
    else:
        # Its default applies learned rounding to the zero point too: another one for every weight.
        nearest = IntQuant(narrow_range=False, signed=False, input_view_impl=nn.Identity())
        zero = _ScaleShiftZeroPoint(nearest, quantize_zero_point=True)
        grid = shifted_scaled_int.ShiftedUint8WeightPerChannelFloatMSE.let(
            bit_width=int(bits), scale_shift_zero_point_impl=zero
        )
        notes = "asymmetric grid by MSE, its zero points rounded to the nearest by us"
    options = {"weight_quant": grid, "return_quant_tensor": False}  # no activations
    layers = {nn.Conv2d: (quant.QuantConv2d, options), nn.Linear: (quant.QuantLinear, options)}
    return layerwise_quantize(network, layers), notes


def aimet_adaround(
    network: nn.Module, images: Tensor, bits: float, iterations: int
) -> tuple[Weights, str]:
    """Quantize with `Adaround.apply_adaround`, and harden the soft weights that it returns."""
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters

    if bits == 1.58:
        raise ValueError("AIMET has no ternary grid, got `--bits 1.58`. Use 2 or 4, or brevitas.")
    params = {"is_quantized": "True", "is_symmetric": "False"}
    asymmetric = {
        "defaults": {"ops": {}, "params": params, "per_channel_quantization": "True"},
        "params": {"bias": {"is_quantized": "False"}},
    } | {"op_type": {}, "supergroups": [], "model_input": {}, "model_output": {}}
    batches: DataLoader[Tensor] = DataLoader(images, BATCH)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        (config := Path(folder) / "config.json").write_text(
            json.dumps(asymmetric), encoding="utf-8"
        )
        soft = Adaround.apply_adaround(
            *(network, images[:1], AdaroundParameters(batches, len(batches), iterations)),
            *(folder, "weights"),
            default_param_bw=int(bits),
            default_config_file=str(config),
        )
        grids = json.loads((Path(folder) / "weights.encodings").read_text(encoding="utf-8"))[
            "param_encodings"
        ]
    hard = {key: _on_grid(soft.state_dict()[key], grid) for key, grid in grids.items()}
    return hard, "asymmetric grid, by AIMET's tf_enhanced"


def _on_grid(weight: Tensor, rows: list[dict[str, float]]) -> Tensor:
    """The nearest values of each row's grid, to which AIMET's own simulation rounds."""
    grid = torch.tensor([[row["scale"], row["offset"]] for row in rows])
    scale, offset = grid.view(-1, 2, *[1] * (weight.dim() - 1)).unbind(1)
    codes = ((weight / scale).round() - offset).clamp(0, 2 ** rows[0]["bitwidth"] - 1)
    return (codes + offset) * scale


PEERS = {"brevitas": brevitas_adaround, "aimet": aimet_adaround}


def fold(network: nn.Module) -> Weights:
    """Fold every BatchNorm into the convolution before it, in place.

    Returns:
        What remains of the BatchNorms in an unfolded network: the identity and a shift.
    """
    left = {}
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        convolution = name.replace("bn", "conv").replace("downsample.1", "downsample.0")
        layer = network.get_submodule(convolution)
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"{name} must follow a convolution, got {type(layer).__name__}.")
        folded = nn.utils.fusion.fuse_conv_bn_eval(layer, norm)
        network.set_submodule(convolution, folded)
        network.set_submodule(name, nn.Identity())
        one = torch.ones_like(norm.get_buffer("running_var"))
        left[f"{name}.weight"], left[f"{name}.running_var"] = one, one - norm.eps
        left[f"{name}.running_mean"] = torch.zeros_like(one)
        left[f"{name}.bias"] = folded.get_parameter("bias")
    return left


def run(peer: str, given: dict[str, Any], bits: float, iterations: int) -> dict[str, Any]:
    """Quantize, time it, and check the weights."""
    state, images = given["state_dict"], given["images"]
    network = resnet20(len(state["fc.bias"]), images.shape[1])
    network.load_state_dict(state)
    logits = network.eval()(images[:BATCH])
    shifts = fold(network)
    torch.testing.assert_close(network(images[:BATCH]), logits, rtol=1e-4, atol=1e-4)
    cpu, wall = time.process_time(), time.perf_counter()
    weights, notes = PEERS[peer](network, images, bits, iterations)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    levels = 3 if bits == 1.58 else 2 ** int(bits)
    for key, weight in weights.items():
        most = max(len(row.unique()) for row in weight.flatten(1))
        if most > levels:
            raise RuntimeError(f"{key} must have {levels} values a row, got {most}.")
    package = {"aimet": "aimet-torch"}.get(peer, peer)
    versions = f"{package} {version(package)}, torch {torch.__version__}"
    new = {key: value.detach().clone() for key, value in (state | shifts | weights).items()}
    return {
        "state_dict": new,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "iterations": iterations,
        "notes": f"{versions}; {notes}; first and last layer as all others; BatchNorm folded",
    }


def main() -> None:
    """Read the command line and the input, and write the output."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--bits", type=float, choices=[4, 2, 1.58], required=True)
    parser.add_argument("--iterations", type=int, required=True, help="of Adam, for every layer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = run(args.peer, torch.load(args.input), args.bits, args.iterations)
    torch.save(result, args.output)
    print(f"{result['cpu_seconds']:.1f} CPU s, {result['wall_seconds']:.1f} s: {result['notes']}")


if __name__ == "__main__":
    main()
