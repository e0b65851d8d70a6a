"""Checks of DP-SGD before any training: what it cannot be combined with, its noise, its epsilon."""

from dataclasses import replace
from importlib.util import find_spec
from math import ceil, inf

from jsonargparse import Namespace
from torch import nn

from fleet.checks import Devices
from lightning_modules.accountant import Mechanism, default_delta, solve_noise, spend
from lightning_modules.options import DpOptions
from lightning_modules.private import find_batchnorm
from lightning_modules.rehearsal import first_of

PRECISIONS = (None, "32-true", "64-true", "32", "64", 32, 64)


def check_privacy(config: Namespace, devices: Devices) -> None:
    """Refuse options that DP-SGD cannot be combined with.

    Raises:
        ValueError: Opacus is not installed, or an option contradicts the proof.
    """
    if find_spec("opacus") is None:
        raise ValueError(
            "`--model.dp` needs Opacus, which is not installed: `pip install -e '.[dp]'`."
        )
    trainer = config.trainer
    if devices.processes > 1:
        raise ValueError(
            f"`--model.dp` trains each model on one device, got {devices.processes}: a batch is "
            "drawn and noise added by one process. `--fleet.workers` trains several models at once."
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "`trainer.accumulate_grad_batches` must be 1 with `--model.dp`, got "
            f"{trainer.accumulate_grad_batches}: each step adds noise to a batch of its own. Raise "
            "`--data.batch_size` instead."
        )
    if trainer.gradient_clip_val is not None:
        raise ValueError(
            "`trainer.gradient_clip_val` clips the gradient of a whole batch, got "
            f"{trainer.gradient_clip_val:g} with `--model.dp`, which clips that of each example. "
            "Leave it out; `--model.dp.clip` sets that norm."
        )
    if trainer.precision not in PRECISIONS:
        raise ValueError(
            f"`trainer.precision` must be 32-true with `--model.dp`, got {trainer.precision}: with "
            "norms of a few bits gradients would exceed the clipping norm, against the proof."
        )
    if config.model.tf32:
        raise ValueError(
            "`--model.tf32 true` rounds the factors by which `--model.dp` clips gradients, which "
            "would exceed the clipping norm, against the proof. Leave it out."
        )
    if config.model.compile:
        raise ValueError(
            "`--model.compile true` gains nothing with `--model.dp`, whose hooks stop at every "
            "layer. Leave it out."
        )


def settle(dp: DpOptions, pool: int, batch_size: int, epochs: int) -> tuple[DpOptions, str]:
    """Fill in the noise and delta, the same for all models, and describe them in a line.

    A model trains on half of the pool, and with an odd pool on one half or the other, whichever
    models a fleet has so far: the noise suffices for both, and epsilon is the larger of theirs.

    Args:
        dp: the options, with a noise or an epsilon.
        pool: number of audited examples.
        batch_size: expected number of examples in a batch.
        epochs: epochs of a fit.

    Raises:
        ValueError: a batch larger than the members, or an epsilon that cannot be met.
    """
    halves = pool // 2, pool - pool // 2
    if batch_size > halves[0]:
        raise ValueError(
            f"`data.batch_size` must be at most the {halves[0]} examples that a model trains on "
            f"with `--model.dp`, got {batch_size}: each of them is drawn with chance batch size / "
            "members. Lower it, or enlarge the pool."
        )
    delta = dp.delta or default_delta(halves[1])
    steps = {batch_size / half: epochs * ceil(half / batch_size) for half in halves}  # by rate
    noise = dp.noise
    if noise is None:
        epsilon = dp.epsilon or inf  # one of the two is given
        noise = max(solve_noise(epsilon, rate, delta, count) for rate, count in steps.items())
    settled = replace(dp, noise=noise, epsilon=None, delta=delta)
    spent = {rate: spend(Mechanism(noise, rate, delta), count) for rate, count in steps.items()}
    worst = max(spent, key=lambda rate: spent[rate].epsilon)
    line = (
        f"DP-SGD: noise {noise:g}, clip {dp.clip:g}, sampling rate {worst:.3g}, {steps[worst]} "
        f"steps: epsilon {spent[worst].epsilon:.3g} at delta {delta:g} ({spent[worst].accountant})."
    )
    return settled, line


def mechanism(dp: DpOptions, members: int, batch_size: int) -> Mechanism:
    """What a step does to a model with so many members, by settled options.

    Raises:
        ValueError: the options are not settled.
    """
    if dp.noise is None or dp.delta is None:
        raise ValueError(f"`dp` must have a noise and a delta, got {dp}. Call `settle` first.")
    return Mechanism(dp.noise, batch_size / members, dp.delta)


def check_layers(network: nn.Module) -> None:
    """Raise ValueError if a network mixes the examples of a batch by BatchNorm."""
    if mixing := find_batchnorm(network):
        raise ValueError(
            "`--model.dp` needs a network without BatchNorm, which mixes the examples of a batch, "
            f"got {first_of(mixing)}. Take convnet_gn or resnet8_gn, or GroupNorm in your own."
        )
