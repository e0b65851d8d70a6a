"""Some of the models of a fleet, and their signals in memory."""

import pytest
import torch

from attacks.game import Observed, Shadows
from attacks.lira import fit_sides


class OnDisk:
    """Gives some of its models, still on disk, or a slice of its examples; nothing else."""

    def __init__(self, tensor, read):
        self.tensor, self.shape, self.dtype, self.read = tensor, tensor.shape, tensor.dtype, read

    def __getitem__(self, index):
        if isinstance(index, list):
            return OnDisk(self.tensor[index], self.read)
        dots, examples = index
        assert dots is ...
        assert isinstance(examples, slice)
        self.read.append(examples)
        return self.tensor[..., examples]


SIGNALS = ("phi", "hinge", "population", "population_hinge")


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("models", [[4, 0, 2], (1,), range(1, 4), [2, 2]], ids=str)
@pytest.mark.parametrize("unknown", [(), ("hinge", "population_hinge"), SIGNALS[1:]], ids=len)
def test_some_models_in_memory(rng, disk, models, unknown):
    plain = {
        name: None if name in unknown else torch.randn(5, 2, 9 + i, generator=rng)
        for i, name in enumerate(SIGNALS)
    }
    features, read = (torch.randn(9, 3, generator=rng), torch.randn(11, 3, generator=rng)), []
    wrapped = {n: x if x is None or not disk else OnDisk(x, read) for n, x in plain.items()}
    some = Observed(**wrapped, features=features).of(models)
    assert read == []  # choosing models reads nothing
    target = some.read()
    for name, whole in plain.items():
        if whole is None:
            assert getattr(some, name) is getattr(target, name) is None
        else:
            assert isinstance(getattr(target, name), torch.Tensor)
            assert torch.equal(getattr(target, name), whole[list(models)])
    assert target.features is some.features is features


def test_what_is_unknown_stays_unknown(rng):
    phi = torch.randn(2, 1, 4, generator=rng)
    assert Observed(phi).of([1]).read()[1:] == (None,) * 4


def test_shadows_are_fitted_once_and_as_lira_fits_them(rng):
    phi, read = torch.randn(7, 2, 30, generator=rng), []
    included = torch.rand(7, 30, generator=rng) < 0.5
    included[:2], included[2:4] = True, False
    shadows = Shadows(Observed(OnDisk(phi, read)), included)
    assert read == []
    for _ in range(3):
        for found, side in ((shadows.inside, included), (shadows.outside, ~included)):
            (expected,) = fit_sides(phi, (side,))
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert len(read) == 1
    assert shadows.population is None


def test_one_side_suffices_for_those_who_need_no_other(rng):
    """Offline attacks ask nothing of the shadows that trained on an example."""
    included = torch.zeros(4, 6, dtype=torch.bool)
    shadows = Shadows(Observed(torch.randn(4, 1, 6, generator=rng)), included)
    assert shadows.outside.fewest == 4
    with pytest.raises(ValueError, match="2 shadow models or more on a side, got 0"):
        _ = shadows.inside
