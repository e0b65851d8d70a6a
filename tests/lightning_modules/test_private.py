"""DP-SGD against the slow loop over examples, and the noise against its distribution."""

import copy

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from datamodules import Digits
from datamodules.batches import Batch
from lightning_modules.learners import make_classifier
from lightning_modules.networks import build_network
from lightning_modules.options import DpOptions, ModelOptions
from lightning_modules.private import PrivateClassifier, find_batchnorm

QUIET = 1e-9  # a noise that changes nothing


class Spy(PrivateClassifier):
    """A private classifier that remembers what it was trained on, and its learning rates."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.batches, self.rates = [], []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)


@pytest.fixture
def digits():
    data = Digits(pool_size=40, batch_size=2)
    data.setup("fit")
    data.assign(torch.arange(40) % 2 == 0, seed=5, poisson=True)
    return data


def fit(data, tmp_path, network="convnet_gn", dp=None, epochs=2, kind=Spy, **options):
    model = kind(data, 3, ModelOptions(network, dp=dp or DpOptions(noise=QUIET), **options))
    start = copy.deepcopy(model.network)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, datamodule=data)
    return model, start


def clipped_gradients(network, batch, clip):
    """Sum of the gradients of single examples, each cut to norm `clip`, example by example."""
    weights = {key: value.detach().clone() for key, value in network.named_parameters()}
    sums = {key: torch.zeros_like(value) for key, value in weights.items()}
    norms = []
    for image, label in zip(batch.images, batch.labels, strict=True):
        leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
        loss = cross_entropy(functional_call(network, leaves, (image[None],)), label[None])
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        for key, gradient in zip(leaves, gradients, strict=True):
            sums[key] += gradient * min(1, clip / norms[-1])
    return sums, norms


@pytest.mark.parametrize(
    ("network", "clip"), [("convnet_gn", 9.0), ("resnet8_gn", 9.0), ("mlp", 4.5)]
)
def test_without_noise_steps_are_those_of_clipped_sgd(digits, tmp_path, network, clip):
    """v = 0.8 v + g + 0.03 w and w = w - lr v, with g a sum over examples by the mean batch size.

    Some batches are empty: their g is 0, and the step is taken all the same.
    """
    options = {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.03}
    dp = DpOptions(noise=QUIET, clip=clip)
    model, network = fit(digits, tmp_path, network, dp, **options)
    velocity = {key: torch.zeros_like(value) for key, value in network.named_parameters()}
    every = []
    for batch, rate in zip(model.batches, model.rates, strict=True):
        sums, norms = clipped_gradients(network, batch, clip)
        every += norms
        with torch.no_grad():
            for key, weight in network.named_parameters():
                step = sums[key] / digits.batch_size + 0.03 * weight
                velocity[key] = 0.8 * velocity[key] + step
                weight -= rate * velocity[key]
    assert [len(batch.labels) for batch in model.batches].count(0)
    assert len(model.batches) == 2 * 10
    assert min(every) < clip < max(every)  # some are clipped, and others are not
    for value, other in zip(model.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-5)


def test_an_empty_batch_is_a_step_of_noise_with_its_standard_deviation(digits, tmp_path):
    """One step of SGD from batches without any example: -lr times noise x clip / batch size."""
    digits.batch_size, dp = 20, DpOptions(noise=3.0, clip=0.5)

    class Nobody(Spy):
        def training_step(self, batch, batch_idx):
            nobody = Batch(batch.images[:0], batch.labels[:0], batch.indices[:0])
            return super().training_step(nobody, batch_idx)

    options = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    model, start = fit(digits, tmp_path, dp=dp, epochs=1, kind=Nobody, **options)
    pairs = zip(model.network.parameters(), start.parameters(), strict=True)
    noise = torch.cat([(b - a).detach().flatten() for a, b in pairs]) / 0.1 * 20
    assert len(model.batches) == 1
    assert len(noise) == 24_346 - 2 * 16 * 9  # of one channel, not three
    assert noise.std().item() == pytest.approx(3.0 * 0.5, rel=5 / (2 * len(noise)) ** 0.5)
    assert noise.mean().item() == pytest.approx(0, abs=5 * 1.5 / len(noise) ** 0.5)
    # normal, and of no order: kurtosis 3, and neighbours are uncorrelated
    scaled = noise / noise.std()
    assert scaled.pow(4).mean().item() == pytest.approx(3, abs=5 * (96 / len(noise)) ** 0.5)
    assert abs((scaled[1:] * scaled[:-1]).mean().item()) < 5 / len(noise) ** 0.5


def test_a_seed_fixes_the_noise_and_the_batches(digits, tmp_path):
    ends = []
    for state in (1, 2):
        torch.manual_seed(state)  # must not matter
        model, _ = fit(digits, tmp_path, dp=DpOptions(noise=1.0))
        ends.append((model.network.state_dict(), [b.indices.tolist() for b in model.batches]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(a, ends[1][0][key]) for key, a in ends[0][0].items())
    noises = {tuple(weights.flatten()[:3].tolist()) for weights in ends[0][0].values()}
    assert len(noises) == len(ends[0][0])


def test_nothing_of_opacus_is_left_in_a_trained_network(digits, tmp_path):
    model, _ = fit(digits, tmp_path, "resnet8_gn")
    plain = build_network("resnet8_gn", 10, 1, {})
    assert model.network.state_dict().keys() == plain.state_dict().keys()
    assert [key for key, _ in model.named_parameters()] == [
        f"network.{key}" for key, _ in plain.named_parameters()
    ]
    for module, other in zip(model.network.modules(), plain.modules(), strict=True):
        assert len(module._forward_hooks) == len(other._forward_hooks)  # that of the logits
        assert len(module._backward_hooks) == 0
        assert vars(module).keys() == vars(other).keys()
        assert getattr(module, "inplace", None) == getattr(other, "inplace", None)
    assert {key for weight in model.network.parameters() for key in vars(weight)} == set()


def test_only_options_with_a_noise_train_privately(digits):
    assert isinstance(
        make_classifier(digits, 0, ModelOptions("mlp", dp=DpOptions(noise=1.0))), PrivateClassifier
    )
    assert not isinstance(make_classifier(digits, 0, ModelOptions("mlp")), PrivateClassifier)


def test_batchnorm_is_found_by_name_in_any_dimension():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.SyncBatchNorm(2)))
    assert find_batchnorm(network) == ["1", "2.0"]
    assert find_batchnorm(build_network("resnet8_gn", 10, 1, {})) == []
    assert find_batchnorm(build_network("convnet", 10, 1, {})) == [
        "layer1.1",
        "layer2.1",
        "layer3.1",
    ]
