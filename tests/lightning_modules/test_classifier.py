import copy
from functools import partial
from math import cos, pi

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy

from datamodules import Digits
from datamodules.batches import Batch
from lightning_modules.classifier import Classifier
from lightning_modules.networks import build_network
from lightning_modules.options import ModelOptions

STEPS, EPOCHS = 3, 4  # 40 members in batches of 14, 13, 13
CONVNET = ModelOptions("convnet")


class Spy(Classifier):
    """A classifier that remembers its optimizer and what it was trained on, step by step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.groups, self.batches, self.losses = [], [], []

    def training_step(self, batch, batch_idx):
        (group,) = self.optimizers().param_groups
        self.groups.append({key: value for key, value in group.items() if key != "params"})
        loss = super().training_step(batch, batch_idx)
        self.batches.append(batch)
        self.losses.append(loss.item())
        return loss


@pytest.fixture
def digits():
    data = Digits(pool_size=80, batch_size=16)
    data.setup("fit")
    data.assign(torch.arange(80) % 2 == 0, seed=5)
    return data


def fit(model, data, tmp_path, **options):
    trainer = Trainer(
        **{"max_epochs": EPOCHS, "accelerator": "cpu", "logger": False} | options,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, datamodule=data)
    return model


def half_cosine(start, end, share):
    return end + (start - end) * (1 + cos(pi * share)) / 2


def one_cycle(step, total, lr):
    """Smith's one cycle as PyTorch fixes it: lr/25, up to lr at 30%, down to lr/25e4."""
    peak = 0.3 * total - 1
    if step <= peak:
        return half_cosine(lr / 25, lr, step / peak)
    return half_cosine(lr, lr / 25e4, (step - peak) / (total - 1 - peak))


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_learning_rate_follows_the_closed_formula(digits, tmp_path, schedule, accumulate):
    model = Spy(10, 1, 0, ModelOptions("convnet", lr=0.3, schedule=schedule))
    fit(model, digits, tmp_path, accumulate_grad_batches=accumulate, max_epochs=8)
    total = 8 * STEPS // accumulate
    steps = [t // accumulate for t in range(8 * STEPS)]
    if schedule == "cosine":
        expected = [half_cosine(0.3, 0, t / total) for t in steps]
    else:
        expected = [one_cycle(t, total, 0.3) for t in steps]
    assert [group["lr"] for group in model.groups] == pytest.approx(expected, rel=1e-6)


def test_sgd_steps_are_those_worked_by_hand(digits, tmp_path):
    """Two steps of v = 0.8 v + g + 0.03 w, w = w - lr v; momentum and decay reach every weight."""
    options = {"lr": 0.2, "momentum": 0.8, "weight_decay": 0.03}
    path = "torchvision.ops.MLP"
    args = {"in_channels": 8, "hidden_channels": [5, 10]}

    class Flat(Spy):
        def forward(self, images):
            return self.network(images.mean((1, 2)))

    model = Flat(10, 1, 3, ModelOptions(path, args, **options))
    weights = {key: value.clone() for key, value in model.network.named_parameters()}
    digits.batch_size = 20
    fit(model, digits, tmp_path, max_epochs=1)
    velocity = {key: torch.zeros_like(value) for key, value in weights.items()}
    for step, (images, labels, *_) in enumerate(model.batches):
        leaves = {key: value.detach().requires_grad_() for key, value in weights.items()}
        logits = torch.func.functional_call(model.network, leaves, (images.mean((1, 2)),))
        chosen = logits.log_softmax(1)[torch.arange(len(labels)), labels]
        gradients = torch.autograd.grad(-chosen.mean(), list(leaves.values()))
        assert -chosen.mean().item() == pytest.approx(model.losses[step], abs=1e-6)
        for (key, value), gradient in zip(weights.items(), gradients, strict=True):
            velocity[key] = 0.8 * velocity[key] + gradient + 0.03 * value
            weights[key] = value - half_cosine(0.2, 0, step / 2) * velocity[key]
    assert len(model.batches) == 2
    for key, value in model.network.named_parameters():
        torch.testing.assert_close(value.detach(), weights[key].detach())


def test_smoothed_labels_are_those_worked_by_hand_and_validation_has_none(digits, tmp_path):
    """0.7 of the weight on the label and 0.3 on all ten classes, the label's among them."""
    model = Spy(10, 1, 3, ModelOptions("convnet", label_smoothing=0.3))
    network = copy.deepcopy(model.network).train()
    trainer = fit(model, digits, tmp_path, max_epochs=1, limit_train_batches=1).trainer
    images, labels, *_ = model.batches[0]
    log_p = network(images).double().log_softmax(1)
    weights = torch.full_like(log_p, 0.03)
    weights[torch.arange(len(labels)), labels] = 0.73
    assert model.losses[0] == pytest.approx(-(weights * log_p).sum(1).mean().item(), abs=1e-6)
    model.eval()
    batches = [*digits.val_dataloader()]
    logits, labels = torch.cat([model(b.images) for b in batches]), [b.labels for b in batches]
    plain = cross_entropy(logits, torch.cat(labels)).item()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(plain, abs=1e-5)


def test_a_seed_fixes_the_network_whatever_the_global_state():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Classifier(10, 1, 7, CONVNET)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = Classifier(10, 1, 7, CONVNET), Classifier(10, 1, 8, CONVNET)
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.network.fc.weight, other.network.fc.weight)
    names = build_network("convnet", 10, 1, {}).state_dict().keys()
    assert first.network.state_dict().keys() == names


