"""What fails in a fit is one line before it, with the step, the layer and the way out."""

import threading
from itertools import count

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from datamodules import Digits
from datamodules.batches import Batch
from lightning_modules.classifier import Classifier
from lightning_modules.logits import take_logits
from lightning_modules.options import DpOptions, ModelOptions
from lightning_modules.private import PrivateClassifier
from lightning_modules.rehearsal import check_unused, rehearse


def batch(size):
    images = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(size))
    return Batch(images, torch.arange(size) % 10, torch.arange(size))


def trainer(precision=None):
    return Trainer(accelerator="cpu", devices=1, precision=precision, logger=False)


def run(network, sizes=(5, 4), precision=None):
    """Rehearse with a network of ours or an own one."""
    classifier = Classifier(10, 1, 0, ModelOptions("convnet"))
    classifier.network = take_logits(network)
    return rehearse(classifier, [batch(size) for size in sizes], trainer(precision))


class Own(nn.Module):
    """A small network; its subclasses break in one way each."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
        self.second = nn.Linear(16, 10)

    def forward(self, images):
        return self.second(self.change(self.first(images)))

    def change(self, features):
        return features.relu()


class InPlace(Own):
    def change(self, features):
        active = features.sigmoid()
        active += 1
        return active


class AddsInPlace(Own):
    def change(self, features):
        features += 1
        return features.relu()


class Tracked(Own):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(
            nn.InstanceNorm2d(1, affine=True, track_running_stats=True), *self.first
        )


class Unused(Own):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


class Wide(Own):
    def __init__(self):
        super().__init__()
        self.first[1] = nn.Linear(65, 16)


class OnlyInTraining(Own):
    def change(self, features):
        if self.training:
            raise KeyError("schedule")
        return features


class Detached(Own):
    def forward(self, images):
        return super().forward(images).detach()


class Classes(Own):
    def forward(self, images):
        return super().forward(images).argmax(1)


class Loss(Own):
    def forward(self, images):
        return super().forward(images).square().mean()


class Tokens(Own):
    def forward(self, images):
        return super().forward(images)[:, None].expand(-1, 4, -1)


class Mixed(Own):
    def forward(self, images):
        return super().forward(images).reshape(-1, 5).repeat(1, 2)


class Fixed(Own):
    """Made for batches of five."""

    def change(self, features):
        return features.view(5, 16) if self.training else features


class TwoInputs(Own):
    def forward(self, images, mask):
        return super().forward(images)


class Keeper(Own):
    """Keeps a tensor of its first evaluation and trains with it."""

    kept = None

    def change(self, features):
        if self.kept is None and not self.training:
            self.kept = features[:1] * 2
        return features if self.kept is None else features * self.kept


class Locked(Own):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Normalised(Own):
    """Normalises over the batch alone."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def change(self, features):
        return self.norm(features)


class Half(Own):
    def __init__(self):
        super().__init__()
        self.half()


class Frozen(Own):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class Extra(Own):
    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass


class Sparse(Own):
    def __init__(self):
        super().__init__()
        self.register_buffer("graph", torch.eye(3).to_sparse())


class NoTraining(Own):
    def forward(self, images):
        return (super().forward(images), images) if self.training else super().forward(images)


class View(Own):
    def change(self, features):
        return features.reshape(-1, 2, 8).mT.view(-1, 16)


class Remembers(Own):
    """Adds what it computed of the batch before."""

    last = None

    def change(self, features):
        before, self.last = self.last, features.detach()
        return features if before is None else features + before


class Kept(Own):
    """Keeps a tensor with its gradient, which a copy cannot."""

    def change(self, features):
        self.features = features.relu()
        return self.features


class Quits(Own):
    def change(self, features):
        raise SystemExit(3)


class Unrelated(Own):
    def forward(self, images):
        return torch.zeros(len(images), 10, requires_grad=True)


class NotANumber(Own):
    def change(self, features):
        return features.log()


def old_weight_norm():
    network = Own()
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(network.second)
    return network


