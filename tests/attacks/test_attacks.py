"""What every registered attack must do, on linear classifiers that overfit real digits."""

from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from attacks import ATTACKS, DEFAULT_ATTACKS
from attacks.game import ModelSignals, Shadows, Target
from attacks.metrics.intervals import delong
from attacks.quantile import make_features
from attacks.signals import signals

EXAMPLES, POPULATION, SHADOWS = 200, 300, 16


class Fleet(NamedTuple):
    """Models, of which the last is the target, and images on which they are shown.

    The first `EXAMPLES` images are audited, and no model trained on the others.
    """

    logits: Tensor  # [models, queries, images, classes]
    images: Tensor
    labels: Tensor
    members: Tensor  # [models, examples]

    def pick(self, order):
        """The same images in another order."""
        return self._replace(
            logits=self.logits[:, :, order],
            images=self.images[order],
            labels=self.labels[order],
            members=self.members[:, order[:EXAMPLES]],
        )


@pytest.fixture(scope="module")
def fleet():
    """Least squares on 100 images of 64 pixels fits its members far better than other images."""
    rng = torch.Generator().manual_seed(0)
    digits = load_digits()
    images = torch.from_numpy(digits.images[: EXAMPLES + POPULATION] / 16)
    labels = torch.from_numpy(digits.target[: EXAMPLES + POPULATION])
    views = torch.stack([images, images.roll(1, 2)]).flatten(2)
    halves = torch.rand(SHADOWS // 2 + 1, EXAMPLES, generator=rng).argsort(1) < EXAMPLES // 2
    members = torch.stack([halves, ~halves], 1).flatten(0, 1)[:-1]
    logits = []
    for own in members:
        x, y = views[:, :EXAMPLES][:, own].flatten(0, 1), labels[:EXAMPLES][own].repeat(2)
        weight = torch.linalg.lstsq(x, torch.eye(10).double()[y]).solution
        logits.append(5 * views @ weight)
    pixels = (240 * images).round().to(torch.uint8).unsqueeze(1)
    return Fleet(torch.stack(logits), pixels, labels, members)


def see(fleet):
    """All that an attacker may see of all models."""
    own, known = slice(0, EXAMPLES), slice(EXAMPLES, None)
    inside, outside = (
        signals(fleet.logits[:, :, some], fleet.labels[some]) for some in (own, known)
    )
    features = make_features(
        *(fleet.images[own], fleet.labels[own]), *(fleet.images[known], fleet.labels[known])
    )
    return ModelSignals(inside.phi, inside.hinge, outside.phi, outside.hinge, features)


def attack(name, seen, members):
    shadows = len(members) - 1
    against = Shadows(seen.of(range(shadows)), members[:-1])
    (scores,) = ATTACKS[name].run(seen.of([shadows]).read(), against)
    return scores


def run(name, fleet):
    return attack(name, see(fleet), fleet.members)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_overfitted_model_is_found_out(fleet, name):
    """Two public tools ship an inverted sign."""
    scores, inside = run(name, fleet), fleet.members[-1]
    assert delong(scores, inside).low > 0.5
    assert delong(scores, ~inside).value == pytest.approx(1 - delong(scores, inside).value)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_without_members_gives_half(fleet, name):
    strangers = torch.rand(EXAMPLES, generator=torch.Generator().manual_seed(1)) < 0.5
    found = delong(run(name, fleet), strangers)
    assert found.low <= 0.5 <= found.high


@pytest.mark.parametrize("name", ATTACKS)
def test_order_of_models_examples_and_classes_does_not_matter(rng, fleet, name):
    scores = run(name, fleet)
    models = torch.cat([torch.randperm(SHADOWS, generator=rng), torch.tensor([SHADOWS])])
    reordered = fleet._replace(logits=fleet.logits[models], members=fleet.members[models])
    torch.testing.assert_close(run(name, reordered), scores)
    order, known = torch.randperm(EXAMPLES, generator=rng), torch.arange(POPULATION) + EXAMPLES
    shuffled = fleet.pick(torch.cat([order, known]))
    torch.testing.assert_close(run(name, shuffled), scores[order])
    classes = torch.randperm(10, generator=rng)
    renamed = fleet._replace(
        logits=fleet.logits[..., classes], labels=classes.argsort()[fleet.labels]
    )
    torch.testing.assert_close(run(name, renamed), scores, rtol=1e-4, atol=1e-4)  # float32


@pytest.mark.parametrize("name", ATTACKS)
def test_order_of_the_population_does_not_matter(rng, fleet, name):
    known = torch.randperm(POPULATION, generator=rng) + EXAMPLES
    scores, shuffled = (
        run(name, fleet),
        run(name, fleet.pick(torch.cat([torch.arange(200), known]))),
    )
    if name != "quantile_regression":
        torch.testing.assert_close(shuffled, scores)
    else:  # its five folds are drawn by position, so that sigma is a little different
        assert torch.corrcoef(torch.stack([shuffled, scores]))[0, 1] > 0.95


@pytest.mark.parametrize("name", ATTACKS)
def test_a_constant_added_to_the_logits_does_not_matter(fleet, name):
    shifted = run(name, fleet._replace(logits=fleet.logits + 3.0))
    torch.testing.assert_close(shifted, run(name, fleet), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ATTACKS)
def test_shadow_free_attacks_and_only_they_ignore_the_shadows(fleet, name):
    scores = run(name, fleet)
    others = torch.cat([fleet.logits[:-1].roll(1, 2), fleet.logits[-1:]])  # on the next image
    unchanged = torch.equal(run(name, fleet._replace(logits=others)), scores)
    assert unchanged == (not ATTACKS[name].shadows)


@pytest.mark.parametrize("name", ATTACKS)
def test_who_trained_on_what_matters_to_attacks_with_shadows(fleet, name):
    """All but one shadow: of balanced ones online RMIA takes the same mean, whoever they are."""
    some = fleet._replace(logits=fleet.logits[1:], members=fleet.members[1:])
    mixed = torch.cat([some.members[:-1].roll(1, 0), some.members[-1:]])
    unchanged = torch.equal(run(name, some._replace(members=mixed)), run(name, some))
    # `base` is a mean over all shadows alike
    assert unchanged == (not ATTACKS[name].shadows or name == "base")


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_given_what_it_needs_and_no_more(fleet, name):
    """Anything that `needs` does not name may be unknown; all that it names may not."""
    everything = see(fleet)
    needs = ATTACKS[name].needs
    spare = {field: None for field in ModelSignals._fields[1:] if field not in needs}
    few = everything._replace(**spare)
    assert torch.equal(attack(name, few, fleet.members), run(name, fleet))
    for field in needs:
        with pytest.raises((TypeError, AttributeError)):
            attack(name, few._replace(**{field: None}), fleet.members)


@pytest.mark.parametrize("name", ATTACKS)
def test_several_targets_score_as_each_alone(fleet, name):
    """To the last bit."""
    seen = see(fleet)
    target = seen.of([SHADOWS]).read()
    shadows = Shadows(seen.of(range(SHADOWS)), fleet.members[:-1])
    several = Target(
        *(torch.cat([some, some - 3, some.roll(1, -1)]) for some in target[:4]), target.features
    )
    together = ATTACKS[name].run(several, shadows)
    for row, scores in enumerate(together):
        alone = Target(*(some[[row]] for some in several[:4]), several.features)
        (found,) = ATTACKS[name].run(alone, shadows)
        if name != "quantile_regression":
            assert torch.equal(found, scores)
        else:  # LAPACK solves for several right sides in another order
            torch.testing.assert_close(found, scores, rtol=1e-9, atol=1e-9)


def test_default_attacks():
    assert DEFAULT_ATTACKS == (
        "gap",
        "global_threshold",
        "quantile_regression",
        "attack_r",
        "rmia_online",
        "rmia_offline",
        "lira_online",
        "lira_online_fixed",
        "lira_offline",
        "lira_offline_fixed",
    )
