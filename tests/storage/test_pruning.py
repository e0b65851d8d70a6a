import json

import pytest
import torch

from storage.names import fleet_names
from storage.pruning import (
    LayerWidth,
    average_pruning,
    leave_out_pruning,
    read_pruning,
    read_widths,
)
from storage.run_folder import RunFolder
from storage.weights import save_network


def record(cut_after, stable, width):
    return {
        **{"method": "ocs", "remove": 0.5, "first": 1, "last": 5, "cut_after": cut_after},
        **{"stable": stable, "stability": [0.5] * (cut_after - 1), "macs": [100, 10 * width]},
        **{"parameters": [50, 5 * width], "accuracy": [0.5, 0.25, 0.75]},
        **{"widths": {"conv": [8, width], "fc": [10, 10]}, "kept": {"conv": [0]}},
    }


def test_means_by_hand():
    means = average_pruning([record(3, True, 4), record(5, False, 5)])
    assert means.macs == [100, 45]
    assert means.parameters == [50, 22.5]
    assert means.accuracy == [0.5, 0.25, 0.75]
    assert means.widths == [LayerWidth("conv", 8, 4, 4.5, 5), LayerWidth("fc", 10, 10, 10, 10)]
    assert (means.cut_after, means.stable) == ([3, 5], 1)
    assert means.stability == [[0.5, 0.5], [0.5] * 4]
    assert average_pruning([]) is None


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([record(3, True, 4)] * 2, "after epoch 3, when they had become stable in every model."),
        (
            [record(3, True, 4), record(5, False, 5)],
            "after epoch 3 to 5: in 1 of 2 models because they had become stable, in 1 at the "
            "latest epoch, before that.",
        ),
        ([record(1, None, 4)], "after epoch 1."),
        ([record(1, None, 4) | {"cut_after": 0}], "before training."),
    ],
)
def test_a_sentence_says_when_and_why(records, said):
    assert average_pruning(records).describe() == f"Pruning by ocs cut channels {said}"


def test_records_of_models_that_were_not_pruned_do_not_count(tmp_path):
    run, names = RunFolder(tmp_path), fleet_names(2, 1)
    for name, content in zip(names, [record(3, True, 4), {"noise": 1.0}], strict=False):
        run.model(name).mkdir(parents=True)
        run.record(name, "full").write_text(json.dumps(content))
    assert read_pruning(run, names).models == 1
    assert read_pruning(run, names[1:]) is None


def test_widths_are_those_of_the_weights_files(tmp_path):
    """A model without a cut, and one without a file, have none."""
    run, names = RunFolder(tmp_path), fleet_names(4, 0)
    for name, kept in zip(
        names, [{"stem": [0, 2], "body": [1]}, {"stem": [1], "body": [0, 1]}, {}], strict=False
    ):
        save_network(run.weights(name, "full"), {"weight": torch.zeros(1)}, kept)
    assert read_widths(run, names).tolist() == [[2, 1], [1, 2], [0, 0], [0, 0]]
    assert read_widths(run, names[2:]) is None


def test_lost_records_are_named(tmp_path):
    run, names = RunFolder(tmp_path), fleet_names(2, 0)
    assert leave_out_pruning(run, names[:0]) == []
    for name in names:
        run.model(name).mkdir(parents=True)
    run.record(names[0], "full").write_text(json.dumps(record(3, True, 4)))
    (sentence,) = leave_out_pruning(run, names)
    assert sentence.startswith("How shadow-001 was pruned is not reported: full.json is gone")
