"""Files that changed after they were written are named, and replaced only on request."""

import pickle
from pathlib import Path

import pytest
import torch

import train
from storage.names import ModelName
from storage.run_folder import RunFolder

SHADOW = ModelName("shadow", 1)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [flip, truncate])
@pytest.mark.parametrize(
    "file",
    [
        "full.safetensors",
        "nearest-w2.safetensors",
        "adaround-w1.58-last8.json",
        "signals/full.safetensors",
        "last.ckpt",
    ],
)
def test_a_damaged_file_is_named_and_replaced_only_on_request(
    toy, toy_run, finished, snapshot, capsys, file, harm, tensors
):
    path = RunFolder(finished).model(SHADOW) / file
    harm(path)
    before = snapshot(finished / "models")
    message = rf"(?s)Damaged since they were written:\n  {path}\nPass `--repair` to make them again"
    with pytest.raises(SystemExit, match=message):
        train.main(toy(finished))
    assert snapshot(finished / "models") == before
    train.main([*toy(finished), "--repair"])
    assert f"{path} was damaged: deleted, to be made again." in capsys.readouterr().out
    assert tensors(finished) == tensors(toy_run)
    train.main(toy(finished))
    assert "nothing to train" in capsys.readouterr().out


def test_a_model_with_damaged_weights_and_checkpoint_is_trained_again(
    toy, toy_run, finished, capsys, tensors
):
    run = RunFolder(finished)
    for path in (run.weights(SHADOW, "full"), run.checkpoint(SHADOW)):
        truncate(path)
    train.main([*toy(finished), "--repair"])
    assert "Finished 1 model in" in capsys.readouterr().out
    assert tensors(finished) == tensors(toy_run)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [pickle.dump, torch.save], ids=["pickle", "archive"])
@pytest.mark.parametrize("file", ["last.ckpt", "full.safetensors", "signals/full.safetensors"])
def test_a_malicious_pickle_is_never_executed(
    toy, toy_run, finished, tmp_path, save, file, tensors
):
    run, trace = RunFolder(finished), tmp_path / "executed"
    (
        run.model(SHADOW) / "SHA256SUMS"
    ).unlink()  # as if the file had been there before the checksums
    run.weights(SHADOW, "full").unlink()
    with (run.model(SHADOW) / file).open("wb") as stream:
        save(Malicious(trace), stream)
    with pytest.raises(SystemExit, match=rf"shadow-001/{file}\nPass `--repair`"):
        train.main(toy(finished))
    train.main([*toy(finished), "--repair"])
    assert tensors(finished) == tensors(toy_run)
    assert not trace.exists()


@pytest.mark.parametrize("file", ["last.ckpt", "signals/full.safetensors"])
def test_a_truncated_file_of_a_model_in_training_is_named(toy, finished, file):
    path = finished / "models" / "shadow-001" / file
    path.write_bytes(path.read_bytes()[:-100])
    (finished / "models" / "shadow-001" / "full.safetensors").unlink()
    with pytest.raises(SystemExit, match=rf"(?s)Damaged .*shadow-001/{file}\nPass `--repair`"):
        train.main(toy(finished))
