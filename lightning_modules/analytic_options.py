"""The options of learners that solve for their head; imports no torch."""

from dataclasses import dataclass, field
from math import inf

from lightning_modules.unread import needs_learner, refuse_unread

ANALYTIC = ("acil", "dsal", "real")  # learners that solve a ridge regression


@dataclass(frozen=True)
class AnalyticOptions:
    """Ridge regression on random features of a frozen backbone (docs/analytic_learners.md).

    Args:
        buffer: number of random features.
        gamma: ridge penalty.
        compensation: weight of the second stream of `dsal`.
        published_residuals: take the residuals of `dsal` after each batch, as the published code
            does, so that they depend on the batch size; otherwise at the end of a task.
        contrastive_epochs: epochs of `real` without labels, after those of the backbone.
        distill_epochs: epochs of `real` in which the labelled backbone teaches the other.
        beta: weight of that distillation.
        fusion: give the head of `real` the features of several layers.
        worlds: random halves of the pool for which heads of each audited model are solved, as by an
            attacker who holds its backbone; 0 for none, otherwise 2 or more.
        quantized_worlds: names of `--quantize` as which these heads are rounded, with and without
            each example, as by an attacker of the quantized network; not of `dsal`.

    Raises:
        ValueError: a number is out of range.
    """

    buffer: int = 512
    gamma: float = 0.1
    compensation: float = 0.6
    published_residuals: bool = False
    contrastive_epochs: int = 0
    distill_epochs: int = 0
    beta: float = 1.0
    fusion: bool = True
    worlds: int = 8
    quantized_worlds: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        for name, least in (
            ("buffer", 1), ("contrastive_epochs", 0), ("distill_epochs", 0), ("worlds", 0),
        ):  # fmt: skip
            if (count := getattr(self, name)) < least:
                raise ValueError(
                    f"`continual.analytic.{name}` must be {least} or more, got {count}."
                )
        if self.worlds == 1:
            raise ValueError(
                "`continual.analytic.worlds` must be 0 (none), or 2 or more, got 1: one head shows "
                "no spread of what it outputs. Pass for example `--continual.analytic.worlds 8`."
            )
        for name in ("gamma", "compensation", "beta"):
            if not 0 < (value := getattr(self, name)) < inf:
                raise ValueError(f"`continual.analytic.{name}` must be above 0, got {value:g}.")

    def check_read(self, learner: str) -> None:
        """Refuse options that nothing reads.

        Raises:
            ValueError: the message names the option and what it needs.
        """
        needs = needs_learner(READERS, learner)
        if not self.distill_epochs:
            needs.setdefault("beta", "`--continual.analytic.distill_epochs`, got 0")
        refuse_unread(self, "continual.analytic", needs)

    def check_streams(self, backbone_epochs: int) -> None:
        """Refuse epochs of `real` whose result nothing reads.

        Args:
            backbone_epochs: epochs of the labelled stream.

        Raises:
            ValueError: no stream is trained, or one of two is trained for nothing.
        """
        epochs = backbone_epochs, self.contrastive_epochs, self.distill_epochs
        if [count > 0 for count in epochs] not in (
            [True, False, False], [False, True, False], [True, True, True],
        ):  # fmt: skip
            raise ValueError(
                "`real` needs epochs of one stream (`--continual.backbone_epochs` with labels or "
                "`--continual.analytic.contrastive_epochs` without), or of both and of "
                "`--continual.analytic.distill_epochs`, by which one teaches the other, got "
                f"{', '.join(map(str, epochs))}."
            )


ANALYTIC_DEFAULT = AnalyticOptions()
READERS: dict[str, tuple[str, ...]] = {
    **{name: ANALYTIC for name in ("buffer", "gamma", "worlds")},
    "quantized_worlds": ("acil", "real"),
    **{name: ("dsal",) for name in ("compensation", "published_residuals")},
    **{name: ("real",) for name in ("contrastive_epochs", "distill_epochs", "beta", "fusion")},
}
