import os
from pathlib import Path

import pytest

from storage.wandb_project import accuracy_key, check_key, choose_folders, group_name, sortable


def test_names_of_variants_become_letters_digits_and_underscores():
    assert sortable("adaround-w1.58-last8") == "adaround_w1_58_last8"
    assert accuracy_key("full") == "test_accuracy/full"
    assert accuracy_key("nearest-w2") == "test_accuracy/nearest_w2"


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_only_online_runs_need_a_key(monkeypatch, mode):
    monkeypatch.setattr("wandb.login", lambda **_: pytest.fail("logged in"))
    check_key(mode)


def test_online_runs_stop_without_a_key(monkeypatch):
    monkeypatch.setattr("wandb.login", lambda prompt: True)
    check_key("online")
    monkeypatch.setattr("wandb.login", lambda prompt: False)
    with pytest.raises(ValueError, match=r"`--wandb online` needs an API key .*`wandb login`"):
        check_key("online")


def test_a_refused_key_is_named_with_the_ways_out(monkeypatch):
    def refuse(prompt):
        raise ConnectionError("no route")

    monkeypatch.setattr("wandb.login", refuse)
    with pytest.raises(ValueError, match=r"could not log in \(no route\).*`--wandb offline`"):
        check_key("online")


def test_a_group_is_named_for_its_folder_in_at_most_128_characters(tmp_path):
    assert group_name(tmp_path / "digits") == "digits"
    assert group_name(tmp_path / ("x" * 128)) == "x" * 128
    first, second = (group_name(tmp_path / ("x" * 128 + end)) for end in "ab")
    assert len(first) == len(second) == 128
    assert first.startswith("x" * 119 + "-")
    assert first != second


def test_cache_and_data_are_below_the_run_folder_if_they_cannot_be_below_home(
    tmp_path, monkeypatch
):
    home = tmp_path / "home"
    variables = {"WANDB_CACHE_DIR": home / "cache", "WANDB_DATA_DIR": home / "data"}
    for variable, folder in variables.items():
        monkeypatch.setenv(variable, str(folder))
    choose_folders(tmp_path / "run")
    assert {name: Path(os.environ[name]) for name in variables} == variables
    for folder in (*variables.values(), home):
        folder.rmdir()
    home.write_text("")  # not even root creates a folder in a file
    choose_folders(tmp_path / "run")
    assert {os.environ[name] for name in variables} == {str(tmp_path / "run" / "wandb" / "home")}
