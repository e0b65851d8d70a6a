"""The options of heads of one hidden layer that learn tasks; imports no torch."""

from dataclasses import dataclass
from math import inf
from typing import Literal

SDMLP = ("relu", "topk", "sdmlp", "ssd")  # learners that have such a head


@dataclass(frozen=True)
class SdmlpOptions:
    """A head of one hidden layer, most of whose units are silent (docs/continual_training.md).

    Args:
        hidden: units of the hidden layer.
        k: units that stay active for an example.
        switch: activations of a unit after which its inhibition is complete.
        positive: keep all weights at zero or above.
        alpha: share of the cross-entropy in the loss of `ssd`; the rest is distillation.
        lam: share of the hidden units in the distillation; the rest is that of the logits.
        temperature: temperature of the distillation.
        units: most frequent units that are distilled; null for as many as `k`.
        forward_kl: divergence from the teacher to the student; otherwise the reverse.
        activations: hidden activations that are distilled, `after` inhibition or `before` it.

    Raises:
        ValueError: a number is out of range.
    """

    hidden: int = 1000
    k: int = 10
    switch: float = 5e5
    positive: bool = True
    alpha: float = 0.7
    lam: float = 0.1
    temperature: float = 8.0
    units: int | None = None
    forward_kl: bool = True
    activations: Literal["after", "before"] = "after"

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if not 1 <= self.k < self.hidden:
            raise ValueError(
                "`continual.sdmlp.k` must be 1 to below `continual.sdmlp.hidden`, got "
                f"{self.k} of {self.hidden}. Lower it, or raise `--continual.sdmlp.hidden`."
            )
        if not 0 < self.switch < inf:
            raise ValueError(f"`continual.sdmlp.switch` must be above 0, got {self.switch:g}.")
        for name in ("alpha", "lam"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"`continual.sdmlp.{name}` must be 0 to 1, got {share:g}.")
        if not 0 < self.temperature < inf:
            raise ValueError(
                f"`continual.sdmlp.temperature` must be above 0, got {self.temperature:g}."
            )
        if self.units is not None and not self.k <= self.units <= self.hidden:
            raise ValueError(
                f"`continual.sdmlp.units` must be `k` to `hidden`, {self.k} to {self.hidden}, got "
                f"{self.units}."
            )

    def check_read(self, learner: str) -> None:
        """Refuse options that another learner reads.

        Raises:
            ValueError: the message names the option and its readers.
        """
        for name, readers in READERS.items():
            if learner not in readers and getattr(self, name) != getattr(SDMLP_DEFAULT, name):
                raise ValueError(
                    f"`continual.sdmlp.{name}` needs `--continual.learner` "
                    f"{' or '.join(readers)}, got `{learner}`. Leave it out."
                )


SDMLP_DEFAULT = SdmlpOptions()
DISTILLED = ("alpha", "lam", "temperature", "units", "forward_kl", "activations")
READERS: dict[str, tuple[str, ...]] = {
    "hidden": SDMLP,
    "k": ("topk", "sdmlp", "ssd"),
    "switch": ("sdmlp", "ssd"),
    "positive": ("sdmlp", "ssd"),
    **{name: ("ssd",) for name in DISTILLED},
}
