"""Quantile regression: how confident a model would be in an example that it never saw.

Source: Bertran et al. 2023, "Scalable Membership Inference Attacks via Quantile Regression",
arXiv:2307.03694, in its Gaussian form; code in amazon-science/quantile-mia. Theirs is a
network on the pixels, ours a ridge regression on a few dozen features: of the pixels, or of what
the audited network itself computes.
"""

from collections.abc import Iterable, Iterator
from math import ceil, prod

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from scipy.linalg import cho_factor, cho_solve
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import one_hot

FEWEST = 20  # known non-members
_SLICE = 2**23  # pixels, in float64 64 MB
_FITTED = 20_000  # examples that define the components; their pixels take 1 GB for 64x64 colour
_LOG_GAUSS = -0.6351814227307392  # E log |z| of a standard normal z: -(Euler's gamma + log 2) / 2
_PENALTY = 10.0  # of squared weights, on standardized features
_GRID = 2.0**32  # components are multiples of 1 / _GRID
# in one tensor, or block by block, as often as they are asked for
Examples = UInt8[Tensor, "_ _ ..."] | Iterable[UInt8[Tensor, "_ _ ..."]]


def quantile_regression(
    target: Float[Tensor, "*targets queries examples"],
    population: Float[Tensor, "*targets queries population"],
    features: Float[Tensor, "_ _"],
    population_features: Float[Tensor, "_ _"],
) -> Float[Tensor, "*targets examples"]:
    """Score membership by how far the target's hinge exceeds that of a similar unseen example.

    From the hinge of known non-members, a ridge regression on the features predicts its mean mu,
    and a second one log sigma: it is fitted to the log of the first one's out-of-fold residuals,
    because in-sample residuals are too small. Gradient-boosted trees took 20 times as long, for AUC
    0.742 instead of 0.698 on a hinge with products of features (2,000 known), 0.844 instead of
    0.858 on a linear one, and the same on a perceptron on CIFAR.

    A score is the same to the last bit whatever other examples and targets are scored with it.

    Args:
        target: hinge of the audited models, in units of the logits.
        population: the same on examples that none of them trained on.
        features: `[examples, features]`, a representation of the examples; no model is needed.
        population_features: `[population, features]`, the same for the population.

    Returns:
        Mean over queries of (hinge - mu) / sigma, float64; NaN for a model with a non-finite hinge
        in its population.

    Raises:
        ValueError: fewer than 20 examples in the population, or features that do not fit.
    """
    examples, count = target.shape[-1], population.shape[-1]
    if count < FEWEST:
        raise ValueError(
            f"Quantile regression needs a population of {FEWEST} or more, got {count}. Hold out "
            "more examples from all models."
        )
    _, columns = features.shape
    if (len(features), *population_features.shape) != (examples, count, columns):
        raise ValueError(
            f"Features must be {examples} and {count} rows with the same number of columns, got "
            f"{list(features.shape)} and {list(population_features.shape)}. Compute both with "
            "one call of `make_features`."
        )
    known = population.reshape(-1, count).double().cpu()
    usable = known.isfinite().all(-1)
    mu = known.new_full((len(known), examples), torch.nan)
    sigma = mu.clone()
    if usable.any():
        mu[usable], sigma[usable] = _fit(known[usable], population_features, features)
    flat = target.reshape(-1, examples).double()
    z = (flat - mu.to(flat.device)) / sigma.to(flat.device)
    return z.reshape(target.shape).mean(-2)


def quantile_embeddings(
    target: Float[Tensor, "targets queries examples"],
    population: Float[Tensor, "targets queries population"],
    embeddings: Float[Tensor, "targets features examples"],
    population_embeddings: Float[Tensor, "targets features population"],
    labels: Int64[Tensor, " examples"],
    population_labels: Int64[Tensor, " population"],
) -> Float[Tensor, "targets examples"]:
    """Score as `quantile_regression`, with each target's own embeddings as features.

    The class is a feature as well, but not its products with the embeddings: they determine the
    logits, so a regression on them predicts a member's margin and hides the leak (AUC 0.60 instead
    of 0.74 on a ResNet-8 that overfits CIFAR-10).

    Args:
        target: hinge of the audited models, in units of the logits.
        population: the same on examples that none of them trained on.
        embeddings: what each audited model computes of the examples before its last layer.
        population_embeddings: the same of the population.
        labels: classes of the examples, from 0.
        population_labels: classes of the population.

    Returns:
        Mean over queries of (hinge - mu) / sigma, float64. The same to the last bit whatever other
        examples and targets are scored with it, given their embeddings. NaN for a model with a
        non-finite embedding, or a non-finite hinge in its population.

    Raises:
        ValueError: fewer than 20 examples in the population.
    """
    classes = 1 + int(torch.cat([labels, population_labels]).max())
    own, others = (one_hot(y.cpu(), classes).double() for y in (labels, population_labels))
    scores = target.new_full((len(target), target.shape[-1]), torch.nan, dtype=torch.float64)
    for row, (x, z) in enumerate(zip(embeddings, population_embeddings, strict=True)):
        if x.isfinite().all() and z.isfinite().all():
            features, known = torch.cat([own, x.T.cpu()], 1), torch.cat([others, z.T.cpu()], 1)
            scores[row] = quantile_regression(target[row], population[row], features, known)
    return scores


