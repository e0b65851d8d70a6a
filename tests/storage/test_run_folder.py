import errno
import hashlib

import pytest
import torch
import yaml
from safetensors.torch import load_file

from datamodules.membership import membership
from storage.checksums import seal
from storage.files import save_whole
from storage.names import ModelName, fleet_names
from storage.run_folder import RunFolder

SHADOW = ModelName("shadow", 3)


@pytest.fixture
def run(tmp_path, asked):
    run = RunFolder(tmp_path / "runs" / "x")
    run.open(asked(), membership(0, 4, 1, 20))
    return run


def matrix(run):
    return torch.stack(list(run.membership().values()))


def test_a_record_lies_beside_its_weights(run):
    path = run.record(SHADOW, "obc-w1.58-last8")
    assert path == run.weights(SHADOW, "obc-w1.58-last8").with_name("obc-w1.58-last8.json")


def test_a_new_folder_holds_the_experiment_and_its_membership(run, asked):
    stored = yaml.safe_load(run.experiment_file.read_text())
    assert stored == {"format": 1, **asked()._asdict()}
    assert run.read() == asked()
    assert torch.equal(matrix(run), membership(0, 4, 1, 20))
    rows = load_file(run.path / "membership.safetensors")
    assert {key: tuple(part.shape) for key, part in rows.items()} == {
        "shadows": (4, 20),
        "targets": (1, 20),
    }
    assert list(map(str, run.membership())) == [*(f"shadow-00{i}" for i in range(4)), "target-000"]


def test_a_folder_keeps_its_id(run, asked):
    again = run.open(asked(id="another"), membership(0, 4, 1, 20))
    assert again == run.read()
    assert again.id == asked().id


def test_the_place_of_the_images_is_the_last_one(run, asked):
    for root in ("/old", "/new"):
        opened = run.open(asked(places={"root": root}), membership(0, 4, 1, 20))
        assert opened.places == run.read().places == {"root": root}


def test_a_preview_writes_nothing(run, asked, snapshot, tmp_path):
    before = snapshot(run.path)
    grown = asked(config__fleet__shadows=6)
    assert run.preview(grown, membership(0, 6, 1, 20)).shadows == 6
    assert snapshot(run.path) == before
    new = RunFolder(tmp_path / "new")
    assert new.preview(grown, membership(0, 6, 1, 20)) == grown
    assert not new.path.exists()


def test_a_grown_fleet_keeps_its_first_rows(run, asked):
    before = matrix(run)
    grown = run.open(
        asked(config__fleet__shadows=8, config__fleet__targets=2), membership(0, 8, 2, 20)
    )
    assert (grown.shadows, grown.targets) == (8, 2)
    assert torch.equal(matrix(run)[:4], before[:4])
    assert torch.equal(matrix(run)[8], before[4])
    assert list(run.membership()) == grown.names == fleet_names(8, 2)


def test_variants_add_up(run, asked):
    run.open(asked(config__quantize=["nearest-w2", "nearest-w4"]), membership(0, 4, 1, 20))
    assert run.read().variants == ["full", "nearest-w4", "nearest-w2"]
    grown = run.open(asked(config__quantize=[]), membership(0, 4, 1, 20))
    assert grown.variants == ["full", "nearest-w4", "nearest-w2"]


def test_a_fleet_may_go_on_with_other_versions(run, asked):
    grown = run.open(asked(versions={"torch": "2.7"}), membership(0, 4, 1, 20))
    assert grown.versions == {"torch": "2.6"}


def test_another_experiment_is_refused_and_nothing_changes(run, asked, snapshot):
    before = snapshot(run.path)
    with pytest.raises(ValueError, match=r"(?s)x holds another .*seed: 0 in the folder, 1 asked"):
        run.open(asked(config__seed=1), membership(0, 6, 1, 20))
    assert snapshot(run.path) == before


def test_a_variant_is_missing_until_it_has_weights_and_signals(run):
    variants = ["full", "nearest-w4"]
    assert run.missing(SHADOW, variants) == variants
    save_whole(run.weights(SHADOW, "full"), {})
    assert run.missing(SHADOW, variants) == variants
    save_whole(run.signals(SHADOW, "full"), {})
    assert run.missing(SHADOW, variants) == ["nearest-w4"]
    save_whole(run.signals(SHADOW, "nearest-w4"), {})
    assert run.missing(SHADOW, variants) == ["nearest-w4"]
    files = {str(path.relative_to(run.path)) for path in run.path.glob("models/**/*.safetensors")}
    assert files == {
        "models/shadow-003/full.safetensors",
        "models/shadow-003/signals/full.safetensors",
        "models/shadow-003/signals/nearest-w4.safetensors",
    }


