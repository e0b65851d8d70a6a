"""What pruning refuses before any training, and what it says of a network."""

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d

import fleet.pruning
import train
from datamodules import Digits
from fleet.pruning import check_pruning, rehearse_cut
from lightning_modules.classifier import Classifier
from lightning_modules.options import DpOptions, ModelOptions, PruneOptions


class Shuffled(nn.Module):
    """Adds neighbours among its channels, which says where each of them is."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)

    def forward(self, images):
        features = self.conv(images).amax((2, 3))
        return self.fc(features + features.flip(1).relu())


class Fixed(nn.Module):
    """Has a shape that depends on its number of channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.other = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        features = self.other(self.conv(images)).amax((2, 3))
        return self.fc(features * torch.ones(8))


class Normalised(nn.Module):
    """Has channels that stay beside others that can go."""

    def __init__(self):
        super().__init__()
        self.conv, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, images):
        features = max_pool2d(self.second(self.conv(images).relu()), 4).flatten(1)
        return self.fc(self.norm(features))


@pytest.fixture(scope="module")
def data():
    digits = Digits(pool_size=60)
    digits.setup("fit")
    return digits


@pytest.fixture
def rehearse(data):
    """Cut a network of ours by its name, or any other one."""

    def cut(network, remove=0.5):
        model = Classifier(10, 1, 0, ModelOptions("mlp"), (1, 8, 8))
        if isinstance(network, str):
            model = Classifier(10, 1, 0, ModelOptions(network), (1, 8, 8))
        else:
            model.network = network
        return rehearse_cut(PruneOptions("ocs", remove), model, data)

    return cut


def test_a_line_says_what_will_be_removed(rehearse):
    (line,) = rehearse("resnet8", 0.3)
    said = "Pruning: ocs removes at least 30% of the multiply-accumulates, by 224 channels in 6 gr"
    assert line.startswith(said)


@pytest.mark.parametrize("network", ["convnet_gn", "resnet8_gn", "densenet121"])
def test_networks_of_ours_can_be_cut(rehearse, network):
    assert len(rehearse(network)) == 1


def test_layers_that_stay_are_named(rehearse):
    assert rehearse(Normalised())[1:] == ["Note: pruning leaves the outputs of second as they are."]


def test_a_network_without_channels_is_refused(rehearse):
    with pytest.raises(ValueError, match=r"a network with channels to remove, got Sequential"):
        rehearse(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(ValueError, match=r"logits\. Its channels run through 1\. Take another"):
        rehearse(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 10)))


def test_a_target_out_of_reach_is_refused_with_the_largest(rehearse):
    with pytest.raises(ValueError, match=r"at most 0\.9\d\d for Sequential, got 0\.99: a quarter"):
        rehearse("resnet8", 0.99)


def test_a_network_that_depends_on_the_place_of_channels_is_refused(rehearse):
    with pytest.raises(ValueError, match="of Shuffled: without those of conv, it computes someth"):
        rehearse(Shuffled())


def test_a_network_that_depends_on_their_number_is_refused(rehearse):
    with pytest.raises(
        ValueError, match="of Fixed: without those of other, RuntimeError: The size"
    ):
        rehearse(Fixed())


def test_private_training_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"`--prune ocs` .*`--model\.dp`.* no accountant counts"):
        check_pruning(PruneOptions("ocs"), ModelOptions(dp=DpOptions(noise=1.0)), 10)


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(fleet.pruning, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"Torch-Pruning, .*pip install -e '\.\[prune\]'"):
        check_pruning(PruneOptions("init"), ModelOptions(), 10)


@pytest.mark.parametrize(
    ("options", "total", "epochs"),
    [
        ({"method": "ocs"}, 12, (1, 5)),
        ({"method": "ocs"}, 30, (3, 12)),
        ({"method": "ocs", "start": 0.2, "cut": 0.5}, 300, (60, 150)),
        ({"method": "magnitude"}, 30, (21, 21)),
        ({"method": "random", "cut": 0.5}, 12, (6, 6)),
        ({"method": "init"}, 1, (0, 0)),
    ],
)
def test_epochs_of_selection_and_cut_are_shares(options, total, epochs):
    assert PruneOptions(**options).epochs(total) == epochs


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "ocs"}, "selection from epoch 1 and the cut after epoch 1 of 2 "),
        ({"method": "magnitude", "cut": 0.9}, "the cut after epoch 2 of 2 .*Train longer, or"),
        ({"method": "random", "cut": 0.1}, "the cut after epoch 0 of 2 "),
    ],
)
def test_a_fit_that_is_too_short_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        check_pruning(PruneOptions(**options), ModelOptions(), 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "ocs", "remove": 0.0}, r"`prune\.remove` must be between 0 and 1, got 0\."),
        ({"method": "ocs", "remove": 1.0}, r"`prune\.remove` must be between 0 and 1, got 1\."),
        ({"method": "ocs", "start": -0.1}, r"`prune\.start` must be between 0 and 1, got -0\.1"),
        ({"method": "magnitude", "cut": 1.5}, r"`prune\.cut` must be between 0 and 1, got 1\.5"),
        ({"method": "ocs", "strength": 0.0}, r"`prune\.strength` must be above 0, got 0"),
        ({"remove": 0.3}, r"`prune\.remove` needs `--prune ocs` or .*, got no method"),
        ({"method": "init", "cut": 0.5}, r"`prune\.cut` needs .*`--prune random`, got init"),
        ({"method": "random", "start": 0.2}, r"`prune\.start` needs `--prune ocs`, got random"),
        (
            {"method": "random", "strength": 1.0},
            r"`prune\.strength` needs `--prune ocs`, got random",
        ),
    ],
)
def test_options_out_of_range_or_that_nothing_reads_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        PruneOptions(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--prune osc", "`--prune.method` must be ocs, magnitude, random, init or null, got `osc`"),
        ("--prune ocs --prune.removed 0.3", "no option `--prune.removed`. Did you mean `--prune."),
        ("--prune.remove 0.3", "`prune.remove` needs `--prune ocs`"),
        (
            "--prune=ocs --model.dp.noise 1 --model.network mlp",
            "cannot be combined with `--model.d",
        ),
    ],
)
def test_bad_input_is_one_line(toy, tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", options))
    assert said in f"{stopped.value.code} {capsys.readouterr().err}"
    assert not (tmp_path / "run").exists()


def test_options_of_pruning_come_from_a_recipe_too(toy, tmp_path, capsys, unwrap):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("prune:\n  method: random\n  remove: 0.25\n")
    options = f"--config {recipe} --prune init --snapshots --fleet.dry_run true"
    train.main(toy(tmp_path / "run", options))
    assert "Pruning: init removes at least 25%" in unwrap(capsys.readouterr().out)
