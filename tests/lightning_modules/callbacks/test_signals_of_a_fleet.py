from math import exp, log

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import train
from datamodules import Digits
from lightning_modules.networks import build_network
from storage.names import ModelName
from storage.run_folder import RunFolder
from storage.weights import load_weights

VARIANTS = ["full", "nearest-w2", "nearest-w1.58-last8"]
QUERIES = ["identity", "mirror", "shift-1+0", "shift+1+0", "shift+0-1", "shift+0+1"]


@pytest.fixture
def data():
    data = Digits(pool_size=64, batch_size=16, flip=True, crop=1)
    data.setup("fit")
    return data


def shown(image: Tensor, query: str) -> Tensor:
    """Show a 1 x 8 x 8 image of bytes as a query does, pixel by pixel, then normalise it."""
    out = torch.zeros(1, 8, 8, dtype=torch.float64)
    for y in range(8):
        for x in range(8):
            from_y, from_x = y, x
            if query == "mirror":
                from_x = 7 - x
            elif query != "identity":
                from_y, from_x = y - int(query[5:7]), x - int(query[7:9])
            if 0 <= from_y < 8 and 0 <= from_x < 8:
                out[0, y, x] = int(image[0, from_y, from_x])
    return (out / 255 - 0.3053) / 0.3759


@pytest.mark.parametrize("variant", VARIANTS)
def test_signals_follow_from_the_weights_file(toy_run, data, variant):
    run = RunFolder(toy_run)
    assert run.read().queries == QUERIES
    name = ModelName("shadow", 2)
    network = build_network("convnet", 10, 1, {}).double().eval()
    read = load_file if variant == "full" else load_weights
    network.load_state_dict(read(run.weights(name, variant)))
    stored = load_file(run.signals(name, variant))
    assert stored["phi"].shape == (len(QUERIES), 64)
    assert stored["phi"].dtype == stored["loss"].dtype == torch.float32
    for row, query in enumerate(QUERIES):
        views = torch.stack([shown(image, query) for image in data.pool.images])
        with torch.no_grad():
            logits = network(views).tolist()
        for example, (z, label) in enumerate(zip(logits, data.pool.labels.tolist(), strict=True)):
            wrong = [logit for k, logit in enumerate(z) if k != label]
            log_p = z[label] - log(sum(map(exp, z)))
            phi = log_p - (log(sum(map(exp, wrong))) - log(sum(map(exp, z))))
            keys = ("phi", "loss", "hinge")
            signal = {key: stored[key][row, example].item() for key in keys}
            assert signal["phi"] == pytest.approx(phi, abs=1e-3)
            assert signal["loss"] == pytest.approx(-log_p, abs=1e-3)
            assert signal["hinge"] == pytest.approx(z[label] - max(wrong), abs=1e-3)
            if abs(signal["hinge"]) > 1e-3:
                assert stored["correct"][row, example] == (z[label] > max(wrong))


@pytest.mark.parametrize("variant", VARIANTS)
def test_accuracy_is_measured_on_images_outside_the_pool(toy_run, data, variant):
    run, name = RunFolder(toy_run), ModelName("target", 0)
    network = build_network("convnet", 10, 1, {}).double().eval()
    network.load_state_dict(load_weights(run.weights(name, variant)))
    with torch.no_grad():
        logits = network((data.test.images.double() / 255 - 0.3053) / 0.3759)
    best, second = logits.topk(2).values.unbind(1)
    clear = best - second > 1e-3
    correct = load_file(run.signals(name, variant))["test_correct"]
    assert correct.shape == (1797 - 64,)
    assert clear.double().mean() > 0.99
    assert torch.equal(correct[clear], (logits.argmax(1) == data.test.labels)[clear])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_population_is_the_test_split_in_every_query(toy_run, data, variant):
    run, name = RunFolder(toy_run), ModelName("shadow", 1)
    network = build_network("convnet", 10, 1, {}).double().eval()
    network.load_state_dict(load_weights(run.weights(name, variant)))
    stored = load_file(run.signals(name, variant))
    for key in ("population", "population_hinge"):
        assert stored[key].shape == (len(QUERIES), 1797 - 64)
        assert stored[key].dtype == torch.float32
    examples = range(0, 1797 - 64, 29)
    labels = data.test.labels[examples]
    own = torch.eye(10)[labels].bool()
    for row, query in enumerate(QUERIES):
        views = torch.stack([shown(data.test.images[example], query) for example in examples])
        with torch.no_grad():
            p = network(views).softmax(-1)
        true, best = p[own], p.masked_fill(own, 0).amax(-1)
        phi = true.log() - p.masked_fill(own, 0).sum(-1).log()
        torch.testing.assert_close(
            stored["population"][row, examples].double(), phi, atol=1e-3, rtol=0
        )
        hinge = stored["population_hinge"][row, examples].double()
        torch.testing.assert_close(hinge, true.log() - best.log(), atol=1e-3, rtol=0)
    # accuracy is measured on the identity
    clear = stored["population_hinge"][0].abs() > 1e-3
    right = stored["population_hinge"][0] > 0
    assert torch.equal(right[clear], stored["test_correct"][clear])


def test_no_two_queries_or_variants_give_the_same_signals(toy_run):
    run, name = RunFolder(toy_run), ModelName("shadow", 0)
    phi = torch.stack([load_file(run.signals(name, variant))["phi"] for variant in VARIANTS])
    rows = phi.flatten(0, 1)
    assert len(rows.unique(dim=0)) == len(VARIANTS) * len(QUERIES)


def test_queries_are_recorded_in_the_order_asked_for(toy, toy_run, tmp_path, capsys):
    train.main(toy(tmp_path / "run", "--queries shift+0+1 identity shift+0-2 --fleet.models 2"))
    assert "training never uses shift+0-2; such a query is weak" in capsys.readouterr().out
    name = ModelName("shadow", 2)
    phi = load_file(RunFolder(tmp_path / "run").signals(name, "nearest-w2"))["phi"]
    before = load_file(RunFolder(toy_run).signals(name, "nearest-w2"))["phi"]
    assert torch.equal(phi[:2], before[[5, 0]])
    assert not torch.isclose(phi[2], before, atol=1e-3).all(1).any()
