"""Guesses of an attribute that use no network: what its label and its other features tell.

Both learn from examples that nobody trained on. These, and the members, are divided into parts, and
a part is guessed by what was learned from the non-members of the other parts: so both kinds are
guessed by equally good rules, and no example by a rule that has seen it.
"""

import warnings
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import one_hot

PARTS = 5


def guess_by_label(
    others: Float[Tensor, "examples features"],
    labels: Int64[Tensor, " examples"],
    known: Bool[Tensor, " examples"],
    truth: Int64[Tensor, " examples"],
) -> Int64[Tensor, " examples"]:
    """Guess the value that is most frequent with the example's label.

    Args:
        others: the other features, which this guess does not look at.
        labels: classes.
        known: the non-members, from which it is learned.
        truth: the attribute's value of each example, by position; only that of the known is used.

    Returns:
        A value per example; 0 with a label that no known example has.
    """
    classes, values = one_hot(labels), one_hot(truth)
    guesses = torch.empty_like(truth)
    for part, learned in _divide(known):
        counts = classes[learned].T @ values[learned]
        guesses[part] = counts.argmax(1)[labels[part]]
    return guesses


def guess_by_correlations(
    others: Float[Tensor, "examples features"],
    labels: Int64[Tensor, " examples"],
    known: Bool[Tensor, " examples"],
    truth: Int64[Tensor, " examples"],
) -> Int64[Tensor, " examples"]:
    """Guess by a logistic regression on the other features and the label.

    Arguments as of `guess_by_label`. Features are scaled by the known examples.
    """
    spread, centre = torch.std_mean(others[known].double(), 0)
    scaled = (others.double() - centre) / spread.where(spread > 0, 1.0)
    features = torch.cat([scaled, one_hot(labels).double()], 1).numpy()
    guesses = torch.empty_like(truth)
    for part, learned in _divide(known):
        if len({*truth[learned].tolist()}) < 2:  # which scikit-learn refuses
            guesses[part] = truth[learned].mode().values
            continue
        with warnings.catch_warnings():  # a guess may be rough
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(max_iter=300).fit(features[learned], truth[learned].numpy())
        guesses[part] = torch.from_numpy(model.predict(features[part]))
    return guesses


def _divide(
    known: Bool[Tensor, " examples"],
) -> Iterator[tuple[Int64[Tensor, " part"], Int64[Tensor, " learned"]]]:
    """Examples to guess, and known examples to learn from, part by part."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.empty(len(known), dtype=torch.int64)
    for side in (known, ~known):
        count = int(side.sum())
        parts[side] = torch.randperm(count, generator=generator) % PARTS
    for number in range(PARTS):
        learned = (known & (parts != number)).nonzero().flatten()
        yield (parts == number).nonzero().flatten(), learned
