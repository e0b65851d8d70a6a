"""Shadow federations: where clients stand that never held an example, in every round."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attacks.rounds import NOBODY

FEWEST_OUT = 3  # shadows that hold no given example: one is left out, two have a spread


class Reference:
    """Mean and spread of one signal over clients of shadow federations that nobody trained on.

    Clients of a federation whose examples are split at random are exchangeable, so that all clients
    that took part in a round of a federation in which nobody holds an example tell what is to be
    expected of a client that does not. The spread is pooled over examples.

    Args:
        signal: of the shadow federations; NaN where a client did not take part.
        holder: whose member each example is, or `NOBODY`.

    Raises:
        ValueError: an example is held in all but fewer than `FEWEST_OUT` shadows.
    """

    def __init__(
        self,
        signal: Float[Tensor, "shadows rounds clients examples"],
        holder: Int64[Tensor, "shadows examples"],
    ) -> None:
        outside = (holder == NOBODY).double()
        if (fewest := int(outside.sum(0).min())) < FEWEST_OUT:
            raise ValueError(
                f"A reference needs {FEWEST_OUT} shadow federations in which nobody holds a given "
                f"example, got {fewest}. Raise `--fleet.shadows`."
            )
        self._signal, shape = signal, (*signal.shape[:2], signal.shape[-1])
        self._count, self._total, self._square = (
            torch.empty(shape, dtype=torch.float64) for _ in range(3)
        )
        for shadow, inside in enumerate(outside):  # all in float64 would take too much
            own = signal[shadow].double()
            self._count[shadow] = (~own.isnan()).sum(1) * inside
            known = own.nan_to_num()
            self._total[shadow] = known.sum(1) * inside
            self._square[shadow] = known.square().sum(1) * inside
        self._sums = [part.sum(0) for part in (self._count, self._total, self._square)]

    def z(
        self, signal: Float[Tensor, "rounds clients examples"]
    ) -> Float[Tensor, "rounds clients examples"]:
        """How far a federation's clients stand above what is expected, in standard deviations.

        Args:
            signal: of a federation that is none of the shadows.
        """
        return _standardise(signal, *self._sums)

    def z_of_shadow(self, shadow: int) -> Float[Tensor, "rounds clients examples"]:
        """The same of one of the shadows, by the others."""
        own = self._count[shadow], self._total[shadow], self._square[shadow]
        rest = (part - left for part, left in zip(self._sums, own, strict=True))
        return _standardise(self._signal[shadow].double(), *rest)


def _standardise(
    signal: Float[Tensor, "rounds clients examples"],
    count: Float[Tensor, "rounds examples"],
    total: Float[Tensor, "rounds examples"],
    square: Float[Tensor, "rounds examples"],
) -> Float[Tensor, "rounds clients examples"]:
    mean = total / count  # NaN where no client took part, which tells nothing
    residual = (square - count * mean.square()).clamp_min(0).nansum(-1)
    freedom = (count - 1).clamp_min(0).sum(-1)
    spread = (residual / freedom.clamp_min(1)).sqrt()[:, None, None]
    return (signal - mean[:, None]) / spread.where(spread > 0, torch.inf)
