"""What an audit leaves out, with its number, the reason and the way out: one sentence each."""

from collections.abc import Mapping, Sequence

from attacks.choice import Choice, Lack, in_words, more_shadows
from storage.names import ModelName

UNFINISHED = "unfinished"
FINDINGS = {  # of `attacks.choice` to users
    "z_scores": "the table of z-scores",
    "joint_lira": "joint LiRA on several variants",
}
IMAGES = "the images"
WAYS_OUT = {  # what to do about unknown signals, by the words for them
    "logits": "Pass logits instead of phi.",
    "signals on a population": "Pass population arrays of shadows and targets.",
    "logits on a population": "Pass population arrays of shadows and targets, as logits.",
    "a population of 20": "Hold 20 examples or more out of all models.",
    "the classes": "Put the data back in its place, and audit again.",
    "embeddings, which `train.py --record_embeddings true` adds": "Record them, and audit again.",
    "embeddings of a population": "Pass those of the population too.",
    IMAGES: "Put the data back in its place, and audit again.",
}


def leave_out_models(excluded: Mapping[ModelName, str], trained_here: bool) -> list[str]:
    """Sentences on excluded models.

    Args:
        excluded: models and the reasons.
        trained_here: whether train.py trained them, the shadows in pairs.
    """
    sentences = []
    for name, reason in excluded.items():
        partner = " with its partner" if name.role == "shadow" and trained_here else ""
        way_out = "Compute its signals again, or take it out of the arrays."
        if trained_here:
            way_out = "`train.py --fleet.retrain_failed true` trains it from another start."
        if reason == UNFINISHED:
            way_out = "Run train.py again to finish it."
        sentences.append(f"{name} is excluded{partner}: {reason}. {way_out}")
    return sentences


def leave_out_images(reason: str) -> str:
    """Sentence on images that cannot be loaded."""
    return f"No image is shown or used by an attack: {reason.removesuffix('.')}."


def leave_out_examples(choice: Choice) -> list[str]:
    """Sentences on examples that have too few shadows, if there are any."""
    total, rest = len(choice.usable), int(choice.mixed.sum())
    sentences = []
    if rest < total:
        counts = int(choice.every.sum()), int(choice.none.sum())
        sentences.append(
            f"{_one_sided(*counts)}: no attack can compare shadows with and without them. All "
            f"attacks and findings, also those without shadows, are on the other {rest:,} of "
            f"{total:,} examples; exposure.csv says which these are. Train some shadows with each "
            "example and some without it."
        )
    if count := int((choice.mixed & ~choice.usable).sum()):
        sentences.append(
            f"{count:,} of {rest:,} examples were left out of all attacks and findings: they lack "
            f"{in_words(choice.sides)} them. {more_shadows(choice.sides)}."
        )
    return sentences


def _one_sided(every: int, none: int) -> str:
    """How many examples are in every shadow's training set and in none."""
    places = ((every, "every shadow's training set"), (none, "no shadow's training set"))
    if every and none:
        return f"{_examples(every)} in every shadow's training set and {none:,} in none"
    return next(f"{_examples(count)} in {place}" for count, place in places if count)


def _examples(count: int) -> str:
    return f"{count:,} example is" if count == 1 else f"{count:,} examples are"


def why_left_out(choice: Choice) -> list[str]:
    """Why each example was left out; empty where it was not."""
    words = {"in every shadow": choice.every, "in no shadow": choice.none}
    words["too few shadows"] = choice.mixed & ~choice.usable
    reasons = [""] * len(choice.usable)
    for reason, examples in words.items():
        for example in examples.nonzero().flatten().tolist():
            reasons[example] = reason
    return reasons


def leave_out_attacks(choice: Choice, trained_here: bool, variants: int) -> list[str]:
    """Sentences on default attacks and findings that lack signals or shadows.

    Args:
        choice: what was chosen.
        trained_here: whether train.py trained the models, whose images are known.
        variants: number of variants; a single one is no case for joint LiRA.
    """
    alike: dict[Lack, list[str]] = {}
    for name, lack in choice.left_out.items():
        if name != "joint_lira" or variants > 1:
            alike.setdefault(lack, []).append(FINDINGS.get(name, name))
    sentences = []
    for lack, names in alike.items():
        subject = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        if subject.startswith("the "):
            subject = f"T{subject[1:]}"
        verb = "was left out: it needs" if len(names) == 1 else "were left out: they need"
        if lack.signals:
            reason = f"{' and '.join(lack.signals)}. {_find(lack.signals, trained_here)}"
        else:
            reason = (
                f"{in_words(lack.sides)} each example, which {lack.examples:,} of "
                f"{int(choice.mixed.sum()):,} examples lack, too many to leave out. "
                f"{more_shadows(lack.sides)}."
            )
        sentences.append(f"{subject} {verb} {reason}")
    return sentences


def _find(signals: Sequence[str], trained_here: bool) -> str:
    """What to do about unknown signals."""
    if IMAGES in signals and not trained_here:
        return "Only models that train.py trained have them."
    return " ".join(WAYS_OUT[words] for words in signals)
