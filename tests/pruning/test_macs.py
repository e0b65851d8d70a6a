import pytest
import torch_pruning
from torch import nn

from pruning.cut import cut, kept_positions, kept_shapes, shapes_of
from pruning.macs import count_places, macs
from pruning.threshold import make_plan

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def counted(network, images):
    """Torch-Pruning's own count of these layers per image, without the biases that it adds."""
    _, _, layers, _ = torch_pruning.utils.count_ops_and_params(network, images[:1], layer_wise=True)
    total, places = 0, count_places(network, images)
    for name, layer in network.named_modules():
        if isinstance(layer, LAYERS):
            outputs = layer.weight.shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0]
            bias = 0 if layer.bias is None else outputs * places[f"{name}.weight"]
            total += layers[layer] - bias
    return total


@pytest.mark.parametrize("name", ["resnet8", "wide_resnet28_2", "densenet121", "mlp", "convnet_gn"])
def test_macs_are_those_that_torch_pruning_counts(make, images, name):
    network = make(name)
    assert macs(shapes_of(network), count_places(network, images)) == counted(network, images)


@pytest.mark.parametrize("name", ["resnet8", "convnet"])
def test_macs_after_a_cut_follow_from_the_shapes(make, images, name):
    network = make(name)
    plan = make_plan(network, images)
    kept = {group.name: list(range(0, group.size, 2)) for group in plan.groups}
    expected = macs(kept_shapes(plan.groups, kept, plan.shapes), plan.places)
    cut(network, kept_positions(plan.groups, kept, plan.shapes))
    assert expected == counted(network, images)
    assert plan.share(kept) == 1 - expected / macs(plan.shapes, plan.places)


def test_grouped_and_transposed_convolutions_by_hand(branches, images):
    """Images of 10x10; `depthwise` makes 8x8, which `wider` doubles; four weights each meet it."""
    places = count_places(branches, images)
    assert places == {
        **{"stem.weight": 100, "grouped.weight": 100, "point.weight": 100},
        **{"depthwise.weight": 64, "wider.weight": 64, "joined.weight": 36, "fc.weight": 1},
    }
    stem, grouped, point = 8 * 3 * 9, 16 * 2 * 9, 8 * 16
    rest = 64 * (8 * 9 + 8 * 3 * 4) + 36 * 6 * 14 + 10 * 24
    assert macs(shapes_of(branches), places) == 100 * (stem + grouped + point) + rest
