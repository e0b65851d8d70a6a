"""Whether the channels that would be kept still change from epoch to epoch."""

from collections.abc import Sequence
from statistics import fmean

from pruning.groups import Kept

WINDOW, STABLE = 3, 0.999  # OCSPruner's


def jaccard(before: Kept, after: Kept) -> float:
    """Mean over groups of the channels kept twice over the channels kept at least once.

    Valid only before a cut, which renumbers the channels.
    """
    return fmean(
        len(set(before[name]) & set(after[name])) / len(set(before[name]) | set(after[name]))
        for name in before
    )


def is_stable(curve: Sequence[float]) -> bool:
    """Whether the last Jaccard indices, each of one epoch against the one before, average `STABLE`.

    The published text compares consecutive epochs, its code epochs two apart; here the text counts.

    Source: OCSPruner, arXiv:2501.13439: window of 3, threshold 0.999.
    """
    return len(curve) >= WINDOW and fmean(curve[-WINDOW:]) >= STABLE
