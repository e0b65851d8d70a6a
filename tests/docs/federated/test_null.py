"""The null: federations whose holders are drawn anew, in which nothing can be found."""

import json

import pytest

from attacks.federated.leaks import find_federated_leak
from benchmarks.synthetic_federations import Options, write_federations
from docs.federated import sentences
from docs.federated.null import count, find_null, read_null
from docs.study.null import FILE, Null
from storage.evidence import gather

OPTIONS = Options(pool=300, shadows=8, targets=4, clients=5, rounds=2, record=(1, 2), seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_federations(tmp_path_factory.mktemp("federations") / "full", OPTIONS)


def test_nothing_is_found_of_holders_that_are_drawn_anew(run, tmp_path, monkeypatch):
    """The oracle: few intervals of real holders hold guessing, and nearly all of others do."""
    monkeypatch.setattr("attacks.federated.series_network.EPOCHS", 2)  # of 50, for speed
    (tmp_path / FILE).write_text(find_null(run.path))
    null = read_null(tmp_path)
    assert [*null] == ["server", "client"]
    for threat, (holding, attacks) in null.items():
        leak = find_federated_leak(gather(run, allow_partial=True).game, threat)
        real = count(leak)
        assert real.attacks == attacks == len(leak.rows)
        assert holding["auc"] >= 0.7 * attacks > real.holding["auc"]
        assert holding["tpr_1pct"] >= 0.7 * attacks


def test_an_interval_holds_guessing_up_to_its_ends(leak_of):
    """By hand: intervals reach 0.01 to either side of AUC 0.5, 0.509 and 0.52.

    `mean_phi` is 0.2 below 0.7, at guessing, where the TPR is 1%.
    """
    rows = leak_of("client", [0.7] * 8, None).rows[:1] * 3
    areas = [
        row.auc._replace(low=v - 0.01, high=v + 0.01)
        for row, v in zip(rows, (0.5, 0.509, 0.52), strict=True)
    ]
    rows = [row._replace(auc=area) for row, area in zip(rows, areas, strict=True)]
    leak = leak_of("client", [0.7] * 8, None)._replace(rows=rows)
    assert count(leak) == Null({"auc": 2, "tpr_1pct": 3}, 3)


def test_the_null_is_told_for_each_attacker():
    text = sentences.nothing_to_find({"client": Null({"auc": 8, "tpr_1pct": 9}, 9)})
    assert text == (
        "- A client, or a server under secure aggregation, 9 attacks: AUC of 8 hold 0.5 and TPR at "
        "1% FPR of 9 hold 0.01."
    )


def test_a_damaged_null_is_refused_and_a_missing_one_is_empty(tmp_path):
    assert read_null(tmp_path) == {}
    (tmp_path / FILE).write_text(json.dumps({"server": {}}))
    with pytest.raises(ValueError, match=r"null.json is damaged"):
        read_null(tmp_path)
