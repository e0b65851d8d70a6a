"""SimSiam (Chen and He 2021, arXiv:2011.10566): features from pairs of views, without labels.

An implementation of our own, because the well-kept library, lightly 1.6, would bring Hydra,
OmegaConf and pytorch_lightning, for two small heads and a cosine.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cosine_similarity, grid_sample

Views = Float[Tensor, "batch channels height width"]

SMALLEST = 0.2  # share of the image that a view shows at least
CONTRAST = 0.4  # largest change of a view's contrast, and of its brightness in deviations
GRAY = 0.2  # share of views without colour


class SimSiam(nn.Module):
    """The two heads on a backbone's features, which are dropped after training.

    Args:
        features: length of a row of features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = max(features // 4, 1)
        self.project = nn.Sequential(
            nn.Linear(features, features, bias=False), nn.BatchNorm1d(features), nn.ReLU(),
            nn.Linear(features, features, bias=False), nn.BatchNorm1d(features, affine=False),
        )  # fmt: skip
        self.predict = nn.Sequential(
            nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, features),
        )  # fmt: skip

    def forward(
        self, first: Float[Tensor, "batch features"], second: Float[Tensor, "batch features"]
    ) -> Float[Tensor, ""]:
        """Loss of the features of two views: -1 where each predicts the other's direction."""
        one, two = self.project(first), self.project(second)
        ahead = cosine_similarity(self.predict(one), two.detach())
        back = cosine_similarity(self.predict(two), one.detach())
        loss: Tensor = -(ahead.mean() + back.mean()) / 2
        return loss


def draw_view(images: Views, generator: torch.Generator) -> Views:
    """A random view of each image: a part of it, perhaps mirrored, in other contrast or grey.

    Args:
        images: normalised images.
        generator: of the CPU; equal states give equal views.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    side = uniform(SMALLEST, 1.0).sqrt()
    mirrored = torch.where(uniform(0.0, 1.0) < 0.5, -1.0, 1.0)
    grid = torch.zeros(count, 2, 3)
    grid[:, 0, 0], grid[:, 1, 1] = side * mirrored, side
    grid[:, 0, 2], grid[:, 1, 2] = uniform(-1.0, 1.0) * (1 - side), uniform(-1.0, 1.0) * (1 - side)
    contrast, shift = uniform(1 - CONTRAST, 1 + CONTRAST), uniform(-CONTRAST, CONTRAST)
    gray = uniform(0.0, 1.0) < GRAY
    grid, contrast, shift, gray = (t.to(images.device) for t in (grid, contrast, shift, gray))
    where = affine_grid(grid, list(images.shape), align_corners=False)
    views = grid_sample(
        images, where.to(images.dtype), padding_mode="reflection", align_corners=False
    )
    views = torch.where(gray.view(-1, 1, 1, 1), views.mean(1, keepdim=True), views)
    mean = views.mean((1, 2, 3), keepdim=True)
    return mean + (views - mean) * contrast.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1)