LINES = {
    InPlace: r"fails in the backward pass of a training step on 5 images, at line \d+ of "
    r"test_rehearsal.py: RuntimeError: one of the variables .* inplace .*\. Write that result into",
    Wide: r"in evaluation on images of \(1, 8, 8\), at `first.1` \(Linear\), line \d+ of .*: "
    r"RuntimeError: mat1 and mat2 shapes .* Fit its sizes to the data by `--model.network_args`",
    OnlyInTraining: r"in a training step on 5 images, at line \d+ .*KeyError: 'schedule'. Mend it",
    Detached: "in the backward pass .* does not require grad.* look for `requires_grad_",
    Classes: r"must return logits of shape \(2, 10\), got \(2,\). Average",
    Loss: r"must return logits of shape \(2, 10\), got \(\). Return the logits, not a loss",
    Tokens: r"must return logits of shape \(2, 10\), got \(2, 4, 10\). Average over",
    Mixed: r"must return logits of shape \(2, 10\), got \(4, 10\). Keep the images apart",
    Fixed: r"in a training step on 4 images, at line .* It has worked on 2 .* any number of images",
    View: "in evaluation on .* line .* view size .* Write `reshape` instead of `view`",
    Remembers: "in evaluation on images .*, at line .* keep nothing of an earlier batch",
    Kept: "when it is copied after a step of training: .* keep no computed tensor as an attribute",
    Quits: "in evaluation on .*at line .*: SystemExit: 3",
    Unrelated: "must return logits that depend on its parameters, got .* none of 4. Use",
    NotANumber: "must see and return numbers, got 20 NaN among 20 logits before any training",
    TwoInputs: "TypeError: .*argument: 'mask'. BitLeak calls it with one tensor of images",
    Keeper: "in a training step on 4 images.*: Inference tensors .* keep a buffer",
    Locked: r"when it is copied: TypeError: cannot pickle '_thread.lock' object..* no file, ",
    Extra: "must have a `state_dict` of tensors alone, got others as _extra_state. Leave",
    Sparse: "when its weights are saved and read.* Its parameters and buffers must be dense",
    Half: "in a training step on 5 images, at `first.1` .*Build the network in float32",
    Frozen: "must have parameters that train, got 4 with `requires_grad` off",
    nn.Flatten: "must have parameters that train, got none",
    NoTraining: r"got `tuple` of a tensor of shape \(5, 10\), a tensor of .* in training mode",
    old_weight_norm: r"when it is copied: RuntimeError: Only Tensors created.* forbid them",
}


@pytest.mark.parametrize("make", LINES, ids=lambda make: make.__name__)
def test_what_fails_is_one_line(make):
    with pytest.raises(ValueError, match=f"^[A-Z][A-Za-z]+ .*{LINES[make]}") as raised:
        run(make())
    assert "\n" not in str(raised.value)
    assert not str(raised.value).endswith("..")


def test_a_batch_of_one_shows_where_it_is_too_small():
    said = (
        r"in a training step on 1 images, at `norm` \(BatchNorm1d\), .* raise `--data.batch_size`"
    )
    with pytest.raises(ValueError, match=said):
        run(Normalised(), (5, 1))
    assert run(Normalised(), (5, 2)) == []
    assert run(Own(), (1, 1)) == []


def test_images_of_other_channels():
    network = nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten())
    said = (
        r"at `0` \(Conv2d\)(?s:.*)to have 3 channels, but got 1 channels.* `channels`.* `in_chans`"
    )
    with pytest.raises(ValueError, match=said):
        run(network)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
def test_precision_is_that_of_the_fit(precision):
    types = []

    class Spy(Own):
        def change(self, features):
            types.append((self.training, features.dtype))
            return features

    assert run(Spy(), precision=precision) == []
    trained = {"64": torch.float64, "32": torch.float32, "bf16": torch.bfloat16}
    expected = trained[precision.partition("-")[0]]
    assert types[0] == (False, torch.float32)  # signals are in float32 whatever trains
    assert types[1:] == [(True, expected), (False, expected), (True, expected)]


