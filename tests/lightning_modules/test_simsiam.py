import pytest
import torch
from torch.nn.functional import normalize

from lightning_modules.simsiam import SimSiam, draw_view


@pytest.fixture
def images():
    draws = torch.Generator().manual_seed(0)
    return torch.rand(400, 3, 12, 12, generator=draws)


def test_the_loss_by_hand():
    torch.manual_seed(0)
    heads, first, second = SimSiam(8), torch.randn(6, 8), torch.randn(6, 8)
    one, two = normalize(heads.project(first)), normalize(heads.project(second))
    ahead = (normalize(heads.predict(heads.project(first))) * two).sum(1)
    back = (normalize(heads.predict(heads.project(second))) * one).sum(1)
    torch.testing.assert_close(heads(first, second), -(ahead + back).mean() / 2)


def test_targets_take_no_gradient():
    """With a predictor of zeros but for its bias, nothing reaches the features."""
    heads = SimSiam(8)
    torch.nn.init.zeros_(heads.predict[3].weight)
    first = torch.randn(6, 8, requires_grad=True)
    heads(first, torch.randn(6, 8)).backward()
    assert first.grad.abs().max() == 0
    assert heads.predict[3].bias.grad.abs().max() > 0


def test_a_view_shows_a_part_of_its_own_image(images):
    """Coordinates as pixels: each view is a mirrored or plain crop of at least a fifth."""
    side = torch.linspace(-1, 1, 12)
    plane = torch.stack([side.expand(12, 12), side[:, None].expand(12, 12)])
    columns = torch.cat([plane, torch.zeros(1, 12, 12)]).expand(400, 3, 12, 12)
    view = draw_view(columns, torch.Generator().manual_seed(1))
    slopes = (view[:, 0, :, 11] - view[:, 0, :, 0]).mean(1)
    coloured = (view - view.mean(1, keepdim=True)).abs().amax((1, 2, 3)) > 1e-6
    assert 0.7 < coloured.float().mean() < 0.9
    assert 0.4 < (slopes[coloured] > 0).float().mean() < 0.6
    assert view.shape == columns.shape


def test_equal_generators_draw_equal_views(images):
    generator = torch.Generator().manual_seed(2)
    first, second = draw_view(images, generator), draw_view(images, generator)
    assert torch.equal(first, draw_view(images, torch.Generator().manual_seed(2)))
    assert not torch.equal(first, second)
