import pytest
import torch
from torch import nn

from quantization import fisher as module
from quantization.calibration import DivergedError
from quantization.fisher import fisher_diagonal


@pytest.fixture
def images(rng):
    return torch.randn(7, 2, 3, 3, generator=rng)


def generator():
    return torch.Generator().manual_seed(5)


def draw_labels(logits, sizes):
    """Labels as documented: drawn from the network's own probabilities, chunk by chunk."""
    rng = generator()
    chances = logits.softmax(1).split(sizes)
    return torch.cat([torch.multinomial(chunk, 1, generator=rng).flatten() for chunk in chances])


def scaled(gradient):
    return gradient.square() / gradient.square().mean()


class Hidden(nn.Module):
    """images -> features -> activation -> logits."""

    def __init__(self, after=torch.relu):
        super().__init__()
        self.features, self.fc = nn.Conv2d(2, 4, 2), nn.Linear(16, 5)
        self.after = after

    def forward(self, images):
        return self.fc(self.after(self.features(images)).flatten(1))


@pytest.mark.parametrize("chunk", [128, 3])
def test_logits_by_hand(images, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    network = nn.Sequential(nn.Flatten(), nn.Linear(18, 4)).eval().requires_grad_(False)
    ours = fisher_diagonal(network, {"1": network[1]}, images, generator())["1"]
    logits = network(images)
    labels = draw_labels(logits, 128 if chunk == 128 else 3)
    onehot = torch.eye(4)[labels]
    torch.testing.assert_close(ours, scaled(logits.softmax(1) - onehot))
    assert ours.mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("chunk", [128, 3])
@pytest.mark.parametrize("after", [torch.relu, torch.relu_, lambda x: x.mul_(2).relu_()])
def test_features_by_hand(images, after, chunk, monkeypatch):
    """(p - onehot) W where the activation passes; operations in place after it change nothing."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    network = Hidden(after).eval().requires_grad_(False)
    modules = {"features": network.features, "fc": network.fc}
    ours = fisher_diagonal(network, modules, images, generator())
    features, logits = network.features(images), network(images)
    missing = logits.softmax(1) - torch.eye(5)[draw_labels(logits, chunk)]
    gradient = (missing @ network.fc.weight).view(features.shape) * (features > 0)
    torch.testing.assert_close(ours["features"], scaled(gradient))
    torch.testing.assert_close(ours["fc"], scaled(missing))


def test_labels_are_drawn_from_the_network():
    # E[(p - onehot)^2] = p (1 - p), the diagonal of the Fisher information of the logits.
    logits = torch.tensor([2.0, 0.5, -1.0])
    network = nn.Linear(1, 3)
    network.weight.data.zero_()
    network.bias.data = logits
    whole = nn.Sequential(nn.Flatten(), network).eval()
    ours = fisher_diagonal(whole, {"1": network}, torch.ones(20_000, 1, 1, 1), generator())["1"]
    chances = logits.softmax(0)
    expected = chances * (1 - chances)
    torch.testing.assert_close(ours.mean(0), expected / expected.mean(), atol=0.03, rtol=0.0)


def test_the_result_depends_on_the_generator_alone(images):
    network = Hidden().eval()
    first, again = (
        fisher_diagonal(network, {"fc": network.fc}, images, generator())["fc"] for _ in range(2)
    )
    other = fisher_diagonal(network, {"fc": network.fc}, images, torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other["fc"])


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_the_network_is_left_alone(requires_grad, enabled, images):
    network = Hidden(lambda x: x.relu_()).eval().requires_grad_(requires_grad)
    whole = nn.Sequential(nn.ReLU(inplace=True), network)
    before, modules = images.clone(), {"features": network.features, "fc": network.fc}
    with torch.set_grad_enabled(enabled):
        ours = fisher_diagonal(whole, modules, images, generator())
    assert torch.equal(images, before)
    assert not any(importance.requires_grad for importance in ours.values())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(part._forward_hooks for part in whole.modules())


def test_hooks_are_removed_after_an_exception(images):
    network = Hidden().eval()
    with pytest.raises(RuntimeError):
        fisher_diagonal(network, {"fc": network.fc}, images[:, :1], generator())
    assert not network.fc._forward_hooks


def test_an_unused_output_has_no_importance(images):
    network = nn.ModuleDict({"spare": nn.Flatten(), "flat": nn.Flatten(), "fc": nn.Linear(18, 3)})
    network.forward = lambda x: (network["spare"](x), network["fc"](network["flat"](x)))[1]
    ours = fisher_diagonal(network.eval(), dict(network), images, generator())
    assert torch.equal(ours["spare"], torch.zeros(7, 18))
    assert ours["flat"].mean().item() == pytest.approx(1, abs=1e-5)


def test_of_several_calls_the_first_counts(images, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)
    twice, fc = nn.Conv2d(2, 2, 2), nn.Linear(2, 3)
    network = nn.Sequential(twice, nn.ReLU(inplace=True), twice, nn.Flatten(), fc)
    network.eval().requires_grad_(False)
    ours = fisher_diagonal(network, {"0": twice}, images, generator())["0"]
    inner = twice(images)
    logits = network(images)
    missing = (logits.softmax(1) - torch.eye(3)[draw_labels(logits, 4)]) @ fc.weight
    gradient = torch.einsum("nc,cihw->nihw", missing, twice.weight) * (inner > 0)
    torch.testing.assert_close(ours, scaled(gradient))


def test_no_modules_give_no_importance(images):
    network = Hidden().eval().requires_grad_(False)
    assert fisher_diagonal(network, {}, images, generator()) == {}


def test_a_diverged_network_is_reported_as_diverged(images):
    network = Hidden().eval().requires_grad_(False)
    network.fc.bias[1] = torch.nan
    with pytest.raises(DivergedError, match="logits on the calibration images are not finite"):
        fisher_diagonal(network, {"fc": network.fc}, images, generator())
