"""What can be seen of federations round by round: signals of uploads and of the global model."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

NOBODY = -1  # the holder of an example that no client trained on
ATTACKER = 0  # the client that attacks; with examples split at random, it is like any other
RoundSignal = Literal["phi", "gradient", "cosine"]
SIGNALS: tuple[RoundSignal, ...] = ("phi", "gradient", "cosine")


class Rounds(NamedTuple):
    """Signals of every federation of a fleet in the rounds that were recorded.

    Attributes:
        done: number of rounds done at the end of each recorded round, ascending.
        uploads: by signal; NaN where a client did not take part in a round, and in federations that
            no audit reads. `phi` is the scaled logit under the client's upload, in nats; `gradient`
            the logarithm of the norm of the last layer's gradient under it; `cosine` that of this
            gradient, under the model that the server sent out, with the client's update.
        aggregates: the same of the global model at the end of the round and its change.
        holder: the client that trained on each example, or `NOBODY`.
        others: the same of the mean of all uploads but the `ATTACKER`'s and its change; None if it
            was not recorded of every federation.
        adversary: who acts maliciously in training: `isolate`, `ascent` or None.
    """

    done: Sequence[int]
    uploads: Mapping[RoundSignal, Float[Tensor, "federations rounds clients examples"]]
    aggregates: Mapping[RoundSignal, Float[Tensor, "federations rounds examples"]]
    holder: Int64[Tensor, "federations examples"]
    others: Mapping[RoundSignal, Float[Tensor, "federations rounds examples"]] | None = None
    adversary: str | None = None

    def on(self, examples: Int64[Tensor, " chosen"]) -> "Rounds":
        """Select examples by position."""
        others = self.others
        return self._replace(
            others=others and {name: signal[..., examples] for name, signal in others.items()},
            uploads={name: signal[..., examples] for name, signal in self.uploads.items()},
            aggregates={name: signal[..., examples] for name, signal in self.aggregates.items()},
            holder=self.holder[:, examples],
        )
