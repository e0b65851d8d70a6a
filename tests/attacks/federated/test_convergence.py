"""How attacks grow with rounds and shadows: the same attack on less, and what cannot be made."""

import pytest

from attacks.cases import Case, make_cases
from attacks.federated import ATTACKS, series_network
from attacks.federated.convergence import over_rounds, over_shadows
from attacks.federated.leaks import find_federated_leak
from attacks.federated.measures import measure_auc
from attacks.federated.view import make_view
from attacks.metrics.intervals import two_way


@pytest.fixture(scope="module")
def leaking(draw_rounds):
    return draw_rounds(federations=20, clients=5, examples=60, rounds=2, leak=2.0)


def test_fewer_shadows_are_the_first_of_them(leaking):
    """Six of which nobody holds an example in three; with four, two are too few for a spread."""
    view, cases = make_view(leaking, "server"), make_cases(18, 2)
    found = over_shadows(ATTACKS["z_phi"], view, view, cases)
    assert list(found) == [8, 16, 18]
    for count, auc in found.items():
        alone = [Case(target, list(range(count))) for target in (18, 19)]
        scores = ATTACKS["z_phi"].run(view, view, alone)
        assert auc == two_way(measure_auc(scores, leaking.holder[[18, 19]]))
    assert found[18].value > 0.6


def test_a_network_learns_from_a_single_pair(leaking, monkeypatch):
    monkeypatch.setattr(series_network, "EPOCHS", 3)
    view, cases = make_view(leaking, "client"), make_cases(4, 0)
    found = over_shadows(ATTACKS["gradient_series"], view, view, cases)
    assert list(found) == [2]


def test_rounds_are_the_first_of_them(leaking):
    view, cases = make_view(leaking, "server"), make_cases(20, 0)
    found = over_rounds(ATTACKS["mean_phi"], view, view, cases, leaking.done)
    assert list(found) == [5, 10]
    first = ATTACKS["last_phi"].run(view.first(1), view, cases)
    assert found[5] == two_way(measure_auc(first, leaking.holder))


def test_the_finding_has_both(leaking, game_of, monkeypatch):
    monkeypatch.setattr(series_network, "EPOCHS", 3)
    leak = find_federated_leak(game_of(leaking, targets=2), "client")
    matched = leak.strongest("matched")
    assert leak.by_shadows[18] == matched.auc
    assert leak.convergence[10] == leak.strongest().auc
