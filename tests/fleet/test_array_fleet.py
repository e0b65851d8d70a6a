"""A fleet on arrays, from the command line to the report."""

import csv

import numpy as np
import pytest

import train
from fleet import export
from storage.run_folder import RunFolder


@pytest.fixture
def arrays(tmp_path):
    """A file of 120 random tables or spectrograms in 3 classes."""

    def write(shape):
        rng = np.random.default_rng(0)
        classes = np.arange(120) % 3
        x = rng.normal(size=(120, *shape)) + 2 * classes.reshape(-1, *[1] * len(shape))
        np.savez(tmp_path / "data.npz", x=x, y=np.array(["ant", "bee", "cat"])[classes])
        return tmp_path / "data.npz"

    return write


@pytest.fixture
def fleet(tmp_path):
    """Train on a file, with the options of a recipe for images before those of the arrays."""
    (tmp_path / "recipe.yaml").write_text(
        "{threads: 1, data: {class_path: datamodules.Digits, init_args: {batch_size: 16, flip: "
        "false}}, trainer: {accelerator: cpu, max_epochs: 2}, fleet: {shadows: 4, targets: 1}}"
    )

    def train_on(file, network, *options):
        train.main(
            [
                *("--config", str(tmp_path / "recipe.yaml"), "--run_dir", str(tmp_path / "run")),
                *("--data", "Arrays", "--data.file", str(file), "--model.network", network),
                *("--quantize", "nearest-w2", "adaround-w2", "obc-w2", "gptq-w2", *options),
            ]
        )
        return RunFolder(tmp_path / "run")

    return train_on


@pytest.mark.fleet
@pytest.mark.parametrize(
    ("shape", "network", "sizes"),
    [
        ((12,), "mlp", {"channels": 12}),
        ((8, 10), "convnet", {"channels": 1, "height": 8, "width": 10}),
    ],
    ids=["table", "spectrograms"],
)
def test_arrays_are_trained_on_audited_and_exported(
    arrays, fleet, quick_audit, results_of, capsys, shape, network, sizes, unwrap
):
    run = fleet(arrays(shape), network)
    said = unwrap(capsys.readouterr().out)
    assert "Read 120 " in said
    assert "24 for testing. Labels ant, bee, cat are classes 0 to 2." in said
    assert run.read().input == {"num_classes": 3, **sizes}
    quick_audit(run)
    results = results_of(run)
    assert "gallery" not in results["figures"]
    assert not any("image" in sentence for sentence in results["left_out"])
    (table,) = [table for table in results["tables"] if table["key"] == "most_exposed"]
    with (run.path / "audit" / "exposure.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["full"]]
    top = sorted(lines, key=lambda line: -float(line["full"]))[:16]
    shown = [[cell[1] for cell in row] for row in table["rows"]]
    assert table["columns"] == ["example", "label", *run.read().variants]
    assert shown == [[float(line[column]) for column in table["columns"]] for line in top]
    assert "The most exposed examples" in (run.path / "audit" / "report.html").read_text()
    capsys.readouterr()
    export.main([str(run.path), "target-000", "nearest-w2", "--format", "onnx"])
    assert "bytes" in capsys.readouterr().out


@pytest.mark.fleet
def test_a_moved_file_goes_on_and_a_changed_one_does_not(arrays, fleet):
    file = arrays((12,))
    fleet(file, "mlp", "--fleet.models", "0")
    moved = file.rename(file.with_name("moved.npz"))
    assert fleet(moved, "mlp", "--fleet.models", "0").read().places == {"file": str(moved)}
    content = dict(np.load(moved))
    np.savez(moved, x=content["x"] + 1e-3, y=content["y"])
    with pytest.raises(SystemExit, match=r"data's fingerprint: .* in the folder, .* asked"):
        fleet(moved, "mlp")


def test_an_option_that_arrays_lack_is_refused_by_name(tmp_path, capsys):
    options = ["--data", "Arrays", "--data.file", "x.npz", "--data.flip", "true"]
    with pytest.raises(SystemExit):
        train.main(["--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "1", *options])
    assert "There is no option `--data.flip`." in capsys.readouterr().err


def test_a_network_for_images_is_answered_with_one_for_tables(arrays, fleet):
    with pytest.raises(SystemExit, match=r"The data has rows of numbers: take `--model.network ml"):
        fleet(arrays((12,)), "convnet")
