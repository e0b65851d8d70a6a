"""An audit shows and uses the images only where they are those that the fleet was trained on."""

import csv
import shutil

import pytest
import yaml

from storage.run_folder import RunFolder


def test_data_that_cannot_be_imported_gives_a_note_and_no_gallery(
    audited_run, audit, read_csv, results_of
):
    """The experiment names a class that cannot be imported."""
    run, output = audited_run
    note, left_out = results_of(run)["left_out"]
    assert left_out == (
        "quantile_regression was left out: it needs the images. Put the data back in its place, "
        "and audit again."
    )
    assert note.startswith("No image is shown or used by an attack: ")
    assert "nowhere.Images" in note
    assert f"{note}\n{left_out}\n" in output
    assert not (run.path / "audit" / "gallery.png").exists()
    assert "quantile_regression" not in {line["attack"] for line in read_csv(run)}
    with (run.path / "audit" / "exposure.csv").open(newline="") as file:
        assert "label" not in next(csv.reader(file))
    with pytest.raises(SystemExit, match="`quantile_regression` needs the images, which not"):
        audit(run, "--attacks", "quantile_regression")


def test_images_the_fleet_was_not_trained_on_are_not_used(
    toy_run, tmp_path, audit, read_csv, empty_figures
):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(toy_run, run.path)
    content = run.experiment_file.read_text()
    fingerprint = run.read().fingerprints["data"]
    run.experiment_file.write_text(content.replace(fingerprint, "00ff"))
    output = audit(run)
    assert "No image is shown or used by an attack: they are not those" in output
    assert not (run.path / "audit" / "gallery.png").exists()
    assert "quantile_regression" not in {line["attack"] for line in read_csv(run)}


def test_the_gallery_disappears_with_the_images(
    toy_run, tmp_path, results_of, quick_audit, empty_figures
):
    """The gallery is that of an earlier audit, when the images were still there."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(toy_run, run.path)
    quick_audit(run)
    assert (run.path / "audit" / "gallery.png").read_bytes().endswith(b"IEND\xaeB`\x82")
    content = run.experiment_file.read_text()
    run.experiment_file.write_text(content.replace(run.read().fingerprints["data"], "00ff"))
    assert "Nothing has changed" not in quick_audit(run)
    assert not (run.path / "audit" / "gallery.png").exists()
    assert "gallery" not in results_of(run)["figures"]


@pytest.mark.parametrize(
    ("kind", "message"), [("ImageFolder", "[/bold]gone"), ("CIFAR10", "Dataset not found")]
)
def test_images_that_moved_give_a_note_and_no_gallery(
    toy_run, tmp_path, kind, message, quick_audit, empty_figures
):
    """Whatever error the library raises, and with markup in the name of the folder."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(toy_run, run.path)
    experiment = yaml.safe_load(run.experiment_file.read_text())
    experiment["config"]["data"] = {"class_path": f"datamodules.{kind}", "init_args": {}}
    experiment["places"] = {"root": str(tmp_path / "[/bold]gone")}
    run.experiment_file.write_text(yaml.safe_dump(experiment))
    output = quick_audit(run)
    (note,) = (line for line in output.splitlines() if line.startswith("No image is shown or used"))
    assert message in note
    assert not (run.path / "audit" / "gallery.png").exists()