def test_embeddings_are_missing_only_of_models_that_are_embedded(run):
    for file in (run.weights, run.signals):
        save_whole(file(SHADOW, "full"), {})
    seal(run.model(SHADOW))
    assert run.missing(SHADOW, ["full"], [ModelName("target", 0)]) == []
    assert run.missing(SHADOW, ["full"], [SHADOW]) == ["full"]
    assert not run.is_finished(SHADOW, ["full"], [SHADOW])
    save_whole(run.embeddings(SHADOW, "full"), {})
    assert run.missing(SHADOW, ["full"], [SHADOW]) == []
    assert not run.is_finished(SHADOW, ["full"], [SHADOW])
    seal(run.model(SHADOW))
    assert run.is_finished(SHADOW, ["full"], [SHADOW])
    path = run.model(SHADOW) / "embeddings" / "full.safetensors"
    assert run.embeddings(SHADOW, "full") == path


def test_a_model_is_finished_once_its_files_have_checksums(run):
    for file in (run.weights(SHADOW, "full"), run.signals(SHADOW, "full")):
        assert not run.is_finished(SHADOW, ["full"])
        save_whole(file, {})
    assert not run.is_finished(SHADOW, ["full"])
    seal(run.model(SHADOW))
    assert run.is_finished(SHADOW, ["full"])
    assert not run.is_finished(SHADOW, ["full", "nearest-w4"])


def test_failed_trainings_are_numbered(run):
    for attempt in range(3):
        assert run.attempt(SHADOW) == attempt
        path = run.set_aside(SHADOW, attempt)
        assert path == run.model(SHADOW).with_name(f"shadow-003.failed-{attempt}")
        path.mkdir(parents=True)
    assert run.attempt(ModelName("shadow", 2)) == 0


def test_a_folder_without_an_experiment_says_how_to_train_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no experiment.yaml there.*python train.py"):
        RunFolder(tmp_path).read()


def test_a_folder_that_cannot_be_created_is_refused(tmp_path, monkeypatch):
    RunFolder(tmp_path / "a" / "b").check_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError) as error:
        RunFolder(tmp_path / "file").check_writable()
    assert error.value.filename == str(tmp_path / "file")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the tests may run as root
    with pytest.raises(PermissionError) as error:
        RunFolder(tmp_path / "a").check_writable()
    assert (error.value.errno, error.value.filename) == (errno.EACCES, str(tmp_path))


def write_rows(run, rows):
    """Write a membership file that is whole."""
    content = b"".join(rows[role].numpy().tobytes() for role in ("shadows", "targets"))
    save_whole(run.membership_file, rows, {"sha256": hashlib.sha256(content).hexdigest()})


def test_a_stored_membership_is_never_overwritten(run, asked):
    stored = load_file(run.membership_file)
    write_rows(run, stored | {"targets": ~stored["targets"]})
    before = run.membership_file.read_bytes()
    with pytest.raises(ValueError, match="differs from what this seed draws for its targets"):
        run.open(asked(), membership(0, 4, 1, 20))
    assert run.membership_file.read_bytes() == before


def test_missing_rows_are_noticed(run):
    stored = load_file(run.membership_file)
    write_rows(run, stored | {"shadows": stored["shadows"][:2].clone()})
    with pytest.raises(ValueError, match=r"2 shadows and 1 targets, the experiment 4 and 1"):
        run.membership()


def test_a_kill_while_a_fleet_grows_leaves_each_model_its_row(run, asked):
    """The rows are written first: until the options follow, each model keeps its own."""
    options = run.experiment_file.read_text()
    run.open(asked(config__fleet={"shadows": 8, "targets": 2}), membership(0, 8, 2, 20))
    run.experiment_file.write_text(options)
    assert torch.equal(matrix(run), membership(0, 4, 1, 20))
    assert list(run.membership()) == fleet_names(4, 1)


def test_options_that_yaml_cannot_hold_leave_no_half_made_folder(tmp_path, asked):
    run = RunFolder(tmp_path / "new")
    with pytest.raises(yaml.YAMLError):
        run.open(asked(config__option=object()), membership(0, 4, 1, 20))
    assert not (run.path / "membership.safetensors").exists()


def test_a_damaged_membership_is_named(run):
    content = run.membership_file.read_bytes()
    for damaged in (content[:-1], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]):
        run.membership_file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"membership.safetensors is not what .*Delete it"):
            run.membership()
