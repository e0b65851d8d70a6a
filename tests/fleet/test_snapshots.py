"""Snapshots: the weights at the end of an epoch, as variants of their own."""

import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file

import train
from fleet.snapshots import check_passed, check_snapshots
from lightning_modules.classifier import Classifier
from storage.experiment import Experiment
from storage.names import fleet_names
from storage.run_folder import RunFolder

NAMES = fleet_names(4, 1)


@pytest.mark.parametrize("every", ["0", "1000"])
def test_a_snapshot_is_the_network_after_its_epoch(
    toy, toy_run, tmp_path, monkeypatch, every, of_models, tensors
):
    """However often checkpoints are written. The oracle is what the module has at that moment."""
    seen, real = {}, Classifier.on_train_epoch_end

    def note(self):
        seen[self.current_epoch + 1] = {k: v.clone() for k, v in self.network.state_dict().items()}
        real(self)

    monkeypatch.setattr(Classifier, "on_train_epoch_end", note)
    options = f"--fleet.models 4 --snapshots 2 1 --checkpoint_every {every}"
    train.main(toy(tmp_path / "run", options))
    run = RunFolder(tmp_path / "run")
    assert list(seen) == [1, 2, 3]
    for epoch, variant in ((1, "epoch-01"), (2, "epoch-02"), (3, "full")):
        stored = load_file(run.weights(NAMES[4], variant))
        assert stored.keys() == seen[epoch].keys()
        assert all(torch.equal(stored[key], seen[epoch][key]) for key in stored)
    assert run.read().variants[:3] == ["full", "epoch-01", "epoch-02"]
    made = of_models(tensors(tmp_path / "run"), NAMES[4])
    before = of_models(tensors(toy_run), NAMES[4])
    assert {key: made[key] for key in before} == before  # another snapshot changes nothing else


@pytest.mark.fleet
@pytest.mark.parametrize("lost", ["full", "epoch-01"])
def test_a_lost_snapshot_costs_the_training_of_its_model(
    toy, toy_run, finished, lost, served, tensors, capsys, unwrap
):
    """No other file can bring it back; where only the end is lost, the checkpoint does."""
    run = RunFolder(finished)
    run.weights(NAMES[2], lost).unlink()
    train.main(toy(finished))
    assert len(served) == (0 if lost == "full" else 6)
    told, _, finished_line = unwrap(capsys.readouterr().out).partition("1 of 1: shadow-002")
    assert finished_line
    assert ("shadow-002 is trained again from the start" in told) == (lost == "epoch-01")
    assert tensors(finished) == tensors(toy_run)


@pytest.mark.fleet
def test_a_snapshot_lost_before_the_end_is_made_again(toy, toy_run, tmp_path, served, tensors):
    folder, real = tmp_path / "run", Classifier.training_step

    def step(self, batch, batch_idx):
        if self.current_epoch == 2:
            raise SystemExit("killed")
        return real(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        with pytest.raises(SystemExit, match="killed"):
            train.main(toy(folder))
    run = RunFolder(folder)
    run.weights(NAMES[0], "epoch-01").unlink()
    assert run.checkpoint(NAMES[0]).exists()
    served.clear()
    train.main(toy(folder))
    assert [epoch for _, epoch, _ in served[:6]] == [0, 0, 1, 1, 2, 2]
    assert tensors(folder) == tensors(toy_run)


def test_a_model_that_diverged_has_its_snapshots(toy, tmp_path):
    options = "--model.lr 1e30 --snapshots 2 --fleet.models 0 --quantize"
    with pytest.raises(SystemExit) as ended:
        train.main(toy(tmp_path / "run", options))
    assert ended.value.code == 3  # it failed, and is told as before
    run = RunFolder(tmp_path / "run")
    assert run.is_finished(NAMES[0], ["full", "epoch-02"])
    weights = load_file(run.weights(NAMES[0], "epoch-02"))
    assert not all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ([2, 2], r"`--snapshots` must name each epoch once, got 2 twice"),
        (
            [0],
            r"must be epochs before 3, after which training ends \(`--trainer.max_epochs`\), got 0",
        ),
        ([4], r"got 4\. Pass others, or `--snapshots` alone for none\.$"),
        ([1, 3], r"got 3\. The end of training is kept anyway, as `full`\. Pass others"),
    ],
)
def test_impossible_snapshots_are_refused(epochs, message):
    with pytest.raises(ValueError, match=message):
        check_snapshots(epochs, 3)


def test_snapshots_of_the_past_are_refused_with_their_cost(toy, finished, snapshot, unwrap):
    before = snapshot(finished)
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(finished, "--snapshots 1 2"))
    said = unwrap(str(stopped.value))
    assert "must be asked for before training" in said
    assert "got 2, but" in said
    assert "has 1, and 5 of its models have begun" in said
    assert "Train into a new folder with `--run_dir`, which costs these models again (" in said
    assert "or ask for what this folder has: `--snapshots 1`." in said
    assert snapshot(finished) == before


def test_a_model_in_its_first_epoch_is_past_the_snapshots_that_it_was_not_asked_for(tmp_path):
    """Another process trains it, without a file yet, and would never keep the new one."""
    run, config = RunFolder(tmp_path), {"quantize": [], "queries": ["identity"], "snapshots": [2]}
    config |= {"fleet": {"shadows": 4, "targets": 1}}
    stored = Experiment(config, {}, {}, {}, {}, "")
    run.experiment_file.write_text(yaml.safe_dump(stored.as_dict()))
    asked = stored._replace(config=config | {"snapshots": [2, 4]})
    run.model(NAMES[1]).mkdir(parents=True)
    with FileLock(run.lock(NAMES[1])):
        with pytest.raises(ValueError, match=r"got 4, but .* has 2, and 1 of its models have"):
            check_passed(run, asked)
        check_passed(run, stored)
    check_passed(run, asked)


def test_snapshots_once_asked_for_stay(toy, finished, no_training, capsys):
    train.main(toy(finished, "--snapshots"))
    assert "nothing to train" in capsys.readouterr().out
    assert RunFolder(finished).read().config["snapshots"] == [1]
