"""The options of one fit, as the command line has them.

Plain classes that need no import of torch or Lightning, so that `--help` answers at once.
"""

from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal[
    "64-true", "32-true", "16-true", "16-mixed", "bf16-true", "bf16-mixed",
    "transformer-engine", "transformer-engine-float16", "64", "32", "16", "bf16", 64, 32, 16,
]  # fmt: skip


@dataclass(frozen=True)
class ModelOptions:
    """What every model of a fleet is, and how SGD trains it.

    Args:
        network: a name (resnet18, resnet20, resnet8, wide_resnet28_2, convnet) or your own module's
            import path, `package.module.Class`.
        network_args: further keyword arguments of the network.
        lr: highest learning rate of SGD.
        momentum: momentum of SGD.
        weight_decay: L2 penalty of SGD on every parameter.
        schedule: learning rate over the whole fit, by step: `cosine` to zero, or `one-cycle`.
        compile: train through `torch.compile`; on CPUs it gained nothing and took half a minute.
    """

    network: str = "resnet18"
    network_args: dict[str, Any] | None = None
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    compile: bool = False


@dataclass(frozen=True)
class CalibrationOptions:
    """Which images a quantizer looks at; the variant's name says from which part of the data.

    Args:
        images: largest number of images; all of that part where there are fewer.
        rounds: how often they are augmented anew, as training does; `obc` and `-bn` see all rounds,
            other methods the first. With 0 they are shown as they are.

    Raises:
        ValueError: a count that is too small.
    """

    images: int = 1024
    rounds: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that draw nothing."""
        if self.images < 1:
            raise ValueError(f"`calibration.images` must be 1 or more, got {self.images}.")
        if self.rounds < 0:
            raise ValueError(
                f"`calibration.rounds` must be 0 (as they are) or more, got {self.rounds}."
            )


@dataclass(frozen=True)
class TrainerOptions:
    """Options of Lightning's Trainer; the others are ours (callbacks, checkpoints) or skip data.

    Args:
        accelerator: `cpu`, `gpu`, or `auto` for the best that this machine has.
        strategy: how one model spans devices, such as `ddp`.
        devices: how many devices train a model together, or which.
        num_nodes: how many machines train a model together.
        precision: of the arithmetic, such as `32-true` or `bf16-mixed`.
        max_epochs: length of training.
        check_val_every_n_epoch: epochs between two passes over the test split.
        accumulate_grad_batches: batches per optimizer step.
        gradient_clip_val: largest norm or value of a gradient; null for no limit.
        gradient_clip_algorithm: `norm` (the default) or `value`.
        deterministic: whether to use deterministic kernels only.
        benchmark: whether cuDNN tries which kernels are fastest.
        sync_batchnorm: whether BatchNorm's statistics span the devices of a model.
    """

    accelerator: str = "auto"
    strategy: str = "auto"
    devices: int | str | list[int] = "auto"
    num_nodes: int = 1
    precision: Precision | None = None
    max_epochs: int | None = None
    check_val_every_n_epoch: int | None = 1
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    sync_batchnorm: bool = False
