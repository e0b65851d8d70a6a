"""Every attack where nothing leaks and where something does, by both kinds of attackers."""

import pytest
import torch

from attacks.federated import ATTACKS, convolution, series_network
from attacks.federated.leaks import find_federated_leak
from attacks.federated.measures import measure_clients
from attacks.federated.view import make_view
from attacks.metrics.intervals import delong, tail_interval
from attacks.rounds import NOBODY

UPLOADS = [name for name, attack in ATTACKS.items() if attack.uses_peers]
MADE = [("server", name) for name in ATTACKS]
MADE += [("client", name) for name in ATTACKS if name not in UPLOADS]
MADE += [("subtracting", name) for name in ("mean_phi", "z_cosine", "lda", "gradient_series")]


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    """Networks are trained for less long, to save time."""
    monkeypatch.setattr(series_network, "EPOCHS", 8)
    monkeypatch.setattr(convolution, "EPOCHS", 8)


def cells(scores, holder):
    """Scores of members by their holders, and of each non-member by one client: independent."""
    inside, outside = [], []
    for own, held in zip(scores, holder, strict=True):
        asked = (held != NOBODY) & (held < len(own))  # an attacker's own examples are neither
        members, others = asked.nonzero()[:, 0], (held == NOBODY).nonzero()[:, 0]
        inside.append(own[held[members], members])
        outside.append(own[torch.arange(len(others)) % len(own), others])
    return torch.cat(inside), torch.cat(outside)


@pytest.fixture(scope="module", params=["random signals", "random membership"])
def null(request, draw_rounds):
    """Federations that leak nothing: made up without a leak, or with one about other examples."""
    if request.param == "random signals":
        return draw_rounds(federations=9, clients=6, examples=1200, persistent=1.0)
    options = {"federations": 9, "clients": 6, "examples": 1200}
    # the holders are those of other federations: they agree with the leak by chance alone
    return draw_rounds(**options, leak=3)._replace(holder=draw_rounds(**options, seed=7).holder)


@pytest.mark.parametrize(("threat", "name"), MADE)
def test_nothing_is_found_where_nothing_leaks(null, game_of, threat, name):
    """AUC is 0.5 and TPR is FPR within limits that chance exceeds once in a thousand.

    Targets: one federation that no shadow has seen. Independent cells make the limits exact.
    """
    assert_nothing_is_found(null, game_of, threat, name)


def assert_nothing_is_found(null, game_of, threat, name):
    view, game = make_view(null, threat), game_of(null, targets=1)
    scores = ATTACKS[name].run(view, view, game.cases)
    inside, outside = cells(scores, view.holder[8:])
    members = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).bool()
    area = delong(torch.cat([inside, outside]), members, confidence=0.999)
    assert area.low <= 0.5 <= area.high
    for fpr in (0.01, 0.1):
        low, high = tail_interval(inside, outside, fpr, 0.999)
        assert low <= fpr <= high


@pytest.mark.parametrize("name", ["mean_phi", "z_phi", "lda"])
@pytest.mark.parametrize(
    ("adversary", "threat"),
    [("isolate", "server"), ("ascent", "client"), ("ascent", "subtracting")],
)
def test_malicious_attackers_find_nothing_where_nothing_leaks(
    null, game_of, adversary, threat, name
):
    assert_nothing_is_found(null._replace(adversary=adversary), game_of, threat, name)


@pytest.fixture(scope="module")
def leaking(draw_rounds):
    return draw_rounds(federations=12, clients=6, examples=240, rounds=3, leak=2.0)


@pytest.mark.parametrize("threat", ["server", "client"])
def test_every_attack_finds_a_leak_that_was_planted(leaking, game_of, threat):
    leak = find_federated_leak(game_of(leaking, targets=4), threat)
    expected = [n for n in ATTACKS if threat == "server" or n not in UPLOADS]
    assert [row.attack for row in leak.rows] == expected
    found = {row.attack: row for row in leak.rows}
    for row in leak.rows:
        assert row.auc.value > 0.55
        assert len(row.by_federation["auc"]) == 4
    # difficulty has a spread of 2, which peers and shadows remove
    assert found["z_phi"].auc.value > found["mean_phi"].auc.value + 0.1
    assert found["lda"].auc.value >= found["z_phi"].auc.value
    if threat == "server":
        # what all members of a federation share is no evidence of a client
        assert found["contrast_phi"].auc.value > found["mean_phi"].auc.value + 0.1
        assert found["lda"].peers.value < found["lda"].auc.value
        assert leak.source["phi"].low > 1 / 6
    else:
        assert leak.source == {}
        assert found["lda"].peers is None


