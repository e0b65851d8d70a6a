"""The options of one fit, as on the command line.

Importing them imports neither torch nor Lightning, so that `--help` answers at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Literal

Precision = Literal[
    "64-true", "32-true", "16-true", "16-mixed", "bf16-true", "bf16-mixed",
    "transformer-engine", "transformer-engine-float16", "64", "32", "16", "bf16", 64, 32, 16,
]  # fmt: skip
PruneMethod = Literal["ocs", "magnitude", "random", "init"]


@dataclass(frozen=True)
class DpOptions:
    """Differential privacy by DP-SGD (docs/dp.md); off unless a noise or an epsilon is given.

    Args:
        noise: standard deviation of the noise on a step's sum of gradients, in units of `clip`.
        epsilon: upper bound on epsilon after all epochs, for which the noise is solved.
        delta: probability with which the bound may fail; by default the largest power of ten below
            1 / members.
        clip: norm to which the gradient of each example is clipped.

    Raises:
        ValueError: a number is out of range, or two options contradict each other.
    """

    noise: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    clip: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that prove nothing."""
        for name, value in (("noise", self.noise), ("epsilon", self.epsilon), ("clip", self.clip)):
            if value is not None and not 0 < value < inf:
                way_out = (
                    " Without noise nothing is private; leave it out." if name == "noise" else ""
                )
                raise ValueError(f"`model.dp.{name}` must be above 0, got {value:g}.{way_out}")
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError(f"`model.dp.delta` must be between 0 and 1, got {self.delta:g}.")
        if self.noise is not None and self.epsilon is not None:
            raise ValueError(
                "`model.dp.noise` and `model.dp.epsilon` follow from each other, got "
                f"{self.noise:g} and {self.epsilon:g}. Leave out one of them."
            )
        for name, given in (("delta", self.delta is not None), ("clip", self.clip != 1.0)):
            if given and not self.on:
                raise ValueError(
                    f"`model.dp.{name}` needs `--model.dp.noise` or `--model.dp.epsilon`, got "
                    "neither."
                )

    @property
    def on(self) -> bool:
        """Whether models are trained by DP-SGD."""
        return self.noise is not None or self.epsilon is not None


