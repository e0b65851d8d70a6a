"""What is said of federations: every rule, tables by hand, and an audit through its files."""

import pytest

from attacks.federated.curves import Curves
from attacks.federated.leaks import FederatedLeak, FederatedRow
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from reporting.federated import federated_heading, federated_table, sentences
from reporting.federated_chart import rounds_chart

RATE = Estimate(0.05, 0.04, 0.06)


def row(attack, knowledge, auc, peers=None, by_class=None):
    rates = RATE, Estimate(0.01, 0, 0.1)
    return FederatedRow(attack, knowledge, Estimate(*auc), *rates, peers, by_class, {})


@pytest.fixture
def leak():
    """A server, which finds most by its peers and shadows together."""
    flat = [Estimate(0.1, 0.0, 0.2), Estimate(0.3, 0.2, 0.4)]
    return FederatedLeak(
        threat="server",
        rows=[
            row("mean_phi", "none", (0.55, 0.52, 0.58), Estimate(0.54, 0.5, 0.58)),
            row("fedmia_loss", "peers", (0.66, 0.62, 0.7), Estimate(0.67, 0.6, 0.7)),
            row("lda", "matched", (0.7, 0.65, 0.75), Estimate(0.68, 0.6, 0.7)),
        ],
        rounds=[5, 10],
        federations=8,
        clients=10,
        shadows=6,
        non_members=750,
        false_positives={"tpr_1pct": 60, "tpr_01pct": 6},
        convergence={5: Estimate(0.6, 0.5, 0.7), 10: Estimate(0.7, 0.65, 0.75)},
        curves={name: Curves(flat, flat, flat) for name in ("phi", "gradient", "cosine")},
        source={"phi": Estimate(0.22, 0.2, 0.24), "cosine": Estimate(0.11, 0.09, 0.13)},
        gains={},
        left_out=[],
    )


def with_others(leak, p):
    """The same, attacked by another experiment's shadows too."""
    gain = Difference("", "", Estimate(0.05, 0.02, 0.08), p, p)
    rows = [*leak.rows, row("lda", "other", (0.65, 0.6, 0.7), Estimate(0.6, 0.5, 0.7))]
    return leak._replace(rows=rows, gains={"lda": gain, "strongest": gain})


def test_the_table_worked_by_hand(leak):
    body = federated_table(leak)
    assert body.columns == (
        *("attack", "knowledge", "AUC", "TPR at 1% FPR", "TPR at 0.1% FPR"),
        "AUC against peers' members",
    )
    assert [cell.text for cell in body.rows[2]] == [
        *("lda", "matched", "0.700 (0.650-0.750)", "5.0% (4.0-6.0)", "1.0% (0.0-10.0)†"),
        "0.680 (0.600-0.700)",
    ]
    assert "over 8 federations of 10 clients; 6 shadow federations attack each" in body.note
    assert "Recorded rounds: 5, 10." in body.note


def test_what_matched_shadows_gain_stands_beside_the_others(leak):
    body = federated_table(with_others(leak, 0.01))
    assert body.columns[-2:] == ("matched AUC beyond it", "p")
    assert [[cell.text for cell in line[-2:]] for line in body.rows] == [
        *[["-", "-"]] * 3,
        ["+0.050 (+0.020 to +0.080)", "0.010"],
    ]


def test_classes_have_a_column_and_are_told_of_where_they_tell(leak):
    rows = [line._replace(by_class=Estimate(0.6, 0.55, 0.65)) for line in leak.rows]
    classes = leak._replace(rows=rows)
    assert federated_table(classes).columns[-1] == "AUC of classes alone"
    assert federated_table(classes).rows[0][-1].text == "0.600 (0.550-0.650)"
    assert sentences(classes)[1] == (
        "Part of it is the example's class, which clients hold unequally: by it alone, the same "
        "attack has AUC 0.600 (0.550-0.650)."
    )


def test_a_client_sees_no_peers(leak):
    rows = [line._replace(peers=None) for line in leak.rows if line.knowledge != "peers"]
    body = federated_table(leak._replace(threat="client", rows=rows, source={}))
    assert body.columns[-1] == "TPR at 0.1% FPR"
    assert "`peers`" not in body.note
    assert "sees the global model alone" in body.note


@pytest.mark.parametrize(
    ("adversary", "threat", "title", "told"),
    [
        ("isolate", "server", "What a malicious server finds that isolates clients", "isolates e"),
        ("ascent", "client", "What a malicious client finds by gradient ascent", "raises the loss"),
        (
            "ascent",
            "subtracting",
            "What a malicious client finds by gradient ascent, without its own upload",
            "takes its own upload out",
        ),
    ],
)
def test_malicious_attackers_are_named_as_such(leak, adversary, threat, title, told):
    malicious = leak._replace(adversary=adversary, threat=threat)
    body = federated_table(malicious)
    assert federated_heading(malicious) == title
    assert told in body.note
    assert "the difference from an experiment without it, by `audit.py --compare`" in body.note
    assert told in sentences(malicious)[0]
    assert sentences(malicious)[0].startswith("A malicious")
    assert federated_heading(leak) == "What a server finds in the rounds of federated training"


