"""What every registered attack must do, on linear classifiers that overfit real digits."""

from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import avg_pool2d

from attacks import ATTACKS, DEFAULT_ATTACKS
from attacks.game import ModelSignals, Shadows, Target
from attacks.metrics.intervals import delong
from attacks.quantile import make_features
from attacks.signals import signals

EXAMPLES, POPULATION, SHADOWS = 200, 300, 16

# Float64 sums of n terms in another order differ by n x 2^-53 of their size: 3e-14 for the 300
# terms here. LiRA's squares of up to 100 standard deviations turn that into 1e-9 of a score.
SUMMED_OTHERWISE = {"rtol": 1e-9, "atol": 1e-9}
# Logits whose float64 sums differ in the last bit may round to neighbouring float32 signals. Moving
# all signals of this fleet to a neighbour changes no score by more than 8e-6 + 2e-6 of itself.
ROUNDED_OTHERWISE = {"rtol": 1e-4, "atol": 1e-4}


class Fleet(NamedTuple):
    """Models, the last of them the target, and the images that they are shown.

    The first `EXAMPLES` images are audited; no model trained on the rest, the population.
    """

    logits: Tensor  # [models, queries, images, classes]
    images: Tensor
    labels: Tensor
    members: Tensor  # [models, examples]

    def reorder(self, order):
        """Return the same images in another order."""
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
    """Everything that an attacker may see of all models."""
    parts = slice(0, EXAMPLES), slice(EXAMPLES, None)
    audited, population = (signals(fleet.logits[:, :, part], fleet.labels[part]) for part in parts)
    (images, labels), population_split = ((fleet.images[p], fleet.labels[p]) for p in parts)
    features = make_features(images, labels, *population_split)
    classes = labels, population_split[1]
    # of a linear classifier the inputs are pixels; of a quarter as many every sum is exact
    coarse = avg_pool2d(fleet.images.float(), 2).flatten(1).T
    inputs = (coarse[:, part].expand(len(fleet.logits), -1, -1) for part in parts)
    return ModelSignals(
        audited.phi, audited.hinge, population.phi, population.hinge, features, classes, *inputs
    )


def attack(name, seen, members):
    shadows = len(members) - 1
    against = Shadows(seen.of(range(shadows)), members[:-1])
    (scores,) = ATTACKS[name].run(seen.of([shadows]).read(), against)
    return scores


def run(name, fleet):
    return attack(name, see(fleet), fleet.members)


@pytest.mark.parametrize("name", ATTACKS)
def test_members_of_an_overfitted_model_score_higher(fleet, name):
    """Two public tools ship an inverted sign."""
    scores, members = run(name, fleet), fleet.members[-1]
    assert delong(scores, members).low > 0.5
    assert delong(scores, ~members).value == pytest.approx(1 - delong(scores, members).value)


@pytest.mark.parametrize("name", ATTACKS)
def test_random_labels_of_membership_give_an_auc_of_half(rng, fleet, name):
    random = torch.rand(EXAMPLES, generator=rng.manual_seed(1)) < 0.5
    area = delong(run(name, fleet), random)
    assert area.low <= 0.5 <= area.high


@pytest.mark.parametrize("name", ATTACKS)
def test_the_order_of_the_shadows_does_not_matter(rng, fleet, name):
    models = torch.cat([torch.randperm(SHADOWS, generator=rng), torch.tensor([SHADOWS])])
    reordered = fleet._replace(logits=fleet.logits[models], members=fleet.members[models])
    torch.testing.assert_close(run(name, reordered), run(name, fleet), **SUMMED_OTHERWISE)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_order_of_the_examples_does_not_matter(rng, fleet, name):
    order, population = torch.randperm(EXAMPLES, generator=rng), torch.arange(POPULATION) + EXAMPLES
    shuffled, scores = run(name, fleet.reorder(torch.cat([order, population]))), run(name, fleet)
    torch.testing.assert_close(shuffled, scores[order], **SUMMED_OTHERWISE)
    if name.startswith("quantile"):  # by construction, to the last bit
        assert torch.equal(shuffled, scores[order])