def test_dropout_follows_the_seed_and_the_epoch(digits, tmp_path, own_networks):
    losses, options = [], ModelOptions("own_networks.Perceptron")
    for seed, state in ((1, 10), (1, 11), (2, 10)):
        torch.manual_seed(state)  # must not matter
        losses.append(fit(Spy(10, 1, seed, options), digits, tmp_path).losses)
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_validation_is_accuracy_on_the_test_split(digits, tmp_path):
    model = Spy(10, 1, 0, CONVNET)
    fit(model, digits, tmp_path)
    logged = model.trainer.callback_metrics
    right = wrong = 0
    nats = 0.0
    model.network.eval()
    with torch.no_grad():
        for batch in digits.test_batches():
            logits = model.network(batch.images)
            right += int((logits.argmax(1) == batch.labels).sum())
            wrong += int((logits.argmax(1) != batch.labels).sum())
            nats += float(nn.CrossEntropyLoss(reduction="sum")(logits, batch.labels))
    assert right + wrong == 1797 - 80
    assert logged["val/accuracy"].item() == pytest.approx(right / 1717)
    assert logged["val/loss"].item() == pytest.approx(nats / 1717, rel=1e-4)


def test_the_logged_loss_of_an_epoch_is_over_all_its_examples(digits, tmp_path, monkeypatch):
    logits, logged = [], []

    class Recorder(Spy):
        def forward(self, images):
            logits.append(super().forward(images))
            return logits[-1]

    logger = CSVLogger(tmp_path)
    monkeypatch.setattr(logger, "log_metrics", lambda metrics, step: logged.append(metrics))
    monkeypatch.setattr(logger, "save", lambda: None)
    model = Recorder(10, 1, 0, CONVNET)
    options = {"logger": logger, "log_every_n_steps": 1, "limit_val_batches": 0}
    fit(model, digits, tmp_path, **options)
    epochs = [metrics for metrics in logged if "train/loss" in metrics]
    assert len(epochs) == EPOCHS
    for epoch, metrics in enumerate(epochs):
        steps = range(epoch * STEPS, (epoch + 1) * STEPS)
        z = torch.cat([logits[step].detach() for step in steps])
        labels = torch.cat([model.batches[step].labels for step in steps])  # 14, 13 and 13
        assert metrics["train/accuracy"] == pytest.approx((z.argmax(1) == labels).double().mean())
        nats = nn.CrossEntropyLoss()(z, labels).item()
        assert metrics["train/loss"] == pytest.approx(nats, rel=1e-5)


def test_compiling_changes_neither_training_nor_keys_nor_copies(digits, tmp_path, monkeypatch):
    # without its code generation, which takes half a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain = Spy(10, 1, 3, CONVNET)
    compiled = Spy(10, 1, 3, ModelOptions("convnet", compile=True))
    copied = copy.deepcopy(compiled.network)
    assert compiled.network._compiled_call_impl is not None
    assert copied._compiled_call_impl is None
    for model in (plain, compiled):
        fit(model, digits, tmp_path)
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    copied.load_state_dict(compiled.network.state_dict())
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(copied.eval()(images), compiled.network.eval()(images))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_gpu_steps_in_one_kernel_unless_gradients_are_clipped(digits, tmp_path, precision):
    models = {}
    for clip in (None, 1e9):
        options = {"accelerator": "gpu", "devices": 1, "gradient_clip_val": clip}
        model = Spy(10, 1, 0, CONVNET)
        models[clip] = fit(model, digits, tmp_path, precision=precision, **options)
    assert models[None].groups[0]["fused"]
    assert not models[1e9].groups[0]["fused"]
    assert models[None].losses == pytest.approx(models[1e9].losses, rel=1e-2)


def test_weights_of_images_are_nhwc_and_those_of_volumes_stay(own_networks):
    network = Classifier(3, 1, 0, ModelOptions(network="own_networks.Volumes")).network
    assert network.image.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.volume.weight.is_contiguous()


def test_lazy_layers_are_refused():
    with pytest.raises(ValueError, match="has lazy layers"):
        Classifier(10, 1, 0, ModelOptions("torch.nn.LazyLinear", {"out_features": 3}))


def test_a_model_for_a_data_set_has_its_classes_and_the_shape_of_its_images(digits):
    model = Classifier.for_data(digits, 7, ModelOptions("mlp", {"widths": []}))
    assert model.network.fc.weight.shape == (10, 64)
    convnet = Classifier.for_data(digits, 7, CONVNET).network
    expected = Classifier(10, 1, 7, CONVNET).network
    pairs = zip(convnet.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_smaller_share_of_a_batch_counts_for_less():
    model = Classifier(10, 1, 0, ModelOptions("convnet"))
    model.trainer = Trainer(logger=False, accelerator="cpu")
    images, labels = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3])
    whole, part = (
        model.training_step(Batch(images, labels, torch.arange(3), weight), 0)
        for weight in (1.0, 0.75)
    )
    assert torch.equal(part, 0.75 * whole)