def test_shadows_are_told_of_and_drawn_where_they_are_known(leak):
    grown = {8: Estimate(0.6, 0.5, 0.7), 16: Estimate(0.7, 0.65, 0.75)}
    known = leak._replace(by_shadows=grown)
    assert (
        "AUC of lda by number of shadows: 8: 0.600 (0.500-0.700), 16: 0.700 (0.650-0.750)."
        in federated_table(known).note
    )
    panel = rounds_chart([known]).panels[0][-1]
    assert (panel.title, list(panel.series[0].x)) == ("AUC by number of shadows", [8, 16])


def test_models_without_clients_have_neither_table_nor_sentence_nor_figure():
    assert federated_table(None).rows == []
    assert sentences(None) == []
    assert rounds_chart([None, None]) is None


def test_what_is_shown_is_said(leak):
    assert sentences(leak) == [
        "A server that sees each upload tells a client's members from examples that nobody holds: "
        "AUC 0.700 (0.650-0.750), TPR at 1% FPR 5.0% (4.0-6.0), by lda with matched shadows.",
        "Without shadows, its strongest is fedmia_loss: AUC 0.660 (0.620-0.700), TPR at 1% FPR "
        "5.0% (4.0-6.0).",
        "The largest phi names the client that holds 22.0% (20.0-24.0) of members; guessing names "
        "10.0%.",
        "The largest cosine is not shown to name the client that holds a member: right for 11.0% "
        "(9.0-13.0) of members, and 10.0% by guessing.",
    ]


def test_what_is_not_shown_is_not_said(leak):
    rows = [row("mean_phi", "none", (0.51, 0.49, 0.53)), row("lda", "matched", (0.5, 0.48, 0.52))]
    told = sentences(leak._replace(threat="client", rows=rows, source={}))
    assert told == [
        "No attack is shown to find members. A client, or a server under secure aggregation, that "
        "sees the global model alone: the strongest, mean_phi, reaches AUC 0.510 (0.490-0.530), "
        "TPR at 1% FPR 5.0% (4.0-6.0)."
    ]


def test_a_gain_of_matched_shadows_is_said_where_it_is_shown(leak):
    assert "A server finds AUC 0.02 to 0.08 more with matched shadows, by lda." in sentences(
        with_others(leak, 0.01)
    )
    assert (
        "A server is not shown to lose by another experiment's shadows (by lda: AUC +0.050 "
        "(+0.020 to +0.080) with matched ones)." in sentences(with_others(leak, 0.2))
    )


def test_the_figure_has_a_row_for_each_attacker(leak):
    chart = rounds_chart([leak, leak._replace(threat="client")])
    assert [len(panels) for panels in chart.panels] == [4, 4]
    phi, *_, growth = chart.panels[0]
    assert [series.label for series in phi.series] == [
        *("nobody's examples", "its peers' members", "the client's members"),
    ]
    assert (list(growth.series[0].x), list(growth.series[0].y)) == ([5, 10], [0.6, 0.7])
    assert growth.series[0].y_interval == ([0.5, 0.65], [0.7, 0.75])
    (few,) = rounds_chart([leak._replace(curves={})]).panels
    assert [panel.title for panel in few] == ["AUC of the strongest attack"]


def test_an_audit_of_federations_shows_them_in_every_view(
    federated_run, federations, quick_audit, results_of, empty_figures
):
    """Its own shadows lend as another experiment's would, so that nothing is gained by matching."""
    printed = quick_audit(federated_run, "--shadows", str(federations.path))
    results = results_of(federated_run)
    keys = [table["key"] for table in results["tables"]]
    page = (federated_run.path / "audit" / "report.html").read_text()
    for threat in ("server", "client"):
        found = results["findings"][f"federated_{threat}"]
        assert f"federated_{threat}" in keys
        assert (found["rounds"], found["clients"], found["federations"]) == ([2, 4], 5, 8)
        by_kind = {kind: {r["attack"]: r["auc"]["value"] for r in found["rows"]
                          if r["knowledge"] == kind} for kind in ("matched", "other")}  # fmt: skip
        assert by_kind["matched"] == by_kind["other"]
        assert all(gain["estimate"]["value"] == 0 for gain in found["gains"].values())
    # 24 examples for each client are learned by heart
    server = {
        r["attack"]: r["auc"]["value"] for r in results["findings"]["federated_server"]["rows"]
    }
    assert server["lda"] > 0.55
    for sentence in results["sentences"][-6:]:
        assert sentence in printed
    assert any(s.startswith("A server that sees each upload tells") for s in results["sentences"])
    assert "rounds" in results["figures"]
    assert "What a server finds in the rounds of federated training" in page
    assert results["basis"]["clients"] == "5 of each model; recorded rounds: 2, 4"
    assert "Nothing has changed" in quick_audit(federated_run, "--shadows", str(federations.path))
    name = federated_run.read().names[0]
    path = federated_run.round(name, 4)
    path.unlink()
    with pytest.raises(SystemExit, match="unfinished: shadow-000"):
        quick_audit(federated_run, "--shadows", str(federations.path))