@pytest.mark.parametrize("name", ATTACKS)
def test_the_order_of_the_classes_does_not_matter(rng, fleet, name):
    classes = torch.randperm(10, generator=rng)
    renamed = fleet._replace(
        logits=fleet.logits[..., classes], labels=classes.argsort()[fleet.labels]
    )
    torch.testing.assert_close(run(name, renamed), run(name, fleet), **ROUNDED_OTHERWISE)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_order_of_the_population_does_not_matter(rng, fleet, name):
    order = torch.cat(
        [torch.arange(EXAMPLES), torch.randperm(POPULATION, generator=rng) + EXAMPLES]
    )
    shuffled, scores = run(name, fleet.reorder(order)), run(name, fleet)
    if not name.startswith("quantile"):
        torch.testing.assert_close(shuffled, scores, **SUMMED_OTHERWISE)
    else:  # its five folds are drawn by position, so sigma is slightly different
        assert torch.corrcoef(torch.stack([shuffled, scores]))[0, 1] > 0.95


@pytest.mark.parametrize("name", ATTACKS)
def test_a_constant_added_to_the_logits_does_not_matter(fleet, name):
    shifted = run(name, fleet._replace(logits=fleet.logits + 3.0))
    torch.testing.assert_close(shifted, run(name, fleet), **ROUNDED_OTHERWISE)


@pytest.mark.parametrize("name", ATTACKS)
def test_only_shadow_free_attacks_ignore_the_shadows(fleet, name):
    scores = run(name, fleet)
    moved = torch.cat([fleet.logits[:-1].roll(1, 2), fleet.logits[-1:]])  # to the next image
    unchanged = torch.equal(run(name, fleet._replace(logits=moved)), scores)
    assert unchanged == (not ATTACKS[name].shadows)


@pytest.mark.parametrize("name", ATTACKS)
def test_shadow_membership_matters_to_attacks_with_shadows(fleet, name):
    """With one shadow left out: online RMIA of balanced shadows takes the same mean either way."""
    odd = fleet._replace(logits=fleet.logits[1:], members=fleet.members[1:])
    mixed = torch.cat([odd.members[:-1].roll(1, 0), odd.members[-1:]])
    unchanged = torch.equal(run(name, odd._replace(members=mixed)), run(name, odd))
    # `base` averages over all shadows alike
    assert unchanged == (not ATTACKS[name].shadows or name == "base")


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_needs_exactly_the_signals_that_it_names(fleet, name):
    everything = see(fleet)
    needs = ATTACKS[name].needs
    spare = {field: None for field in ModelSignals._fields[1:] if field not in needs}
    needed = everything._replace(**spare)
    assert torch.equal(attack(name, needed, fleet.members), run(name, fleet))
    for field in needs:
        with pytest.raises((TypeError, AttributeError)):
            attack(name, needed._replace(**{field: None}), fleet.members)


@pytest.mark.parametrize("name", ATTACKS)
def test_several_targets_score_as_each_alone_to_the_last_bit(fleet, name):
    seen = see(fleet)
    target = seen.of([SHADOWS]).read()
    shadows = Shadows(seen.of(range(SHADOWS)), fleet.members[:-1])
    shared = {"features": target.features, "labels": target.labels}
    own = {field: signal for field, signal in target._asdict().items() if field not in shared}
    moved = {field: [signal, signal - 3, signal.roll(1, -1)] for field, signal in own.items()}
    several = {field: torch.cat(signals) for field, signals in moved.items()}
    together = ATTACKS[name].run(Target(**several, **shared), shadows)
    for row, scores in enumerate(together):
        alone = Target(**{field: signal[[row]] for field, signal in several.items()}, **shared)
        assert torch.equal(*ATTACKS[name].run(alone, shadows), scores)


def test_the_default_attacks():
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
