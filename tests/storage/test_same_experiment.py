"""Growth, refusal and differences of experiments, by hand."""

from pathlib import Path

import pytest

from lightning_modules.federated_options import FEDERATED_DEFAULTS
from lightning_modules.options import PRUNE_DEFAULTS
from storage.same_experiment import check_same, differing, grow


def test_growth_adds_models_and_variants_and_moves_places(asked):
    stored = asked(config__quantize=["nearest-w4", "obc-w2"])
    larger = asked(
        config__fleet__shadows=8,
        config__quantize=["nearest-w2", "obc-w2"],
        places={"root": "/new"},
        versions={"torch": "2.7"},
        id="another",
    )
    grown = grow(stored, larger)
    assert (grown.shadows, grown.places) == (8, {"root": "/new"})
    assert grown.variants == ["full", "nearest-w4", "obc-w2", "nearest-w2"]
    assert (grown.versions, grown.id) == (stored.versions, stored.id)


def test_embeddings_that_were_asked_for_stay_asked_for(asked):
    """A folder from before the option has none."""
    on, off, before = (
        asked(config__record_embeddings=True),
        asked(config__record_embeddings=False),
        asked(),
    )
    for stored, later in ((before, on), (off, on), (on, off), (on, on)):
        assert grow(stored, later).config["record_embeddings"] is True
        check_same(Path("x"), stored, later)
    assert grow(before, off).config["record_embeddings"] is False
    assert grow(before, off).embedded == []
    assert differing({"a": on, "b": off}) == {}


def test_snapshots_that_were_asked_for_stay_asked_for(asked):
    """A folder from before the option has none."""
    some, more, before = asked(config__snapshots=[2]), asked(config__snapshots=[9, 11]), asked()
    assert before.snapshots == {}
    assert grow(before, some).snapshots == {"epoch-02": 2}
    assert list(grow(some, more).snapshots.items()) == [
        ("epoch-02", 2),
        ("epoch-09", 9),
        ("epoch-11", 11),
    ]
    assert grow(some, before).variants[:2] == ["full", "epoch-02"]
    assert differing({"a": some, "b": more}) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"config__fleet__shadows": 6},
        {"config__fleet__targets": 2},
        {"config__quantize": []},
        {"versions": {"torch": "2.7"}},
        {"places": {}},
        {"id": "another"},
    ],
)
def test_changes_that_a_folder_can_grow_into_are_accepted(tmp_path, asked, change):
    check_same(tmp_path, asked(), asked(**change))


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
def test_another_experiment_is_refused(tmp_path, asked, change, message):
    with pytest.raises(ValueError, match="(?s)holds another experiment.*" + message) as error:
        check_same(tmp_path, asked(), asked(**change))
    assert "train into a new one with `--run_dir`" in str(error.value)


def test_a_fleet_begun_on_one_device_does_not_go_on_over_four(tmp_path, asked):
    alone = asked(config__data={"init_args": {"batch_size": 32}})
    four = asked(config__data=alone.config["data"], config__trainer={"images_per_batchnorm": 8.0})
    for before, after, named in (
        (alone, four, r"trainer.images_per_batchnorm: 32 in the folder, 8\.0 asked"),
        (four, alone, r"trainer.images_per_batchnorm: 8\.0 in the folder, 32 asked"),
    ):
        check_same(tmp_path, before, before)
        with pytest.raises(ValueError, match=named):
            check_same(tmp_path, before, after)


@pytest.mark.parametrize(
    ("option", "before", "now"), [("tf32", False, True), ("label_smoothing", 0.0, 0.2)]
)
def test_a_folder_from_before_an_option_goes_on_without_it(tmp_path, asked, option, before, now):
    key = f"config__model__{option}"
    check_same(tmp_path, asked(), asked(**{key: before}))
    with pytest.raises(ValueError, match=rf"model.{option}: {before} in the folder, {now} asked"):
        check_same(tmp_path, asked(), asked(**{key: now}))


def test_a_folder_from_before_pruning_was_an_option_goes_on_without_it(tmp_path, asked):
    plain = dict(PRUNE_DEFAULTS)
    check_same(tmp_path, asked(), asked(config__prune=plain))
    with pytest.raises(ValueError, match=r"prune.method: None in the folder, 'ocs' asked"):
        check_same(tmp_path, asked(), asked(config__prune=plain | {"method": "ocs"}))
    assert not asked().pruned


def test_a_folder_from_before_federations_goes_on_without_them(tmp_path, asked):
    plain = FEDERATED_DEFAULTS | {"record": []}
    check_same(tmp_path, asked(), asked(config__federated=plain))
    with pytest.raises(ValueError, match=r"federated.clients: None in the folder, 10 asked"):
        check_same(tmp_path, asked(), asked(config__federated=plain | {"clients": 10}))
    assert not asked().federated
    assert asked().rounds == []


def test_a_folder_from_before_tasks_goes_on_without_them(tmp_path, asked):
    check_same(tmp_path, asked(), asked(config__continual={}))
    tasks = {"tasks": 5, "ends": [1, 2, 3, 4, 5]}
    with pytest.raises(ValueError, match=r"continual\.tasks: None in the folder, 5 asked"):
        check_same(tmp_path, asked(), asked(config__continual=tasks))
    assert not asked().continual
    grown = grow(asked(config__continual=tasks), asked(config__continual=tasks))
    assert grown.snapshots == {f"task-{number}": number for number in (1, 2, 3, 4)}


def test_a_folder_from_before_privacy_was_an_option_goes_on_without_it(tmp_path, asked):
    off = {"noise": None, "epsilon": None, "delta": None, "clip": 1.0}
    check_same(tmp_path, asked(), asked(config__model__dp=off))
    with pytest.raises(ValueError, match=r"model.dp.noise: None in the folder, 1\.5 asked"):
        check_same(tmp_path, asked(), asked(config__model__dp=off | {"noise": 1.5}))
    assert not asked().private
    assert not asked(config__model__dp=off).private
    assert asked(config__model__dp=off | {"epsilon": 8.0}).private


def test_every_difference_is_named(tmp_path, asked):
    with pytest.raises(ValueError, match=r"(?s)seed: 0.*model.lr: 0.1") as error:
        check_same(tmp_path, asked(), asked(config__seed=1, config__model__lr=1.0))
    assert str(error.value).count("in the folder") == 3  # and once in the ways out


def test_differing_options_of_several_experiments_by_hand(asked):
    experiments = {
        "a": asked(),
        "b": asked(config__model__lr=0.2, config__quantize=[], id="b"),
        "c": asked(config__queries=["identity", "mirror"], config__extra=1),
    }
    assert differing(experiments) == {
        "model.lr": ["0.1", "0.2", "0.1"],
        "queries": ["identity", "identity", "identity, mirror"],
        "extra": ["-", "-", "1"],
    }
    assert differing({"a": asked(), "b": asked(id="b")}) == {}
    outside = differing({"a": asked(), "outside": None})
    assert outside["seed"] == ["0", "unknown"]
    assert outside["versions.torch"] == ["2.6", "unknown"]
