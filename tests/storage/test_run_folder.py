import copy
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from datamodules.membership import membership
from storage.checksums import seal
from storage.files import save_whole
from storage.names import ModelName
from storage.run_folder import RunFolder

SHADOW = ModelName("shadow", 3)
ASKED = {
    "config": {
        "seed": 0,
        "model": {"lr": 0.1, "network_args": None},
        "fleet": {"shadows": 4, "targets": 1},
        "queries": ["identity"],
        "quantize": ["nearest-w4"],
    },
    "fingerprints": {"data": "0123456789abcdef", "network": "n"},
    "versions": {"torch": "2.6"},
}


def asked(**changes):
    """ASKED with changes, by dotted names written with underscores: `fleet__shadows=6`."""
    experiment = copy.deepcopy(ASKED)
    for name, value in changes.items():
        *parents, key = name.split("__")
        place = experiment
        for parent in parents:
            place = place[parent]
        place[key] = value
    return experiment


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "runs" / "x")
    run.open(asked(), membership(0, 4, 1, 20))
    return run


def test_a_record_lies_beside_its_weights(run):
    path = run.record(SHADOW, "obc-w1.58-last8")
    assert path == run.weights(SHADOW, "obc-w1.58-last8").with_name("obc-w1.58-last8.json")
    assert run.read_record(SHADOW, "obc-w1.58-last8") is None
    path.parent.mkdir(parents=True)
    path.write_text('{"seconds": 1.5, "calibration": null}')
    assert run.read_record(SHADOW, "obc-w1.58-last8") == {"seconds": 1.5, "calibration": None}
    path.write_text('{"seconds": 1.5')
    with pytest.raises(
        ValueError, match=r"obc-w1\.58-last8\.json is not a whole record .*Delete it"
    ):
        run.read_record(SHADOW, "obc-w1.58-last8")


def test_who_was_calibrated_on_what(run):
    members, names = run.membership(), run.names()

    def record(name, source, indices):
        path = run.record(name, "obc-w2")
        path.parent.mkdir(parents=True, exist_ok=True)
        used = source and {"source": source, "indices": indices}
        path.write_text(json.dumps({"calibration": used}))

    record(names[1], "members", [3, 0])
    record(names[4], "members", [7])
    masks = run.calibrated("obc-w2", [names[1], names[4]], members)
    assert masks.nonzero().tolist() == [[1, 0], [1, 3], [4, 7]]
    assert run.calibrated("obc-w2", names, members) is None  # some have no record
    for source in ("nonmembers", "heldout", None):
        record(names[4], source, [7])
        assert run.calibrated("obc-w2", [names[1], names[4]], members) is None


def test_images_that_were_moved_are_remembered(run):
    members = run.membership()
    for root in ("/old", "/new"):
        assert run.open(asked(places={"root": root}), members)["places"] == {"root": root}
        assert run.read()["places"] == {"root": root}


def test_a_new_folder_holds_what_was_asked_and_who_trains_on_what(run):
    stored = yaml.safe_load(run.experiment_file.read_text())
    assert stored.pop("id")
    assert stored == ASKED
    assert torch.equal(run.membership(), membership(0, 4, 1, 20))
    matrix = load_file(run.path / "membership.safetensors")
    assert {key: tuple(rows.shape) for key, rows in matrix.items()} == {
        "shadows": (4, 20),
        "targets": (1, 20),
    }
    assert list(map(str, run.names())) == [*(f"shadow-00{i}" for i in range(4)), "target-000"]


def test_two_folders_have_two_ids_and_one_folder_keeps_its_own(tmp_path, run):
    other = RunFolder(tmp_path / "other").open(asked(), membership(0, 4, 1, 20))
    again = run.open(asked(), membership(0, 4, 1, 20))
    assert again == run.read()
    assert again["id"] != other["id"]


def test_a_grown_fleet_keeps_its_first_rows(run):
    before = run.membership()
    grown = run.open(
        asked(config__fleet__shadows=8, config__fleet__targets=2), membership(0, 8, 2, 20)
    )
    assert grown["config"]["fleet"] == {"shadows": 8, "targets": 2}
    assert torch.equal(run.membership()[:4], before[:4])
    assert torch.equal(run.membership()[8], before[4])
    assert len(run.names()) == len(run.membership()) == 10


def test_precisions_add_up(run):
    run.open(asked(config__quantize=["nearest-w2", "nearest-w4"]), membership(0, 4, 1, 20))
    assert run.read()["config"]["quantize"] == ["nearest-w4", "nearest-w2"]
    grown = run.open(asked(config__quantize=[]), membership(0, 4, 1, 20))
    assert grown["config"]["quantize"] == ["nearest-w4", "nearest-w2"]


def test_other_versions_may_go_on(run):
    grown = run.open(asked(versions={"torch": "2.7"}), membership(0, 4, 1, 20))
    assert grown["versions"] == {"torch": "2.6"}


