import pytest
import torch

from pruning.saliency import saliency
from pruning.threshold import choose, make_plan, removable


@pytest.fixture
def plan(make, images):
    return make_plan(make("resnet8"), images)


@pytest.fixture
def scores(plan, rng):
    return {group.name: torch.rand(group.size, generator=rng) for group in plan.groups}


@pytest.mark.parametrize("remove", [0.01, 0.3, 0.5, 0.9])
def test_the_cut_is_the_first_of_a_slow_search_that_removes_enough(plan, scores, remove):
    kept = choose(scores, plan, remove)
    slow = {name: list(channels) for name, channels in plan.everything.items()}
    order = sorted(
        (scores[group.name][channel].item(), group.name, channel)
        for group in plan.groups
        for channel in scores[group.name].argsort()[: removable(group.size)].tolist()
    )
    for _, name, channel in order:
        if plan.share(slow) >= remove:
            break
        slow[name].remove(channel)
    assert kept == slow
    assert plan.share(kept) >= remove


def test_a_group_loses_no_more_than_three_quarters(plan, scores):
    scores["conv1"] -= 9.0
    kept = choose(scores, plan, plan.most)
    assert {group.name: len(kept[group.name]) for group in plan.groups} == {
        group.name: group.size // 4 for group in plan.groups
    }
    assert kept["conv1"] == sorted(scores["conv1"].argsort()[-4:].tolist())


@pytest.mark.parametrize(("size", "most"), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (32, 24)])
def test_at_least_one_channel_stays(size, most):
    assert removable(size) == most


def test_a_target_out_of_reach_is_refused_with_the_largest(plan, scores):
    with pytest.raises(ValueError, match=r"`remove` must be at most 0\.9\d+ for this netw.*0\.99"):
        choose(scores, plan, 0.99)


def test_equal_scores_fall_in_order(plan):
    """Where nothing tells channels apart, the same ones go on every machine."""
    scores = {group.name: torch.ones(group.size) for group in plan.groups}
    kept = choose(scores, plan, 0.2)
    assert kept.pop("conv1") == list(range(7, 16))
    assert kept == {name: every for name, every in plan.everything.items() if name != "conv1"}


def test_weights_alone_decide(make, images, rng):
    """Channels that were made smaller go first."""
    network = make("convnet")
    plan = make_plan(network, images)
    small = {group.name: set(range(0, group.size, 2)) for group in plan.groups}
    with torch.no_grad():
        for group in plan.groups:
            for piece in group.slices:
                if piece.role != "other":
                    places = piece.positions[sorted(small[group.name])].flatten()
                    tensor = network.get_parameter(piece.key)
                    tensor.index_copy_(
                        piece.axis, places, 0.01 * tensor.index_select(piece.axis, places)
                    )
    kept = choose(saliency(dict(network.named_parameters()), plan.groups), plan, 0.6)
    gone = {g.name: set(range(g.size)) - set(kept[g.name]) for g in plan.groups}
    assert all(channels <= small[name] for name, channels in gone.items())