def test_shadows_are_compared_and_rounds_converge(leaking, draw_rounds, game_of):
    """Another experiment's cosines are five times as large, which misleads an attacker.

    One who standardises cosines on the peers of the target is not misled.
    """
    other = draw_rounds(federations=12, clients=6, examples=240, rounds=3, leak=2.0)
    uploads = dict(other.uploads, cosine=5 * other.uploads["cosine"])
    game = game_of(leaking, targets=4, other=other._replace(uploads=uploads))
    leak = find_federated_leak(game, "server")
    rows = {(row.attack, row.knowledge): row.auc.value for row in leak.rows}
    assert rows["lda", "other"] < rows["lda", "matched"] - 0.02
    standardised = rows["lda_standardised", "other"], rows["lda_standardised", "matched"]
    assert standardised[0] == pytest.approx(standardised[1], abs=0.01)
    gain = leak.gains["lda"]
    assert gain.estimate.value == pytest.approx(rows["lda", "matched"] - rows["lda", "other"])
    assert gain.estimate.low > 0
    best = leak.strongest("matched").auc.value - leak.strongest("other").auc.value
    assert leak.gains["strongest"].estimate.value == pytest.approx(best)
    assert list(leak.convergence) == [5, 10, 15]
    assert leak.convergence[15] == leak.strongest().auc
    assert leak.convergence[5].value < leak.convergence[15].value
    curves = leak.curves["phi"]
    assert all(m.low > n.high for m, n in zip(curves.members, curves.non_members, strict=True))
    assert all(abs(estimate.value) < 0.2 for estimate in curves.non_members)
    assert all(m.value > p.value for m, p in zip(curves.members, curves.peers, strict=True))


def test_a_malicious_attacker_has_findings_of_its_own_and_nobody_else(leaking, game_of):
    ascent = game_of(leaking._replace(adversary="ascent"), targets=2)
    assert find_federated_leak(ascent, "server") is None
    leak = find_federated_leak(ascent, "subtracting")
    assert (leak.adversary, leak.threat) == ("ascent", "subtracting")
    assert leak.strongest().auc.low > 0.5
    honest = find_federated_leak(game_of(leaking, targets=2), "client")
    assert honest.adversary is None
    # the malicious client does not ask for what it holds itself, which the honest view does
    rows = {row.attack: row.auc.value for row in honest.rows}
    other = find_federated_leak(ascent, "client")
    assert {row.attack: row.auc.value for row in other.rows} != rows


def test_every_federation_is_attacked_by_the_others_but_its_partner(leaking, game_of):
    game = game_of(leaking)
    leak = find_federated_leak(game, "server")
    assert (leak.federations, leak.shadows, leak.clients) == (12, 10, 6)
    view = make_view(leaking, "server")
    scores = ATTACKS["z_cosine"].run(view, view, game.cases)
    alone = measure_clients(scores, leaking.holder)["auc"].values
    row = next(row for row in leak.rows if row.attack == "z_cosine")
    assert row.by_federation["auc"] == alone.tolist()


def test_few_clients_and_few_shadows_leave_attacks_out_and_say_why(draw_rounds, game_of):
    rounds = draw_rounds(federations=5, clients=4, examples=120)
    leak = find_federated_leak(game_of(rounds, targets=1), "server")
    peers, shadows = leak.left_out
    assert "need 5 clients in every recorded round, and 4 took part in one" in peers
    assert "need 3 federations in which nobody holds a given example, and have 2" in shadows
    kinds = {row.knowledge for row in leak.rows}
    assert kinds == {"none"}
    assert leak.curves == {}
    client = find_federated_leak(game_of(rounds, targets=1), "client")
    assert client.left_out == [shadows]  # uploads are not left out, but never seen


def test_another_experiments_few_clients_are_not_compared_with_one_another(draw_rounds, game_of):
    options = {"federations": 8, "examples": 120, "rounds": 2}
    other = draw_rounds(**options, clients=4)
    game = game_of(draw_rounds(**options), targets=1, other=other)
    leak = find_federated_leak(game, "server")
    matched, others = (
        {row.attack for row in leak.rows if row.knowledge == kind} for kind in ("matched", "other")
    )
    assert matched - others == {"lda_standardised", "lda_contrast"}
    assert leak.gains.keys() == others | {"strongest"}


def test_a_single_client_is_ordinary_training(draw_rounds, game_of):
    rounds = draw_rounds(federations=8, clients=1, examples=120, leak=2)
    leak = find_federated_leak(game_of(rounds), "server")
    assert {row.peers for row in leak.rows} == {None}
    assert leak.source["phi"].value == 1


def test_models_without_clients_have_no_such_leak(game_of, leaking):
    assert find_federated_leak(game_of(leaking)._replace(rounds=None), "server") is None
