"""What each attacker sees, last rounds and means of clients that miss rounds, and sources."""

import pytest
import torch

from attacks.federated.source import infer_source, measure_source
from attacks.federated.view import last_round, make_view, mean_over_rounds, threats_to
from attacks.rounds import NOBODY

NAN = torch.nan


def test_a_client_sees_the_global_model_and_asks_if_an_example_is_anybodys(draw_rounds):
    rounds = draw_rounds(federations=4, clients=3, examples=20)
    view = make_view(rounds, "client")
    assert torch.equal(view.signals["phi"][2, 1, 0], rounds.aggregates["phi"][2, 1])
    assert torch.equal(view.signals["gradient"][:, :, 0], -rounds.aggregates["gradient"])
    assert torch.equal(view.holder == 0, rounds.holder >= 0)
    server = make_view(rounds, "server")
    assert torch.equal(server.signals["gradient"], -rounds.uploads["gradient"])
    assert torch.equal(server.holder, rounds.holder)
    assert torch.equal(server.first(2).signals["phi"], rounds.uploads["phi"][:, :2])


def test_a_client_that_subtracts_asks_for_the_examples_of_others(draw_rounds):
    """Neither member nor non-member is what it holds itself."""
    rounds = draw_rounds(federations=4, clients=3, examples=20)
    view = make_view(rounds, "subtracting")
    assert torch.equal(view.signals["phi"][:, :, 0], rounds.others["phi"])
    assert torch.equal(view.holder == NOBODY, rounds.holder == NOBODY)
    assert torch.equal(view.holder == 0, rounds.holder > 0)
    assert threats_to(rounds) == ["server", "client", "subtracting"]
    assert threats_to(rounds._replace(others=None)) == ["server", "client"]


def test_a_malicious_attacker_is_the_only_one(draw_rounds):
    """Who raises losses knows its own examples; who isolates leaves clients no global model."""
    rounds = draw_rounds(federations=4, clients=3, examples=20)
    ascent = rounds._replace(adversary="ascent")
    assert threats_to(ascent) == ["client", "subtracting"]
    assert torch.equal(make_view(ascent, "client").holder == 0, rounds.holder > 0)
    assert torch.equal(make_view(rounds, "client").holder == 0, rounds.holder >= 0)
    isolate = rounds._replace(adversary="isolate")
    assert threats_to(isolate) == ["server"]
    with pytest.raises(ValueError, match=r"must be server for these federations, got client\."):
        make_view(isolate, "client")


def test_rounds_that_a_client_missed_are_skipped():
    signal = torch.tensor([[1.0, 2.0, NAN], [3.0, NAN, NAN]])[..., None]
    assert last_round(signal)[:2].flatten().tolist() == [3.0, 2.0]
    assert mean_over_rounds(signal)[:2].flatten().tolist() == [2.0, 2.0]
    assert last_round(signal)[2].isnan().all()
    assert mean_over_rounds(signal)[2].isnan().all()


def test_the_source_is_the_client_that_stands_out():
    """Client 1 took part late, when all signals had grown; client 2 never did."""
    signal = torch.tensor(
        [
            [[2.0, 0.0], [NAN, NAN], [NAN, NAN], [0.0, 0.0]],
            [[9.0, 9.0], [9.0, 9.5], [NAN, NAN], [9.0, 9.0]],
        ]
    )
    assert infer_source(signal).tolist() == [0, 1]


def test_the_share_of_named_sources_worked_by_hand():
    """Example 4 belongs to a client that never took part, example 3 to nobody."""
    holder = torch.tensor([[0, 1, 1, NOBODY, 2]])
    sources = torch.tensor([[0, 1, 0, 1, 0]])
    known = torch.tensor([[True, True, True, False, False]])
    measured = measure_source(sources, holder, known)
    assert measured.values.item() == pytest.approx(2 / 3)
    assert abs(measured.influence.sum()) < 1e-12
    # the variance of a mean of three of which one is 0: 2/9 / 2
    assert abs(measured.influence.square().sum() - 1 / 9) < 1e-12
