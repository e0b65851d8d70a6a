"""Embeddings in a few numbers: what a network knows of an image before its last layer."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh
from torch import Tensor

COMPONENTS = 32  # of an embedding; what is kept of it
_LEAST = 1e-6  # of an embedding's length: float32 rounds at 6e-8, so what is narrower may be noise


class Projection(NamedTuple):
    """The principal components of a network's embeddings of the population.

    Attributes:
        centre: mean embedding of the population.
        directions: orthonormal columns, the widest first; zero where the population has no width.
    """

    centre: Float[Tensor, " inputs"]
    directions: Float[Tensor, "inputs components"]

    def apply(
        self, embeddings: Float[Tensor, "examples inputs"]
    ) -> Float[Tensor, "components examples"]:
        """Return the components of each embedding, in float32."""
        return ((embeddings.double() - self.centre) @ self.directions).T.float()


def fit_projection(
    population: Float[Tensor, "population inputs"], components: int = COMPONENTS
) -> Projection:
    """Find the directions in which a network's embeddings of unseen images differ most.

    Members have no part in it, so that nothing depends on who they are. The same embeddings give
    the same directions, with the largest entry of each above 0.

    Args:
        population: embeddings of examples that the network did not train on.
        components: largest number of directions; there are no more than inputs.

    Returns:
        A projection in float64; all NaN if an embedding is not finite.
    """
    x = population.double().cpu().numpy()
    inputs = x.shape[1]
    count, centre = min(components, inputs), x.mean(0)
    if not np.isfinite(x).all():
        nothing = torch.full((inputs, count), torch.nan, dtype=torch.float64)
        return Projection(torch.from_numpy(centre), nothing)
    covariance = (x - centre).T @ (x - centre) / len(x)
    variances, vectors = eigh(covariance, subset_by_index=[inputs - count, inputs - 1])
    variances, vectors = variances[::-1], vectors[:, ::-1]
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, np.arange(count)])
    vectors[:, variances <= _LEAST**2 * np.square(x).sum(1).mean()] = 0
    return Projection(torch.from_numpy(centre), torch.from_numpy(vectors))
