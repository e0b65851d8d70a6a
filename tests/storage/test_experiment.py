from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from torch import nn

from datamodules.digits import Digits
from quantization.mixed_options import MixedOptions
from storage.describe import describe
from storage.experiment import read_experiment
from storage.names import fleet_names


@pytest.fixture
def path(tmp_path):
    return tmp_path / "experiment.yaml"


def test_a_written_experiment_is_read_back(path, asked):
    experiment = asked(config__model__network_args={"width": 3})
    path.write_text(yaml.safe_dump(experiment.as_dict(), sort_keys=False))
    assert path.read_text().startswith("format: 1\n")
    assert read_experiment(path) == experiment


def test_an_experiment_knows_its_models_variants_and_queries(asked):
    experiment = asked(config__quantize=["nearest-w4", "obc-w2"])
    assert experiment.variants == ["full", "nearest-w4", "obc-w2"]
    assert (experiment.shadows, experiment.targets) == (4, 1)
    assert experiment.names == fleet_names(4, 1)
    assert experiment.queries == ["identity"]


@pytest.mark.parametrize("content", [b"config: [", b"\xff\xfe", b""])
def test_a_damaged_file_is_named(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)experiment.yaml is damaged .*Restore it"):
        read_experiment(path)


def test_a_file_that_lacks_a_field_is_named(path, asked):
    fields = asked().as_dict()
    del fields["places"], fields["id"]
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(ValueError, match=r"experiment.yaml is damaged: it lacks places, id. Rest"):
        read_experiment(path)


def test_options_that_lack_what_a_folder_is_read_by_are_damage(path, asked):
    fields = asked().as_dict()
    del fields["config"]["quantize"]
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(ValueError, match=r"experiment.yaml is damaged: it lacks quantize\. Rest"):
        read_experiment(path)
    path.write_text(yaml.safe_dump(fields | {"config": []}))
    with pytest.raises(ValueError, match="is damaged: it lacks fleet, queries, quantize"):
        read_experiment(path)


@pytest.mark.parametrize(("change", "named"), [({}, "none"), ({"format": 2}, "2")])
def test_another_format_is_one_line_with_the_ways_out(path, asked, change, named):
    path.write_text(yaml.safe_dump(asked()._asdict() | change))  # `none` is an older version
    with pytest.raises(ValueError, match=r"another version of BitLeak") as error:
        read_experiment(path)
    assert str(error.value) == (
        f"{path} was written by another version of BitLeak (format {named}, this version reads 1). "
        "Train into a new folder, or use the version that wrote it."
    )


@pytest.fixture(scope="module")
def data():
    data = Digits(pool_size=64)
    data.setup("fit")
    return data


@pytest.fixture
def config():
    init_args = Namespace(root="images", download=True, pool_size=64)
    return Namespace(
        seed=3,
        data=Namespace(init_args=init_args),
        model=Namespace(network="convnet", lr=0.1),
        prune=Namespace(method=None),
        federated=Namespace(clients=None, record=()),
        continual=Namespace(tasks=None, replay=0, ends=[]),
        trainer=Namespace(max_epochs=2, accelerator="cpu", devices=1),
        fleet=Namespace(shadows=4, targets=1, workers=3),
        calibration=Namespace(images=8, rounds=0),
        mixed=Namespace(**asdict(MixedOptions())),
        layer_bits={},
        quantize_snapshots=False,
        record_embeddings=False,
        snapshots=[5, 1],
        threads=2,
    )


def test_a_description_holds_what_changes_a_number(config, data):
    variants = ["nearest-w2", "nearest-w4", "nearest-w2"]
    experiment = describe(config, data, nn.Linear(64, 10), ["identity"], variants)
    assert experiment.config == {
        "seed": 3,
        "data": {"class_path": "datamodules.digits.Digits", "init_args": {"pool_size": 64}},
        "model": {"network": "convnet", "lr": 0.1},
        "prune": {"method": None},
        "federated": {"clients": None, "record": []},
        "continual": {},
        "trainer": {"max_epochs": 2},
        "fleet": {"shadows": 4, "targets": 1},
        "queries": ["identity"],
        "calibration": {"images": 8, "rounds": 0},
        "layer_bits": {},
        "mixed": {
            "candidates": [8, 4, 3, 2, 1.58, 32],
            "sensitivity": "kl",
            "tie": "free",
            "ai_scale": 60.0,
            "loss_scale": 10.0,
            "batch": 1,
        },
        "quantize": ["nearest-w2", "nearest-w4"],
        "quantize_snapshots": False,
        "record_embeddings": False,
        "snapshots": [1, 5],
    }
    assert experiment.variants == ["full", "epoch-01", "epoch-05", "nearest-w2", "nearest-w4"]
    assert experiment.input == {"num_classes": 10, "channels": 1, "height": 8, "width": 8}
    assert experiment.fingerprints.keys() == {"data", "network"}
    assert experiment.versions.keys() == {"torch", "lightning", "bitleak", "threads"}
    assert experiment.places.keys() == {"root"}
    assert experiment.places["root"].endswith("/images")