def _fit(
    known: Float[Tensor, "fits population"],
    known_features: Float[Tensor, "population features"],
    features: Float[Tensor, "examples features"],
) -> tuple[Float[Tensor, "fits examples"], Float[Tensor, "fits examples"]]:
    """Return mu and sigma of each example, for every row of `known`."""
    x, y = known_features.double().cpu().numpy(), known.numpy()
    new = features.double().cpu().numpy()
    residual = np.empty_like(y)
    for rest, fold in KFold(5, shuffle=True, random_state=0).split(x):
        residual[:, fold] = np.abs(y[:, fold] - _predict(x[rest], y[:, rest], x[fold]))
    # a low-bit head may give all of them one value
    floor = np.maximum(1e-3 * residual.mean(1, keepdims=True), 1e-6)
    log = np.log(np.maximum(residual, floor)) - _LOG_GAUSS
    mu, log_sigma = (torch.from_numpy(_predict(x, values, new)) for values in (y, log))
    return mu, log_sigma.exp()


def _predict(
    x: Float[np.ndarray, "known features"],
    y: Float[np.ndarray, "fits known"],
    new: Float[np.ndarray, "examples features"],
) -> Float[np.ndarray, "fits examples"]:
    """Predict each row of `y` at `new` by ridge regression on `x`.

    BLAS and LAPACK may sum in another order for more right-hand sides, or for a row at another
    place in a matrix. So systems are solved one at a time, and terms added one feature at a time.
    """
    scaler = StandardScaler().fit(x)
    z, columns = scaler.transform(x), np.ascontiguousarray(scaler.transform(new).T)
    factor = cho_factor(z.T @ z + _PENALTY * np.eye(z.shape[1]))
    predictions = np.empty((len(y), len(new)))
    for prediction, values in zip(predictions, np.ascontiguousarray(y), strict=True):
        mean = values.mean()
        weights = cho_solve(factor, z.T @ (values - mean))
        prediction[:] = mean
        for weight, column in zip(weights, columns, strict=True):
            prediction += weight * column
    return predictions


def make_features(
    images: Examples,
    labels: Int64[Tensor, " examples"],
    population_images: Examples,
    population_labels: Int64[Tensor, " population"],
    components: int = 32,
) -> tuple[Float[Tensor, "examples features"], Float[Tensor, "population features"]]:
    """Represent examples by their one-hot class and the principal components of their pixels.

    Args:
        images: the audited examples, as bytes.
        labels: their classes, from 0.
        population_images: known non-members; at most 20,000 of them, at equal distances, define the
            components.
        population_labels: their classes.
        components: largest number of components; there are no more than pixels or images in the
            population.

    Returns:
        Float64 features of the examples and of the population. Those of an image do not depend on
        the images beside it.
    """
    step = ceil(len(population_labels) / _FITTED)
    kept = [block[-start % step :: step] for start, block in _slices(population_images)]
    # one row per image, 0 to 1; in float32, which holds 8 bits, for half the memory
    pixels = (torch.cat(kept).flatten(1).float() / 255).cpu().numpy()
    # deterministic: the solver that scikit-learn chooses for large images draws at random
    pca = PCA(min(components, *pixels.shape), random_state=0).fit(pixels)
    directions = np.rint(_GRID * pca.components_.T.astype(np.float64))
    centre: np.ndarray = pca.mean_.astype(np.float64) @ directions / _GRID
    classes = 1 + int(torch.cat([labels, population_labels]).max())

    def project(batch: Tensor) -> np.ndarray:
        # Whole numbers times whole numbers: as directions have length 2^32, every partial sum is
        # below 255 sqrt(pixels) 2^32: exact in float64, in any order, up to 60 million pixels.
        projection = batch.flatten(1).double().cpu().numpy() @ directions
        projected: np.ndarray = projection / (255 * _GRID) - centre
        return projected

    def represent(images: Examples, labels: Tensor) -> Tensor:
        projected = np.concatenate([project(batch) for _, batch in _slices(images)])
        return torch.cat([one_hot(labels.cpu(), classes).double(), torch.from_numpy(projected)], 1)

    return represent(images, labels), represent(population_images, population_labels)


def _slices(images: Examples) -> Iterator[tuple[int, Tensor]]:
    """The examples a few at a time, each slice with the position of its first."""
    position = 0
    for block in [images] if isinstance(images, Tensor) else images:
        for batch in torch.split(block, max(1, _SLICE // prod(block.shape[1:]))):
            yield position, batch
            position += len(batch)
