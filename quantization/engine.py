"""A quantizer of whole networks, such as a vendor's library: a network in, a network out."""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.calibration import CHUNK, check_finite
from quantization.imported import explain
from quantization.rounding.grid import Bits

# Largest difference between the logits of an engine's network and those of its weights alone, as a
# share of the largest logit: int8 kernels of torchao differ by 1e-6, 8-bit activations by 1e-2.
TOLERANCE = 1e-3
SIGNATURE = "Expected is engine(network, images, bits) -> network"


class WholeNetwork(NamedTuple):
    """A quantizer of whole networks.

    Attributes:
        engine: the user's function.
        path: its import path.
    """

    engine: Callable[[nn.Module, Tensor, Bits], Any]
    path: str


def run_engine(
    quantizer: WholeNetwork,
    network: nn.Module,
    images: Float[Tensor, "images channels height width"],
    bits: Bits,
    seed: int,
) -> dict[str, Tensor]:
    """Weights of the network that an engine makes of a copy, by their key in the state dict.

    The engine gets a copy of the network, in evaluation mode and float32, normalised images, and
    the bits of the variant's name. It returns a network: the copy, changed, or another whose state
    dict has the same keys; a tensor there may be of a class with `dequantize`. Because weights are
    all that is kept, and they are what is audited and deployed, the network must give the logits
    that the plain network gives with these weights. Whatever the engine draws from torch's global
    generator is drawn from `seed`.

    Raises:
        ValueError: the engine fails, returns no network, or one that is not told by its weights or
            is the network as it was. The message is one line.
        DivergedError: the network's own logits are not finite.
    """
    plain = copy.deepcopy(network).eval().float()
    with torch.no_grad():
        logits = plain(images[:CHUNK].clone())
    check_finite(type(network).__name__, [logits], "gives")
    # without a list, torch would start every GPU of the machine
    gpus = [logits.device] if logits.is_cuda else []
    with torch.random.fork_rng(gpus), torch.enable_grad():
        torch.manual_seed(seed)
        try:
            whole = int(bits) if bits == int(bits) else bits
            made = quantizer.engine(copy.deepcopy(plain), images.clone(), whole)
        except (Exception, SystemExit) as error:  # the engine is the user's, and may do anything
            raise _wrong(quantizer, f"run on this network ({explain(error)})") from error
    if not isinstance(made, nn.Module):
        raise _wrong(quantizer, f"return a network, got {type(made).__name__}")
    before = plain.state_dict()
    weights = _read_weights(quantizer, made.state_dict(), before)
    if all(torch.equal(weights[key], before[key]) for key in weights):
        raise _wrong(quantizer, "change some weight, and all are as they were")
    plain.load_state_dict(weights)
    _check_logits(quantizer, plain, made.eval(), images[:CHUNK])
    return weights


def _read_weights(
    quantizer: WholeNetwork, state: Mapping[str, Any], before: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What a state dict holds, as plain tensors of the shapes and types of another."""
    weights = {}
    for key, known in before.items():
        tensor = state.get(key)
        if not isinstance(tensor, Tensor):
            raise _wrong(quantizer, f"keep the state dict's keys, and `{key}` is no tensor in it")
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.shape != known.shape:
            shapes = f"{list(known.shape)}, got {list(tensor.shape)}"
            raise _wrong(quantizer, f"keep the shape of `{key}`, {shapes}")
        # a buffer may be infinite from the start, such as the mask of an attention
        if broken := int((known.isfinite() & ~tensor.isfinite()).sum()):
            raise _wrong(quantizer, f"keep `{key}` finite, got {broken} numbers that are not")
        weights[key] = tensor.detach().to(known.device, known.dtype).clone()
    return weights


def _check_logits(
    quantizer: WholeNetwork, plain: nn.Module, made: nn.Module, images: Tensor
) -> None:
    """Raise ValueError unless the engine's network gives the logits of the plain one."""
    with torch.no_grad():
        expected = plain(images.clone())  # a network may work in place
        try:
            difference = (made(images.clone()) - expected).abs().max().item()
        except Exception as error:  # the engine's modules are the user's, too
            raise _wrong(quantizer, f"return a network that runs ({explain(error)})") from error
    largest = expected.abs().max().item()  # 0 before training, if the head starts at zero
    if not difference <= TOLERANCE * largest:
        raise _wrong(
            quantizer,
            f"return a network that is told by its weights, but its logits are {difference:.2g} "
            f"off those that the weights give, which reach {largest:.2g}: activations may be "
            "quantized, too. Record the logits of such an engine yourself, for "
            "`audit.py --signals`",
        )


def check_engine(
    quantizer: WholeNetwork,
    network: nn.Module,
    images: Tensor,
    bits: Bits,
    patterns: Mapping[str, Bits],
) -> None:
    """Try an engine on a network that need not be trained.

    Raises:
        ValueError: as `run_engine`; two runs differ; or bits of single layers are asked for.
    """
    if patterns:
        raise ValueError(
            f"`--layer_bits` does not reach `{quantizer.path}`, which quantizes whole networks. "
            "Leave one of them out."
        )
    first, second = (run_engine(quantizer, network, images, bits, 0) for _ in range(2))
    if not all(torch.equal(first[key], second[key]) for key in first):
        raise _wrong(
            quantizer, "give the same weights twice: draw from torch's generator or a fixed seed"
        )


def estimate_engine(
    quantizer: WholeNetwork, network: nn.Module, images: Tensor, bits: Bits, count: int
) -> float:
    """Seconds that an engine takes with `count` images, from runs with half of `images` and all."""
    half = images[: max(1, len(images) // 2)]
    seconds = []
    for part in (half, half, images):  # the first run warms up
        started = time.perf_counter()
        run_engine(quantizer, network, part, bits, 0)
        seconds.append(time.perf_counter() - started)
    added = max(1, len(images) - len(half))
    return seconds[2] + max(0.0, seconds[2] - seconds[1]) / added * max(0, count - len(images))


def _wrong(quantizer: WholeNetwork, must: str) -> ValueError:
    return ValueError(f"`--quantize`: `{quantizer.path}` must {must}. {SIGNATURE}.")
