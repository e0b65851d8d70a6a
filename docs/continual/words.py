"""How a comparison is said inside a sentence."""

from docs.study.verdicts import Compared


def word_of(compared: Compared, measure: str) -> str:
    """Whether the first is more or less, by how much, and whether that is small."""
    words = {"more": "more", "less": "less", None: "not shown to differ"}
    small = ", small" if compared.small else ""
    return f"{words[compared.shown]} ({size_of(compared, measure)}{small})"


def size_of(compared: Compared, measure: str) -> str:
    """The mean difference, with a sign."""
    if measure == "auc":
        return f"{compared.estimate.value:+z.3f}"
    return f"{100 * compared.estimate.value:+z.1f} points"