def test_a_rehearsal_changes_neither_the_network_nor_any_generator():
    class Random(Own):
        def change(self, features):
            scale = 1 + float(np.random.rand())  # noqa: NPY002
            return nn.functional.dropout(scale * features)

    network = nn.Sequential(nn.Conv2d(1, 64, 8), nn.BatchNorm2d(64), Random())
    before = {key: value.clone() for key, value in network.state_dict().items()}

    numbers = []
    for work in (lambda: None, lambda: run(network)):
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        work()
        numbers.append((np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert numbers[0] == numbers[1]
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert network.training
    assert all(p.grad is None for p in network.parameters())


def test_steps_are_those_of_sgd_in_training_mode():
    """The second step sees the weights that the first one left, worked by hand."""
    seen, number = [], count()

    class Spy(Own):
        def forward(self, images):
            seen.append((next(number), self.training, len(images), self.second.bias.clone()))
            return super().forward(images)

    network = Spy()
    run(network)
    assert [entry[1:3] for entry in seen] == [(False, 2), (True, 5), (False, 2), (True, 4)]
    images, labels, *_ = batch(5)
    loss = nn.functional.cross_entropy(Own.forward(network, images), labels)
    (slope,) = torch.autograd.grad(loss, [network.second.bias])
    expected = network.second.bias - 0.1 * (slope + 5e-4 * network.second.bias)
    torch.testing.assert_close(seen[3][3], expected)


def test_parameters_without_gradient_are_named():
    class Spare(Own):
        def __init__(self):
            super().__init__()
            self.spare, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)

    unused = run(Spare())
    assert unused == ["spare.weight", "spare.bias"]
    notes = ["Note: training leaves spare.weight, spare.bias as drawn, because the loss does not "]
    assert [note[: len(notes[0])] for note in check_unused(unused, 1, "auto")] == notes
    assert check_unused(unused, 2, "ddp_find_unused_parameters_true") != []
    assert check_unused([], 2, "ddp") == []
    said = "not depend on a, b, c and 2 more, .* 2 processes .*ddp_find_unused_parameters_true`"
    with pytest.raises(ValueError, match=said):
        check_unused(list("abcde"), 2, "ddp")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lr": -0.1}, "Invalid learning rate: -0.1"), ({"momentum": -0.1}, "Invalid momentum value")],
)
def test_options_that_sgd_refuses(options, message):
    classifier = Classifier(10, 1, 0, ModelOptions("convnet", **options))
    with pytest.raises(ValueError, match=message):
        rehearse(classifier, [batch(4)], trainer())


@pytest.fixture
def privately():
    """Rehearse an own network as it is trained with differential privacy."""
    data = Digits(pool_size=40, batch_size=4)
    data.setup("fit")

    def rehearse_privately(network):
        options = ModelOptions("convnet_gn", dp=DpOptions(noise=1.0))
        classifier = PrivateClassifier(data, 0, options)
        classifier.network = take_logits(network)
        return rehearse(classifier, [batch(5), batch(4)], trainer())

    return rehearse_privately


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            AddsInPlace,
            "AddsInPlace fails in a training step on 5 images, at line .*modified inplace.* Write "
            r"that result into a new tensor \(`x = x \+ y`",
        ),
        (
            Tracked,
            "Tracked fails when gradients of single images are kept: NotImplementedError: Model .*"
            r" a trainable layer with buffers.*first.0:.*\. Differential privacy needs layers",
        ),
        (
            Unused,
            "Unused fails in the optimizer's step: ValueError: Per sample gradient is not initial"
            ".*Leave out the layers that the loss does not depend on",
        ),
    ],
)
def test_what_opacus_cannot_train_is_one_line(privately, network, message):
    run(network())  # without privacy there is nothing wrong with it
    with pytest.raises(ValueError, match=message) as error:
        privately(network())
    assert "\n" not in str(error.value)


def test_a_private_rehearsal_leaves_a_network_as_it_was(privately):
    network = Own()
    before = [weight.clone() for weight in network.parameters()]
    assert privately(network) == []
    assert all(map(torch.equal, network.parameters(), before))
    assert all(vars(weight) == {} for weight in network.parameters())
