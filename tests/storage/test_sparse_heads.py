import json

import pytest

from storage.names import fleet_names
from storage.run_folder import RunFolder
from storage.sparse_heads import describe_sparse_heads


def stage(active, **facts):
    return {"rows": 9, "accuracy": [1.0], "active": active, "silent": 3, **facts}


@pytest.fixture
def describe(tmp_path):
    """Sentences on models with given stages; None has no record."""

    def describe(*models):
        run, names = RunFolder(tmp_path), fleet_names(4, 0)
        for name, stages in zip(names, models, strict=False):
            run.model(name).mkdir(parents=True)
            if stages is not None:
                run.record(name, "full").write_text(json.dumps({"stages": stages}))
        return describe_sparse_heads(run, names)

    return describe


def test_nothing_is_said_of_heads_that_are_as_they_should_be(describe):
    sparse = [stage(15.0, k=10, switch=100), stage(40.0, k=10, switch=100)]
    top_k = [stage(99.0, k=10), stage(10.0, k=10)]
    assert describe(sparse, top_k, [{"rows": 9, "accuracy": [1.0]}], None) == []


def test_heads_whose_neurons_died_are_named_with_the_task(describe):
    assert describe([stage(2.0), stage(0.0), stage(0.0)], [stage(9.0)], [stage(0.0)]) == [
        "All neurons of a head died, which no later task revives: shadow-000 (task 2), shadow-002 "
        "(task 1). Such a model tells nothing; lower `--model.lr`, or look for features that are "
        "negative."
    ]


def test_inhibition_that_came_late_is_counted(describe):
    late = [stage(300.0, k=10, switch=10**6), stage(200.0, k=10, switch=10**6)]
    assert describe(late, [stage(100.0, k=10, switch=10**6)], [stage(10.0, k=10, switch=9)]) == [
        "The inhibition of 2 models was not complete after the first task: 200 neurons were active "
        "per example, and k is 10. Lower `--continual.sdmlp.switch`, or raise "
        "`--trainer.max_epochs`."
    ]
