"""What every registered attack must do, on linear classifiers that overfit real digits."""

import pytest
import torch
from sklearn.datasets import load_digits

from attacks import ATTACKS, DEFAULT_ATTACKS, SHADOW_FREE
from attacks.intervals import delong
from attacks.signals import signals

EXAMPLES, SHADOWS = 200, 16


@pytest.fixture(scope="module")
def fleet():
    """Logits [models, queries, examples, classes], labels and membership; the target comes last.

    Least squares on 100 images of 64 pixels fits its members far better than other images.
    """
    rng = torch.Generator().manual_seed(0)
    digits = load_digits()
    images = torch.from_numpy(digits.images[:EXAMPLES] / 16)
    labels = torch.from_numpy(digits.target[:EXAMPLES])
    views = torch.stack([images, images.roll(1, 2)]).flatten(2)
    halves = torch.rand(SHADOWS // 2 + 1, EXAMPLES, generator=rng).argsort(1) < EXAMPLES // 2
    members = torch.stack([halves, ~halves], 1).flatten(0, 1)[:-1]
    logits = []
    for own in members:
        x, y = views[:, own].flatten(0, 1), labels[own].repeat(2)
        weight = torch.linalg.lstsq(x, torch.eye(10).double()[y]).solution
        logits.append(5 * views @ weight)
    return torch.stack(logits), labels, members


def run(name, logits, labels, members):
    phi = signals(logits, labels).phi
    return ATTACKS[name](phi[-1], phi[:-1], members[:-1])


@pytest.mark.parametrize("name", ATTACKS)
def test_an_overfitted_model_is_found_out(fleet, name):
    """Two public tools ship an inverted sign."""
    scores, inside = run(name, *fleet), fleet[2][-1]
    assert delong(scores, inside).low > 0.5
    assert delong(scores, ~inside).value == pytest.approx(1 - delong(scores, inside).value)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_without_members_gives_half(fleet, name):
    logits, labels, members = fleet
    strangers = torch.rand(EXAMPLES, generator=torch.Generator().manual_seed(1)) < 0.5
    found = delong(run(name, logits, labels, members), strangers)
    assert found.low <= 0.5 <= found.high


@pytest.mark.parametrize("name", ATTACKS)
def test_order_of_models_examples_and_classes_does_not_matter(rng, fleet, name):
    logits, labels, members = fleet
    scores = run(name, *fleet)
    models = torch.cat([torch.randperm(SHADOWS, generator=rng), torch.tensor([SHADOWS])])
    torch.testing.assert_close(run(name, logits[models], labels, members[models]), scores)
    order = torch.randperm(EXAMPLES, generator=rng)
    shuffled = run(name, logits[:, :, order], labels[order], members[:, order])
    torch.testing.assert_close(shuffled, scores[order])
    classes = torch.randperm(10, generator=rng)
    renamed = run(name, logits[..., classes], classes.argsort()[labels], members)
    torch.testing.assert_close(renamed, scores, rtol=1e-4, atol=1e-4)  # phi is float32


@pytest.mark.parametrize("name", ATTACKS)
def test_a_constant_added_to_the_logits_does_not_matter(fleet, name):
    logits, labels, members = fleet
    scores = run(name, *fleet)
    shifted = run(name, logits + 3.0, labels, members)
    torch.testing.assert_close(shifted, scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ATTACKS)
def test_shadow_free_attacks_and_only_they_ignore_the_shadows(fleet, name):
    logits, labels, members = fleet
    others = torch.cat([logits[:-1].roll(1, 0), logits[-1:]])
    unchanged = torch.equal(run(name, others, labels, members), run(name, *fleet))
    assert unchanged == (name in SHADOW_FREE)


@pytest.mark.parametrize("name", ATTACKS)
def test_several_targets_score_as_each_alone(fleet, name):
    """To the last bit."""
    logits, labels, members = fleet
    phi = signals(logits, labels).phi
    targets = torch.stack([phi[-1], phi[-1] - 3, phi[-1].roll(1, -1)])
    together = ATTACKS[name](targets, phi[:-1], members[:-1])
    for target, scores in zip(targets, together, strict=True):
        assert torch.equal(ATTACKS[name](target, phi[:-1], members[:-1]), scores)


def test_default_attacks():
    assert DEFAULT_ATTACKS == (
        "global_threshold",
        "lira_online",
        "lira_online_fixed",
        "lira_offline",
        "lira_offline_fixed",
    )