@dataclass(frozen=True)
class PruneOptions:
    """Structured pruning within the epochs of training (docs/channel_pruning.md).

    Args:
        method: `ocs` shrinks the channels with the smallest weights until they are the same from
            epoch to epoch, and cuts them; `magnitude` cuts them at one epoch, `random` cuts others,
            and `init` cuts before the first step. `--prune ocs` is short for it.
        remove: share of the multiply-accumulates to remove.
        start: share of the epochs after which `ocs` begins to select and shrink channels.
        cut: share of the epochs after which channels are cut, by `ocs` at the latest (default: 0.4;
            0.7 by `magnitude` and `random`).
        strength: group penalty of `ocs` on each weight of a selected channel, in units of the
            weights, just before the latest cut; it grows from epoch to epoch.

    Raises:
        ValueError: a number is out of range, or an option is not of this method.
    """

    method: PruneMethod | None = None
    remove: float = 0.5
    start: float = 0.1
    cut: float | None = None
    strength: float = 0.03

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to do, and options that nothing reads."""
        for name, share in (("remove", self.remove), ("start", self.start), ("cut", self.cut)):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"`prune.{name}` must be between 0 and 1, got {share:g}.")
        if not 0 < self.strength < inf:
            raise ValueError(
                f"`prune.strength` must be above 0, got {self.strength:g}. `--prune magnitude` "
                "cuts channels without shrinking them first."
            )
        readers: dict[str, tuple[PruneMethod, ...]] = {
            "remove": ("ocs", "magnitude", "random", "init"),
            "cut": ("ocs", "magnitude", "random"),
            "start": ("ocs",),
            "strength": ("ocs",),
        }
        for name, methods in readers.items():
            if self.method not in methods and getattr(self, name) != PRUNE_DEFAULTS[name]:
                raise ValueError(
                    f"`prune.{name}` needs {' or '.join(f'`--prune {m}`' for m in methods)}, got "
                    f"{self.method or 'no method'}. Leave it out, or choose such a method."
                )

    def epochs(self, total: int) -> tuple[int, int]:
        """Epochs after which channels are first selected, and after which they are cut at last.

        Args:
            total: epochs of a fit.

        Raises:
            ValueError: no epoch is left before or after the cut.
        """
        if self.method == "init":
            return 0, 0
        share = self.cut or (0.4 if self.method == "ocs" else 0.7)
        last = round(share * total)
        first = max(1, round(self.start * total)) if self.method == "ocs" else last
        if not 1 <= first <= last < total or (self.method == "ocs" and first == last):
            raise ValueError(
                f"`--prune {self.method}` needs epochs before the cut and after it, got selection "
                f"from epoch {first} and the cut after epoch {last} of {total} "
                "(`--trainer.max_epochs`). Train longer, or change `--prune.cut`."
            )
        return first, last


PRUNE_DEFAULTS = {field.name: field.default for field in fields(PruneOptions)}


@dataclass(frozen=True)
class ModelOptions:
    """The network of every model in a fleet, and how SGD trains it.

    Args:
        network: a name (resnet18, resnet50, densenet121, resnet20, resnet8, resnet8_gn,
            wide_resnet28_2, convnet, convnet_gn, mlp; _gn has GroupNorm instead of BatchNorm) or
            the import path of your own module, `package.module.Class`.
        network_args: further keyword arguments of the network.
        lr: highest learning rate of SGD.
        momentum: momentum of SGD.
        weight_decay: L2 penalty of SGD on every parameter.
        label_smoothing: share of the label that is spread evenly over all classes in training.
        schedule: learning rate by step over the whole fit: `cosine` to zero, or `one-cycle`.
        compile: train through `torch.compile`; on CPUs it gained nothing and cost half a minute.
        tf32: let GPUs round the factors of float32 products to 10 bits in training, which is
            faster; signals and quantization are computed in true float32 all the same.
        dp: differential privacy.

    Raises:
        ValueError: the smoothing leaves nothing of the label.
    """

    network: str = "resnet18"
    network_args: dict[str, Any] | None = None
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    compile: bool = False
    tf32: bool = False
    dp: DpOptions = DpOptions()

    def __post_init__(self) -> None:
        """Refuse a label that says nothing."""
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"`model.label_smoothing` must be 0 (none) to below 1, got {self.label_smoothing}."
            )

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> "ModelOptions":
        """Make options of plain values, nested as on the command line."""
        return cls(**{**options, "dp": DpOptions(**options["dp"])})


@dataclass(frozen=True)
class CalibrationOptions:
    """Images that a quantizer looks at; a variant's name says from which part of the data.

    Args:
        images: largest number of images; if the part has fewer, all of them.
        rounds: number of times the images are augmented anew, as in training; `obc` and `-bn` see
            all rounds, other methods the first. With 0 they are not augmented.

    Raises:
        ValueError: a count is too small.
    """

    images: int = 1024
    rounds: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that draw no images."""
        if self.images < 1:
            raise ValueError(f"`calibration.images` must be 1 or more, got {self.images}.")
        if self.rounds < 0:
            raise ValueError(
                f"`calibration.rounds` must be 0 (not augmented) or more, got {self.rounds}."
            )


@dataclass(frozen=True)
class TrainerOptions:
    """Options of Lightning's Trainer, without those that we set or that would skip data.

    Args:
        accelerator: `cpu`, `gpu`, or `auto` for the best on this machine.
        strategy: how one model spans devices, such as `ddp`.
        devices: number of devices that train a model together, or their indices; -1 takes all.
            `fleet.workers` trains several models at once, each on a device of its own.
        num_nodes: number of machines that train a model together.
        precision: arithmetic of training, such as `32-true` or `bf16-mixed`.
        max_epochs: length of training in epochs.
        check_val_every_n_epoch: epochs between two passes over the test split, for Weights &
            Biases only; null for none.
        accumulate_grad_batches: batches per optimizer step.
        gradient_clip_val: largest norm or value of a gradient; null for no limit.
        gradient_clip_algorithm: `norm` (the default) or `value`.
        deterministic: use deterministic kernels only.
        benchmark: let cuDNN try which kernels are fastest.
        sync_batchnorm: compute BatchNorm's statistics over all devices of a model.
    """

    accelerator: str = "auto"
    strategy: str = "auto"
    devices: int | str | list[int] = 1
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