@pytest.mark.parametrize(
    ("dp", "recorded"), [({"epsilon": 8.0}, True), ({"noise": 1.0}, True), ({"clip": 1.0}, False)]
)
def test_opacus_is_recorded_where_it_solves_for_the_noise(config, data, dp, recorded):
    config.model.dp = Namespace(**dp)
    versions = describe(config, data, nn.Linear(64, 10), ["identity"], []).versions
    assert ("opacus" in versions) == recorded


@pytest.mark.parametrize(("method", "recorded"), [(None, False), ("ocs", True)])
def test_torch_pruning_is_recorded_where_it_finds_the_channels(config, data, method, recorded):
    config.prune = Namespace(method=method, remove=0.4)
    experiment = describe(config, data, nn.Linear(64, 10), ["identity"], [])
    assert ("torch-pruning" in experiment.versions) == recorded == experiment.pruned
    assert experiment.config["prune"] == {"method": method, "remove": 0.4}


def test_snapshots_of_a_federation_are_rounds(config, data):
    assert not describe(config, data, nn.Linear(64, 10), ["identity"], []).federated
    config.federated = Namespace(clients=5, record=[1, 2])
    experiment = describe(config, data, nn.Linear(64, 10), ["identity"], [])
    assert experiment.federated
    assert experiment.snapshots == {"round-01": 1, "round-05": 5}
    assert experiment.rounds == [1, 2]
    files = ["clients.safetensors", "rounds/01.safetensors", "rounds/02.safetensors"]
    assert experiment.recorded == dict(zip(files, (0, 1, 2), strict=True))


def test_snapshots_of_a_learner_of_tasks_are_the_ends_of_its_stages(config, data):
    config.continual, config.snapshots = Namespace(tasks=3, replay=1, ends=[4, 6, 8]), []
    experiment = describe(config, data, nn.Linear(64, 10), ["identity"], ["nearest-w2"])
    assert experiment.continual
    assert experiment.config["continual"] == {"tasks": 3, "replay": 1, "ends": [4, 6, 8]}
    assert experiment.stage_ends == [4, 6, 8]
    assert experiment.snapshots == {"task-1": 4, "task-2": 6}
    assert experiment.variants == ["full", "task-1", "task-2", "nearest-w2"]
    assert experiment.recorded == {f"tasks/0{n}.safetensors": 2 + 2 * n for n in (1, 2, 3)}


def test_options_of_own_data_are_places_only_if_they_are_paths(config, data):
    """Those of `Arrays` are; in a user's own data, `labels` may be which labels are learned."""
    options = {"file": Path("x.npz"), "cache": None, "labels": "coarse"}
    config.data.init_args = Namespace(root="images", **options)
    experiment = describe(config, data, nn.Linear(64, 10), ["identity"], [])
    assert experiment.config["data"]["init_args"] == {"labels": "coarse"}
    assert experiment.places.keys() == {"root", "file"}
    assert experiment.places["file"].endswith("/x.npz")
    config.data.init_args = Namespace(file=["a.npz", "b.npz"])
    experiment = describe(config, data, nn.Linear(64, 10), ["identity"], [])
    assert (experiment.config["data"]["init_args"], experiment.places) == (
        {"file": ["a.npz", "b.npz"]},
        {},
    )


@pytest.mark.parametrize(
    ("processes", "together", "share"), [(1, False, None), (4, False, 8.0), (4, True, None)]
)
def test_images_per_batchnorm_are_part_of_an_experiment(config, data, processes, together, share):
    config.data.init_args.batch_size = 32
    config.trainer.sync_batchnorm = together
    experiment = describe(config, data, nn.Linear(64, 10), [], [], processes)
    assert experiment.config["trainer"].get("images_per_batchnorm") == share


def test_the_gpu_that_trains_is_recorded(config, data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91500)
    for accelerator, kept in (("cpu", {}), ("auto", {"gpu": "NVIDIA H200", "cuda": "13.0"})):
        config.trainer.accelerator = accelerator
        versions = describe(config, data, nn.Linear(64, 10), [], []).versions
        assert {key: versions[key] for key in ("gpu", "cuda") if key in versions} == kept
    assert versions["cudnn"] == "91500"


def test_each_description_draws_an_id(config, data):
    first, second = (describe(config, data, nn.Linear(64, 10), [], []) for _ in range(2))
    assert first.id != second.id
    assert first._replace(id=second.id) == second


def test_fingerprints_follow_shapes_and_the_order_of_patterns(config, data):
    def fingerprints(columns, bits):
        config.layer_bits = bits
        return describe(config, data, nn.Linear(columns, 10), [], []).fingerprints

    plain, wider = fingerprints(64, {}), fingerprints(65, {})
    assert plain["network"] != wider["network"]
    assert plain["data"] == wider["data"]
    assert fingerprints(64, {"fc": 8, "*": 1.58})["layer_bits"] == "fc: 8, *: 1.58"


def test_the_audited_models_are_embedded(asked):
    on = {"config__record_embeddings": True}
    assert asked(**on).embedded == fleet_names(4, 1)[4:]
    assert asked(config__fleet__targets=0, **on).embedded == fleet_names(4, 0)
    assert asked().embedded == []
