"""The page's sentences on results: each is computed from the comparisons by a written rule."""

from docs.mixed.claims import early_stopping, find_claims, searched_of
from docs.study.beside import left_counts
from docs.study.claims import Claim, Comparisons
from docs.study.numbers import MEASURES, STRONGEST, accuracy, leak
from docs.study.verdicts import tally

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
    parts = [tally("accuracy", [comparisons[accuracy(*pair)] for pair in claim.pairs])]
    for measure in MEASURES:
        compared = [comparisons[leak(*pair, STRONGEST, measure)] for pair in claim.pairs]
        parts.append(tally(measure, compared))
    noun = "pair" if len(claim.pairs) == 1 else "pairs"
    return f"{subject} beside {other} ({len(claim.pairs)} {noun}): {'; '.join(parts)}."


def _beside(comparisons: Comparisons) -> str:
    """How many variants with chosen bits leak less or more than early stopping."""
    variants = searched_of(comparisons.study)
    return (
        "Beside full-precision networks of equal accuracy that were stopped early, of "
        f"{len(variants)} variants with chosen bits are shown to leak: "
        f"{left_counts(comparisons, variants)}."
    )
