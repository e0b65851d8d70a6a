import pytest
import torch
from torch import nn
from torch.nn import functional

from quantization.rounding import gram as module
from quantization.rounding.gram import (
    Quadratic,
    draw_positions,
    grouped_product,
    make_quadratic,
    outputs_at,
    patches_at,
    places_per_image,
)

CONVOLUTIONS = {
    "1d": (nn.Conv1d, {"kernel_size": 3, "stride": 2, "padding": 2}),
    "1d-dilated-groups": (nn.Conv1d, {"kernel_size": 3, "dilation": 2, "groups": 2}),
    "2d": (nn.Conv2d, {"kernel_size": 3, "padding": 1}),
    "2d-uneven": (
        nn.Conv2d,
        {"kernel_size": (3, 2), "stride": (2, 3), "padding": (0, 2), "dilation": (1, 2)},
    ),
    "2d-1x1-strided": (nn.Conv2d, {"kernel_size": 1, "stride": 2}),
    "2d-groups": (nn.Conv2d, {"kernel_size": 3, "padding": 1, "groups": 2}),
    "2d-depthwise": (nn.Conv2d, {"kernel_size": 3, "padding": 1, "groups": 4}),
    "2d-same": (nn.Conv2d, {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)}),
    "2d-valid": (nn.Conv2d, {"kernel_size": 2, "padding": "valid"}),
    "2d-reflect": (nn.Conv2d, {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"}),
    "2d-replicate": (nn.Conv2d, {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"}),
    "2d-circular": (
        nn.Conv2d,
        {"kernel_size": 3, "padding": (2, 1), "padding_mode": "circular", "stride": 2, "groups": 2},
    ),
    "2d-same-circular": (
        nn.Conv2d,
        {"kernel_size": (2, 3), "padding": "same", "padding_mode": "circular"},
    ),
    "3d": (
        nn.Conv3d,
        {"kernel_size": (2, 3, 1), "stride": (1, 2, 2), "padding": (1, 1, 0), "groups": 2},
    ),
    "3d-dilated": (nn.Conv3d, {"kernel_size": 2, "dilation": (1, 2, 3), "padding": 1}),
}
SIDES = {nn.Conv1d: (9,), nn.Conv2d: (7, 6), nn.Conv3d: (4, 5, 6)}


def assert_gives_outputs(layer, inputs, rng, chosen=None):
    """The weight's rows times the patches are the layer's outputs at the same places."""
    layer, inputs = layer.double(), inputs.double()  # so that the order of sums hardly matters
    outputs = layer(inputs)
    rows = layer.weight.flatten(1)
    places = outputs[0].numel() // len(rows)
    at = draw_positions(len(outputs), places, places // 2 + 1 if chosen is None else chosen, rng)
    patches = patches_at(layer, inputs, at)
    groups = getattr(layer, "groups", 1)
    assert patches.shape == (groups, at.numel(), rows.shape[1])
    by_group = rows.view(len(patches), -1, rows.shape[1])
    ours = torch.einsum("gpc,grc->pgr", patches, by_group).flatten(1)
    ours = ours if layer.bias is None else ours + layer.bias
    torch.testing.assert_close(ours, outputs_at(layer, outputs, at), atol=1e-12, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "slice"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
@torch.no_grad()
def test_patches_of_a_convolution_give_its_outputs(name, layout, bias, rng):
    kind, options = CONVOLUTIONS[name]
    layer = kind(4, 8, bias=bias, **options)
    inputs = torch.randn(3, 4, *SIDES[kind], generator=rng)
    if layout == "slice":  # of a larger tensor, so that it starts within its storage
        inputs = torch.randn(5, 6, *SIDES[kind], generator=rng)[1:4, 2:]
    elif layout == "channels-last":
        inputs = inputs.movedim(1, -1).contiguous().movedim(-1, 1)
    assert_gives_outputs(layer, inputs, rng)


@pytest.mark.parametrize("inner", [(), (5,), (2, 3)])
@torch.no_grad()
def test_patches_of_a_linear_layer_give_its_outputs(inner, rng):
    layer, inputs = nn.Linear(6, 4), torch.randn(3, *inner, 6, generator=rng)
    assert_gives_outputs(layer, inputs, rng)
    assert_gives_outputs(layer, inputs.transpose(0, -1).contiguous().transpose(0, -1), rng)


@torch.no_grad()
def test_outputs_at_positions_match_a_loop(rng):
    outputs = torch.randn(2, 3, 4, 5, generator=rng)
    at = torch.tensor([[0, 7, 19], [3, 4, 12]])
    ours = outputs_at(nn.Conv2d(1, 3, 1), outputs, at)
    expected = [outputs[n, :, p // 5, p % 5] for n in range(2) for p in at[n].tolist()]
    assert torch.equal(ours, torch.stack(expected))


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"dilation": 2, "padding": 3}])
def test_patches_are_those_of_unfold(options, rng):
    inputs = torch.randn(3, 4, 8, 7, generator=rng)
    layer = nn.Conv2d(4, 2, 3, **options)
    unfolded = functional.unfold(inputs, 3, **options)  # [images, columns, places]
    at = draw_positions(3, unfolded.shape[2], unfolded.shape[2], rng)
    patches = patches_at(layer, inputs, at)
    assert torch.equal(patches[0], unfolded.transpose(1, 2).flatten(0, 1))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("scaled", [False, True])
def test_error_is_the_relative_squared_error(groups, scaled, rng):
    patches = torch.randn(groups, 40, 5, generator=rng, dtype=torch.double)
    targets = torch.randn(40, 6, generator=rng, dtype=torch.double)
    rows = torch.randn(6, 5, generator=rng, dtype=torch.double)
    scale = torch.randn(6, generator=rng, dtype=torch.double) if scaled else None
    outputs = torch.stack([patches[r * groups // 6] @ rows[r] for r in range(6)], 1)
    factor = 1 if scale is None else scale
    expected = (factor * (outputs - targets)).square().sum() / (factor * targets).square().sum()
    quadratic = make_quadratic(patches, targets)
    assert quadratic.error(rows, scale) == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_around_is_the_error_relative_to_the_layers_own_output(groups, rng):
    patches = torch.randn(groups, 30, 5, generator=rng, dtype=torch.double)
    weight, rows = torch.randn(2, 4, 5, generator=rng, dtype=torch.double)
    targets = torch.stack([patches[r * groups // 4] @ weight[r] for r in range(4)], 1)
    around = Quadratic.around(weight, patches.mT @ patches)
    for ours, theirs in zip(around, make_quadratic(patches, targets), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert around.error(weight) == pytest.approx(0, abs=1e-12)
    assert around.error(rows) == pytest.approx(make_quadratic(patches, targets).error(rows))


def test_error_by_hand():
    # Inputs 1 and 2; the weight 3 gives 3 and 6, the weight 2 gives 2 and 4: (1 + 4) / (9 + 36).
    quadratic = Quadratic.around(torch.tensor([[3.0]]), torch.tensor([[[5.0]]]))
    assert quadratic.error(torch.tensor([[2.0]])) == pytest.approx(5 / 45)
    assert quadratic.error(torch.tensor([[2.0]]), torch.tensor([7.0])) == pytest.approx(5 / 45)


def test_error_without_power_is_zero():
    quadratic = Quadratic.around(torch.zeros(2, 3), torch.eye(3)[None])
    assert quadratic.error(torch.zeros(2, 3)) == 0.0


def test_the_grouped_product_matches_a_loop(rng):
    rows, gram = torch.randn(6, 4, generator=rng), torch.randn(3, 4, 4, generator=rng)
    expected = torch.stack([row @ gram[r // 2] for r, row in enumerate(rows)])
    torch.testing.assert_close(grouped_product(rows, gram), expected)


@pytest.mark.parametrize(("places", "chosen"), [(20, 7), (20, 20), (1, 1), (500, 499)])
def test_positions_are_distinct_and_sorted(places, chosen, rng):
    at = draw_positions(9, places, chosen, rng)
    assert at.shape == (9, chosen)
    assert all(len(set(row)) == chosen and row == sorted(row) for row in at.tolist())
    assert int(at.min()) >= 0
    assert int(at.max()) < places
    if chosen == places:
        assert torch.equal(at, torch.arange(places).expand(9, -1))


def test_positions_are_uniform_and_given_by_the_generator(rng):
    at = draw_positions(4000, 5, 2, rng)
    counts = at.flatten().bincount(minlength=5)
    assert (counts - 1600).abs().max() < 5 * (4000 * 0.4 * 0.6) ** 0.5
    again = draw_positions(4000, 5, 2, torch.Generator().manual_seed(0))
    assert torch.equal(at, again)


@pytest.mark.parametrize(
    ("images", "places", "columns", "expected"),
    [
        (1024, 64, 27, 16),  # 16,384 of 65,536
        (1000, 64, 27, 17),  # 16.384, rounded up
        (1024, 8, 27, 8),  # no more than the output has
        (1024, 64, 4608, 36),  # 8 per column: 36,864
        (1, 64, 27, 64),
        (100_000, 64, 27, 1),
    ],
)
def test_places_per_image_by_hand(images, places, columns, expected):
    assert (module.MIN_POSITIONS, module.POSITIONS_PER_COLUMN) == (16_384, 8)
    assert places_per_image(images, places, columns) == expected
