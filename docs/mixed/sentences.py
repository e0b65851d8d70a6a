"""The page's sentences on results: each is computed from the comparisons by a written rule."""

from collections.abc import Sequence

from docs.mixed.claims import early_stopping, find_claims, searched_of
from docs.study.beside import left_counts
from docs.study.claims import Claim, Comparisons
from docs.study.numbers import MEASURES, STRONGEST, accuracy, leak
from docs.study.verdicts import NAMES, Compared, counted
from reporting.text import listed

STRONG = "the strongest attack"
SUBJECTS = {  # by claim, what is compared with what
    "more": ("Networks with mixed bits", "uniform ones of equal bytes"),
    "aiq": ("Networks with bits chosen by AIQ", "uniform ones of the closest bytes"),
    "eight": ("Networks with 8-bit activations", "those with the same weights alone"),
    "four": ("Networks with 4-bit activations", "those with the same weights alone"),
}


def answer(comparisons: Comparisons) -> str:
    """The page's answer: what each claim's pairs show, and how mixed bits stand to early stopping.

    By the strongest attack. A pair is counted as less or more where it is shown after correction.
    """
    claims = find_claims(comparisons.study)
    sentences = [_verdict(comparisons, claims["alike"])] if "alike" in claims else []
    sentences += [
        _counted(*words, comparisons, claims[name])
        for name, words in SUBJECTS.items()
        if name in claims
    ]
    if early_stopping(comparisons.study) is not None:
        sentences.append(_beside(comparisons))
    return " ".join(sentences)


def _verdict(comparisons: Comparisons, alike: Claim) -> str:
    """The verdict on the page's question, in a word and in full.

    "Yes" if likeness held by every measure, "not always" if it is opposed by one, else "unclear".
    """
    statuses = {found.status for found in comparisons.judge(alike, STRONG).values()}
    word = "Yes" if statuses == {"held"} else "Unclear"
    if statuses & {"mixed", "refuted"}:
        word = "Not always"
    return f'{word}; the verdict on "{alike.text}": {comparisons.overall(alike, STRONG)}.'


def _counted(subject: str, other: str, comparisons: Comparisons, claim: Claim) -> str:
    """How many pairs differ in accuracy and in leakage."""
    parts = [_words("accuracy", [comparisons[accuracy(*pair)] for pair in claim.pairs])]
    for measure in MEASURES:
        compared = [comparisons[leak(*pair, STRONGEST, measure)] for pair in claim.pairs]
        parts.append(_words(measure, compared))
    noun = "pair" if len(claim.pairs) == 1 else "pairs"
    return f"{subject} beside {other} ({len(claim.pairs)} {noun}): {'; '.join(parts)}."


def _words(measure: str, pairs: Sequence[Compared]) -> str:
    """How many are shown to be less or more, by how much, or neither, and whether that is small."""
    parts = []
    for word in ("less", "more", None):
        found = [pair for pair in pairs if pair.shown == word]
        if found:
            where = "" if len(found) == len(pairs) else f" in {len(found)}"
            told = _amounts(measure, found) if word else _smallness(found)
            parts.append(f"{word or 'no difference shown'}{where}{told}")
    return f"{NAMES[measure]} {listed(parts)}"


def _amounts(measure: str, pairs: Sequence[Compared]) -> str:
    sizes = [abs(pair.estimate.value) for pair in pairs]
    if measure == "auc":
        return f" (by {listed([f'{size:.3f}' for size in sizes])})"
    return f" (by {listed([f'{100 * size:.1f}' for size in sizes])} points)"


def _smallness(pairs: Sequence[Compared]) -> str:
    small = sum(pair.small for pair in pairs)
    if len(pairs) == 1:
        return " (small)" if small else ""
    return f" ({counted(small, len(pairs))} small)" if small else ""


def _beside(comparisons: Comparisons) -> str:
    """How many variants with chosen bits leak less or more than early stopping."""
    variants = searched_of(comparisons.study)
    return (
        "Beside full-precision networks of equal accuracy that were stopped early, of "
        f"{len(variants)} variants with chosen bits are shown to leak: "
        f"{left_counts(comparisons, variants)}."
    )