def test_an_option_that_is_newer_than_the_folder_may_be_off(run):
    run.open(asked(config__model__compile=False), membership(0, 4, 1, 20))
    with pytest.raises(ValueError, match=r"model.cudagraphs: None in the folder, True asked"):
        run.open(asked(config__model__cudagraphs=True), membership(0, 4, 1, 20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config__seed": 1}, "seed: 0 in the folder, 1 asked"),
        ({"config__model__lr": 0.2}, "model.lr: 0.1 in the folder, 0.2 asked"),
        ({"config__model__network_args": {"width": 3}}, "model.network_args.width: None .*, 3 ask"),
        ({"config__fleet__shadows": 2}, "fleet.shadows: 4 in the folder, 2 asked"),
        ({"config__fleet__targets": 0}, "fleet.targets: 1 in the folder, 0 asked"),
        ({"config__queries": ["mirror"]}, r"queries: \['identity'\] in the folder, \['mirror'\]"),
        ({"config__new_option": True}, "new_option: None in the folder, True asked"),
        (
            {"fingerprints": {"data": "f", "network": "n"}},
            "data's fingerprint: '0123456789abcdef' in the folder, 'f' asked",
        ),
    ],
)
def test_another_experiment_is_refused_and_nothing_changes(run, snapshot, change, message):
    before = snapshot(run.path)
    with pytest.raises(ValueError, match="(?s)x holds another experiment.*" + message) as error:
        run.open(asked(**change), membership(0, 6, 1, 20))
    assert "train into a new one with `--run_dir`" in str(error.value)
    assert snapshot(run.path) == before


def test_every_difference_is_named(run):
    with pytest.raises(ValueError, match=r"(?s)seed: 0.*model.lr: 0.1") as error:
        run.open(asked(config__seed=1, config__model__lr=1.0), membership(1, 4, 1, 20))
    assert str(error.value).count("in the folder") == 3  # and once in the ways out


def test_missing_needs_weights_and_signals(run):
    variants = ["full", "nearest-w4"]
    assert run.missing(SHADOW, variants) == variants
    save_whole(run.weights(SHADOW, "full"), {})
    assert run.missing(SHADOW, variants) == variants
    save_whole(run.signals(SHADOW, "full"), {})
    assert run.missing(SHADOW, variants) == ["nearest-w4"]
    save_whole(run.signals(SHADOW, "nearest-w4"), {})
    assert run.missing(SHADOW, variants) == ["nearest-w4"]
    files = {str(p.relative_to(run.path)) for p in run.path.glob("models/**/*.safetensors")}
    assert files == {
        "models/shadow-003/full.safetensors",
        "models/shadow-003/signals/full.safetensors",
        "models/shadow-003/signals/nearest-w4.safetensors",
    }


def test_failed_models_are_numbered_and_kept(run):
    for attempt in range(3):
        assert run.attempt(SHADOW) == attempt
        save_whole(run.weights(SHADOW, "full"), {"attempt": torch.tensor(attempt)})
        assert run.set_aside(SHADOW).name == f"shadow-003.failed-{attempt}"
        assert not run.model(SHADOW).exists()
    kept = sorted(run.path.glob("models/*/full.safetensors"))
    assert [load_file(path)["attempt"].item() for path in kept] == [0, 1, 2]
    assert run.attempt(ModelName("shadow", 2)) == 0


def test_a_folder_without_an_experiment_says_how_to_train_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no experiment.yaml there.*python train.py"):
        RunFolder(tmp_path).read()


def test_rows_that_were_trained_by_are_never_overwritten(run):
    path = run.path / "membership.safetensors"
    stored = load_file(path)
    stored["targets"][0] = ~stored["targets"][0]
    save_whole(path, stored)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="differs from what this seed draws for its targets"):
        run.open(asked(), membership(0, 4, 1, 20))
    assert path.read_bytes() == before


def test_a_kill_between_the_rows_and_the_options_of_a_grown_fleet(run):
    """The rows are there first: until the options follow, each model keeps its own."""
    options = run.experiment_file.read_text()
    run.open(asked(config__fleet={"shadows": 8, "targets": 2}), membership(0, 8, 2, 20))
    run.experiment_file.write_text(options)
    assert torch.equal(run.membership(), membership(0, 4, 1, 20))
    assert len(run.names()) == len(run.membership())


def test_rows_that_are_missing_are_noticed(run):
    stored = load_file(run.path / "membership.safetensors")
    save_whole(
        run.path / "membership.safetensors",
        {"shadows": stored["shadows"][:2], "targets": stored["targets"]},
    )
    with pytest.raises(ValueError, match=r"2 shadows and 1 targets, the experiment 4 and 1"):
        run.membership()


def test_options_that_yaml_cannot_hold_leave_no_half_made_folder(tmp_path):
    run = RunFolder(tmp_path / "new")
    with pytest.raises(yaml.YAMLError):
        run.open(asked(config__option=object()), membership(0, 4, 1, 20))
    assert not (run.path / "membership.safetensors").exists()


def test_damaged_rows_and_options_are_named(run):
    content = run.membership_file.read_bytes()
    for harmed in (content[:-1], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]):
        run.membership_file.write_bytes(harmed)
        with pytest.raises(ValueError, match=r"membership.safetensors is not what .*Delete it"):
            run.membership()
    for content in (b"config: [", b"\xff\xfe", b""):
        run.experiment_file.write_bytes(content)
        with pytest.raises(ValueError, match=r"(?s)experiment.yaml is damaged .*Restore it"):
            run.read()


def test_finished_is_with_checksums(run):
    for file in (run.weights(SHADOW, "full"), run.signals(SHADOW, "full")):
        assert not run.is_finished(SHADOW, ["full"])
        save_whole(file, {})
    assert not run.is_finished(SHADOW, ["full"])
    seal(run.model(SHADOW))
    assert run.is_finished(SHADOW, ["full"])
    assert not run.is_finished(SHADOW, ["full", "nearest-w4"])
