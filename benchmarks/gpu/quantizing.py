"""Steps that quantize a ResNet-18: true float32, seconds, memory, and the forecast of a dry run."""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy
from torch.optim import SGD

from attacks.signals import signals
from benchmarks.gpu.noise import Noise
from benchmarks.gpu.step import require
from benchmarks.gpu.training import GPU, load, make_trainer
from lightning_modules.float32 import tf32
from lightning_modules.networks import build_network
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.rounding.adaround import Settings
from quantization.rounding.grid import find_grid
from quantization.rounding.obc import SPACE, batch_space, obc
from quantization.timing import estimate_seconds
from quantization.variant import Variant

IMAGES = 1024
OWN = ("nearest-w2", "adaround-w2", "brecq-w2", "gptq-w2")
PUBLISHED = ("adaround-w2-paper", "brecq-w2-paper")
FEW, MORE = 20, 120  # steps of a published loop
ROWS = 32  # of the layer that OBC quantizes

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What work returns, and its seconds on the GPU."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    made = work()
    torch.cuda.synchronize()
    return made, time.perf_counter() - started


def train() -> tuple[nn.Module, Noise]:
    """A ResNet-18 after an epoch, and its data."""
    data = load()
    data.trainer = make_trainer(1)
    network = build_network("resnet18", data.num_classes, 3, {}).to(GPU)
    network.to(memory_format=torch.channels_last)
    optimizer = SGD(network.parameters(), 0.05, 0.9)
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(network(batch.images), batch.labels))
        optimizer.step()
    return network.eval(), data


def calibration(data: Noise, images: int = IMAGES) -> Calibration:
    """The first images of the pool."""
    positions = torch.arange(images)
    shown = data.calibration_images("members", positions)
    return Calibration(shown, lambda _: shown, positions, "members", 0)


def precision() -> str:
    """Compare convolutions with float64, and signals with and without TF32."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 64, 16, 16, generator=generator).to(GPU)
    weight = torch.randn(64, 64, 3, 3, generator=generator).to(GPU)
    exact = conv2d(images.double(), weight.double(), padding=1)
    errors, phi = list[float](), list[Tensor]()
    network, data = train()
    batches = [batch for batch, _ in zip(data.pool_batches("identity"), range(8), strict=False)]
    for allowed in (False, True):
        with tf32(allowed), torch.inference_mode():
            error = (conv2d(images, weight, padding=1) - exact).abs().max() / exact.abs().max()
            errors.append(error.item())
            seen = (signals(network(b.images).cpu(), b.labels.cpu()) for b in batches)
            phi.append(torch.cat([record.phi for record in seen]))
    apart = (phi[0] - phi[1]).abs().max().item()
    with tf32(False):
        quantize_network(network, Variant.parse("adaround-w4-folded"), calibration(data, 256))
    text = (
        f"a convolution is off by {errors[0]:.1g} of its largest value in float32, {errors[1]:.1g} "
        f"in TF32; phi differs by at most {apart:.2g} nats; `adaround-w4-folded` was made"
    )
    return require(errors[0] < 1e-5 and apart < 0.05, text)


@tf32(False)
def quantize() -> str:
    """Time every method, and compare the published loops with their forecast."""
    network, data = train()
    images, lines, ratios = calibration(data), list[str](), list[float]()
    for name in OWN:
        torch.cuda.reset_peak_memory_stats()
        _, taken = timed(partial(quantize_network, network, Variant.parse(name), images))
        lines.append(f"{name} {taken:.1f} s, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    for name in PUBLISHED:
        whole, forecast = loop_seconds(network, Variant.parse(name), images)
        ratios.append(forecast / whole)
        lines.append(f"{name} {whole / 60:.1f} min, forecast {forecast / 60:.1f} min")
    text = "; ".join(lines)
    return require(all(0.5 <= ratio <= 2 for ratio in ratios), text)


def loop_seconds(network: nn.Module, variant: Variant, images: Calibration) -> tuple[float, float]:
    """Seconds of a published loop, from some of its steps, and by the forecast of a dry run."""
    settings = variant.paper_settings
    loop = (settings.loop if settings else None) or Settings()

    def run(steps: int) -> float:
        few = loop._replace(iterations=steps)
        return timed(partial(quantize_network, network, variant, images, None, few))[1]

    run(FEW)  # libraries choose their kernels on the first call
    short, long = run(FEW), run(MORE)
    whole = short + (loop.iterations - FEW) * (long - short) / (MORE - FEW)
    return whole, estimate_seconds(network, variant, images)


@tf32(False)
def greedy() -> str:
    """Quantize rows of a ResNet-18's widest layer by OBC: few at a time, as on a CPU, and many."""
    generator = torch.Generator().manual_seed(0)
    columns = 512 * 9
    weight = torch.randn(ROWS, columns, generator=generator).to(GPU)
    inputs = torch.randn(2 * columns, columns, generator=generator).to(GPU)
    hessian = (inputs.T @ inputs)[None]
    grid = find_grid(weight, 2, symmetric=False)
    together = max(1, batch_space(GPU) // columns**2)
    many, fast = timed(partial(obc, weight, grid, hessian))
    with patch("quantization.rounding.obc.batch_space", lambda _: SPACE):
        single, slow = timed(partial(obc, weight, grid, hessian))
    equal = (many == single).double().mean().item()
    text = (
        f"{ROWS} rows of {columns}: {fast:.1f} s at up to {together} together, {slow:.1f} s one by "
        f"one, {slow / fast:.1f} times; {equal:.2%} of the codes equal"
    )
    return require(slow >= 8 * fast and equal >= 0.99, text)
