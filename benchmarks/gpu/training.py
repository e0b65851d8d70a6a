"""Steps that train in this process: whether a step waits, and how fast it is."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch._C._autograd import DeviceType
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.noise import Noise
from benchmarks.gpu.step import require
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions

GPU = torch.device("cuda", 0)
WARM, TIMED = 60, 100  # steps
NETWORKS = ("resnet18", "resnet20", "convnet")


class Window(Callback):
    """Call `begin` before a step, and `end` before a later one.

    Args:
        first: number of the step before which to begin.
        last: number of the step before which to end.
        begin: called without arguments.
        end: called without arguments.
    """

    def __init__(
        self, first: int, last: int, begin: Callable[[], Any], end: Callable[[], Any]
    ) -> None:
        self.calls = {first: begin, last: end}

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        if batch_idx in self.calls:
            self.calls[batch_idx]()


def make_trainer(steps: int, *callbacks: Callback) -> Trainer:
    """A trainer of this many steps on the GPU, in bfloat16, that writes nothing."""
    return Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def load() -> Noise:
    """Images, half of which are members."""
    data = Noise()
    data.setup("fit")
    data.assign(torch.arange(data.pool_size) % 2 == 0, 1)
    return data


def ours(network: str, data: Noise, steps: int, window: Window) -> None:
    """Train by Lightning."""
    classifier = Classifier(data.num_classes, 3, 0, ModelOptions(network))
    make_trainer(steps, window).fit(classifier, datamodule=data)


def bare(network: str, data: Noise, steps: int, window: Window) -> None:
    """Train in a loop with nothing around it, on our batches and in the same arithmetic."""
    classifier = Classifier(data.num_classes, 3, 0, ModelOptions(network)).to(GPU)
    trainer = make_trainer(steps)
    data.trainer = trainer
    optimizer = SGD(classifier.parameters(), 0.1, 0.9, weight_decay=5e-4, fused=True)
    for number, batch in zip(range(steps), data.train_dataloader(), strict=False):
        window.on_train_batch_start(trainer, classifier, batch, number)
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = cross_entropy(classifier(batch.images), batch.labels)
        torch.autograd.backward(loss)
        optimizer.step()


def seconds(loop: Callable[..., None], network: str, data: Noise) -> float:
    """Seconds per step, after a warm-up."""
    times: list[float] = []

    def now() -> None:
        torch.cuda.synchronize()
        times.append(time.perf_counter())

    loop(network, data, WARM + TIMED + 1, Window(WARM, WARM + TIMED, now, now))
    return (times[1] - times[0]) / TIMED


def waits() -> str:
    """Train a ResNet-18, and let PyTorch raise if one of its steps 5 to 15 waits for the GPU."""
    mode = torch.cuda.set_sync_debug_mode
    window = Window(5, 16, lambda: mode("error"), lambda: mode("default"))
    try:
        ours("resnet18", load(), 20, window)
    finally:
        mode("default")
    return "no step waits"


def kernel_seconds(network: str, data: Noise, steps: int = 20) -> float:
    """Seconds per step in which the GPU computes or copies."""
    profiler = profile(activities=[ProfilerActivity.CUDA])

    def stop() -> None:
        torch.cuda.synchronize()
        profiler.stop()

    ours(network, data, WARM + steps + 1, Window(WARM, WARM + steps, profiler.start, stop))
    events = profiler.events() or []  # type: ignore[no-untyped-call]
    busy: list[float] = [
        event.time_range.elapsed_us()
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return sum(busy) / 1e6 / steps


def speed() -> str:
    """Samples per second of three networks by Lightning, and of a bare loop."""
    data, lines, ratios = load(), list[str](), list[float]()
    busy = dict[str, float]()
    for network in NETWORKS:
        rounds = [(seconds(ours, network, data), seconds(bare, network, data)) for _ in range(3)]
        own = median(pair[0] for pair in rounds)
        ratios.append(median(loop / by_lightning for by_lightning, loop in rounds))
        busy[network] = kernel_seconds(network, data) / own
        lines.append(
            f"{network} {data.batch_size / own:,.0f} samples/s, {ratios[-1]:.2f} of the bare loop, "
            f"GPU busy {busy[network]:.0%}"
        )
    # small networks are bound by the launches of the CPU, whatever surrounds the loop
    return require(ratios[0] >= 0.95 and busy["resnet18"] >= 0.9, "; ".join(lines))
