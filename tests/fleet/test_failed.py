"""Models that diverge are reported, and trained again on request."""

import io
import re
from contextlib import redirect_stdout
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import train
from datamodules.membership import membership
from datamodules.seeds import derive_seed
from lightning_modules.classifier import Classifier
from storage.names import fleet_names
from storage.run_folder import RunFolder

NAMES = fleet_names(4, 1)
pytestmark = pytest.mark.fleet


def sabotage(patch):
    """Make the first trainings of shadow 0 (labels shuffled) and shadow 1 (learning rate) fail."""
    shuffled, exploding = (derive_seed(0, "shadow", number, 0) for number in (0, 1))
    configure, step = Classifier.configure_optimizers, Classifier.training_step

    def explode(self):
        self.lr = 1e30 if self.seed == exploding else self.lr
        return configure(self)

    def shuffle(self, batch, batch_idx):
        if self.seed == shuffled:
            batch = batch._replace(labels=(batch.labels + batch.indices) % 10)
        return step(self, batch, batch_idx)

    patch.setattr(Classifier, "configure_optimizers", explode)
    patch.setattr(Classifier, "training_step", shuffle)


class Call(NamedTuple):
    """What one call of train.py printed and left."""

    code: int
    output: str
    files: dict
    epochs: dict


class Calls(NamedTuple):
    """The first training of a fleet, the same command again, then twice with a retraining."""

    first: Call
    repeated: Call
    retrained: Call
    retrained_again: Call


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return RunFolder(tmp_path_factory.mktemp("runs") / "diverged")


@pytest.fixture(scope="module")
def calls(run, toy, snapshot, last_epochs, unwrap):
    """A fleet of which two models diverge when they are first trained."""
    always = "--trainer.max_epochs 15 --data.flip false --data.crop 0"

    def call(options=""):
        code = 0
        with redirect_stdout(io.StringIO()) as output:
            try:
                train.main(toy(run.path, f"{always} {options}"))
            except SystemExit as ended:
                code = ended.code
        models = run.path / "models"
        return Call(code, unwrap(output.getvalue()), snapshot(models), last_epochs(run.path))

    with pytest.MonkeyPatch.context() as patch:
        sabotage(patch)
        patch.setattr("attacks.health.FEWEST_PEERS", 3)  # more would take longer to train
        retry = "--fleet.retrain_failed true"
        return Calls(call(), call(), call(retry), call(retry))


def kept(name):
    """The folder in which the first attempt at a model is kept."""
    return f"{name}.failed-0"


def test_diverged_models_are_reported_with_the_reason(calls):
    first = calls.first
    assert first.code == train.FAILED
    assert re.search(
        r"shadow-000 failed: training accuracy 0\.\d+, its peers' median", first.output
    )
    assert "shadow-001 failed: 64 of 64 signals are not finite. The audit excludes" in first.output
    assert first.output.count("failed: ") == 2


def test_the_printed_sizes_are_those_of_a_sound_model(calls, run, variants):
    sizes = [run.weights(NAMES[2], variant).stat().st_size for variant in variants]
    text = ", ".join(f"{v} {size:,}" for v, size in zip(variants, sizes, strict=True))
    assert text in calls.first.output


def test_every_variant_of_an_exploded_model_has_no_finite_signal(calls, run, variants):
    for variant in variants:
        signals = run.path / "models" / kept(NAMES[1]) / "signals" / f"{variant}.safetensors"
        assert load_file(signals)["phi"].isnan().all()


def test_an_exploded_model_stops_training_early(calls):
    epochs = calls.repeated.epochs
    assert epochs["shadow-001"] < epochs["shadow-000"] == 14


def test_a_rerun_reports_the_failures_again_and_trains_nothing(calls):
    assert calls.repeated.code == train.FAILED
    assert calls.repeated.files == calls.first.files
    assert "nothing to train" in calls.repeated.output
    assert calls.repeated.output.count("failed: ") == 2


def test_failed_models_are_trained_again_on_request(calls):
    code, output, *_ = calls.retrained
    assert code == 0
    assert re.search(r"shadow-000 failed \(training.*\): kept in shadow-000.failed-0\.", output)
    assert "Finished 2 models" in output
    assert "failed: " not in output


def test_files_of_failed_attempts_are_moved_and_files_of_sound_models_kept(calls):
    for key, file in calls.first.files.items():
        name, rest = key.split("/", 1)
        place = f"{kept(name)}/{rest}" if name in ("shadow-000", "shadow-001") else key
        assert calls.retrained.files[place] == file


def test_models_trained_again_know_their_members(calls, run):
    members = run.membership()
    for name in NAMES[:2]:
        signals = load_file(run.signals(name, "full"))
        assert signals["phi"].isfinite().all()
        assert signals["correct"][0][members[name]].float().mean() > 0.8
    assert torch.equal(torch.stack(list(members.values())), membership(0, 4, 1, 64))


def test_sound_models_are_not_trained_again(calls):
    assert calls.retrained_again.code == 0
    assert calls.retrained_again.files == calls.retrained.files


def test_a_model_trained_again_starts_from_other_weights(
    toy, toy_run, finished, snapshot, monkeypatch, of_models, tensors
):
    before = of_models(tensors(finished), *NAMES)
    monkeypatch.setattr("fleet.failed.failures", lambda *_: {2: "so says the test"})
    train.main(toy(finished, "--fleet.retrain_failed true"))
    after = of_models(tensors(finished), *NAMES)
    others = [name for name in NAMES if name != NAMES[2]]
    assert of_models(after, *others) == of_models(before, *others)
    ours, theirs = of_models(after, NAMES[2]), of_models(before, NAMES[2])
    assert ours.keys() == theirs.keys()
    assert all(ours[key] != theirs[key] for key in ours)
    train.main(toy(finished, "--fleet.models 0-1 --fleet.retrain_failed true"))
    assert of_models(tensors(finished), *NAMES) == after  # the failed one is not of this slice


def test_too_few_peers_are_named_where_failed_models_would_be(toy, finished, capsys, unwrap):
    sentence = "Training accuracy was not judged, so a model that diverged with finite signals is "
    for options in ("", "--status"):
        train.main(toy(finished, options))
        printed = unwrap(capsys.readouterr().out)
        assert sentence in printed
        assert "8 other models to compare with, got 4." in printed
