"""The options of heads of one hidden layer that learn tasks; imports no torch."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from lightning_modules.unread import needs_learner, refuse_unread

MOST = 2**62  # examples, as int64 counts them
SDMLP = ("relu", "topk", "sdmlp", "ssd")  # learners that have such a head


@dataclass(frozen=True)
class SdmlpOptions:
    """A head of one hidden layer, most of whose neurons are silent (docs/continual_training.md).

    Args:
        hidden: number of neurons of the hidden layer.
        k: number of neurons that stay active for an example.
        switch: training examples that a neuron is active on before its inhibition is complete; null
            for a fifth of those that the first task serves in all its epochs, so that it ends
            there.
        positive: keep features and all weights at zero or above.
        alpha: share of the cross-entropy in the loss of `ssd`; the rest is distillation.
        lam: share of the neurons in the distillation; the rest is that of the logits.
        temperature: temperature of the distillation.
        units: most frequent neurons of a task that are distilled; null for as many as `k`.
        forward_kl: take the divergence from the teacher to the student; otherwise the reverse.
        activations: activations that are distilled, `after` inhibition or `before` it.

    Raises:
        ValueError: a number is out of range.
    """

    hidden: int = 1000
    k: int = 10
    switch: float | None = None
    positive: bool = True
    alpha: float = 0.7
    lam: float = 0.1
    temperature: float = 8.0
    units: int | None = None
    forward_kl: bool = True
    activations: Literal["after", "before"] = "after"

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        for name, least in (("hidden", 2), ("k", 1)):
            if (number := getattr(self, name)) < least:
                raise ValueError(f"`continual.sdmlp.{name}` must be {least} or more, got {number}.")
        if self.switch is not None and not 0 < self.switch < MOST:
            raise ValueError(
                f"`continual.sdmlp.switch` must be above 0 and below {MOST:g}, got "
                f"{self.switch:g}. Leave it out for one that ends with the first task."
            )
        for name in ("alpha", "lam"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"`continual.sdmlp.{name}` must be 0 to 1, got {share:g}.")
        if not 0 < self.temperature < inf:
            raise ValueError(
                f"`continual.sdmlp.temperature` must be above 0, got {self.temperature:g}."
            )

    def check_read(self, learner: str) -> None:
        """Refuse options that nothing reads, and those that this learner cannot follow.

        Raises:
            ValueError: the message names the option, and what it needs or its range.
        """
        refuse_unread(self, "continual.sdmlp", needs_learner(READERS, learner) | self._needs())
        if learner in READERS["k"]:
            self._check_k()
        if learner == "ssd":
            self._check_units()

    def _needs(self) -> dict[str, str]:
        """What options of a distillation need that has no share in the loss."""
        if self.alpha == 1:
            needs = "`--continual.sdmlp.alpha` below 1, got 1, which distils nothing"
            return dict.fromkeys(DISTILLED, needs)
        if self.lam == 0:
            needs = "`--continual.sdmlp.lam` above 0, got 0, which distils no neurons"
            return dict.fromkeys(("units", "activations"), needs)
        return {}

    def _check_k(self) -> None:
        if not 1 <= self.k < self.hidden:
            raise ValueError(
                f"`continual.sdmlp.k` must be 1 to {self.hidden - 1}, below the number of neurons "
                f"(`continual.sdmlp.hidden`), got {self.k}. Lower it, or widen the layer."
            )

    def _check_units(self) -> None:
        if self.units is not None and not self.k <= self.units <= self.hidden:
            raise ValueError(
                f"`continual.sdmlp.units` must be `k` to `hidden`, {self.k} to {self.hidden}, got "
                f"{self.units}."
            )
        if (self.units or self.k) == 1 and self.lam and self.alpha < 1:
            raise ValueError(
                "`continual.sdmlp.units` must be 2 or more with `ssd`, got 1: the softmax of one "
                "neuron is 1 whatever its activation, so that it distils nothing. Pass for example "
                "`--continual.sdmlp.units 10`, or `--continual.sdmlp.lam 0`."
            )


SDMLP_DEFAULT = SdmlpOptions()
DISTILLED = ("lam", "temperature", "units", "forward_kl", "activations")  # none if `alpha` is 1
READERS: dict[str, tuple[str, ...]] = {
    "hidden": SDMLP,
    "k": ("topk", "sdmlp", "ssd"),
    "switch": ("sdmlp", "ssd"),
    "positive": ("sdmlp", "ssd"),
    **{name: ("ssd",) for name in ("alpha", *DISTILLED)},
}
