"""The page on federated learning: what it compares, and what it says of that."""

import json
import re

import pytest

from docs.federated import charts, sentences, tables
from docs.federated.claims import Comparisons, between_threats, claims_of
from docs.federated.fleets import read
from docs.federated.null import read_null
from docs.federated.numbers import MATCHED, OTHER, PEERS, STRONGEST, Asked, Side
from docs.federated.page import DOCUMENTS, commands, main, render
from docs.study.document import Document
from reporting.results_json import as_json

LESS = -0.05
FOUR, TERNARY = "qsgd-w4", "qsgd-w1.58"
DIGITS = DOCUMENTS["digits"]


@pytest.fixture(scope="module")
def comparisons(fleets):
    return Comparisons(fleets)


def between(comparisons, first, second, measure="auc"):
    return comparisons[Asked(Side(*first), Side(*second), measure)]


@pytest.mark.parametrize("attacker", [STRONGEST, MATCHED, PEERS])
def test_differences_of_updates_are_those_worked_out_by_hand(comparisons, attacker):
    """By hand: ternary updates leak 0.05 less in AUC, and a half of that in TPR at 1% FPR."""
    sides = (TERNARY, "server", attacker), ("full", "server", attacker)
    area, rate = (between(comparisons, *sides, measure) for measure in ("auc", "tpr_1pct"))
    assert area.estimate.value == pytest.approx(LESS)
    assert rate.estimate.value == pytest.approx(LESS / 2)
    assert (area.shown, area.small) == ("less", False)


def test_a_difference_below_a_twentieth_of_the_leak_is_small(comparisons):
    """By hand: 0.002 less of 0.2 beyond guessing, of which a twentieth is 0.01."""
    found = between(comparisons, (FOUR, "server", STRONGEST), ("full", "server", STRONGEST))
    assert found.margin == pytest.approx(0.01)
    assert found.small


def test_full_precision_shadows_mislead_the_attack_of_the_toy_most(comparisons, fleets):
    """By hand: `lda` loses 0.1; standardised, 0.01, and it is 0.01 below `lda` to begin with."""
    found = between(comparisons, (FOUR, "server", OTHER), (FOUR, "server", MATCHED))
    assert found.estimate.value == pytest.approx(-0.02)
    row = tables.shadows(comparisons, fleets, "server").splitlines()[2]
    assert [float(cell) for cell in re.findall(r"↓ (-0\.\d{3})", row)] == [-0.02, -0.1, -0.01]
    assert "lda_standardised" not in tables.shadows(comparisons, fleets, "client")


def test_a_server_is_set_beside_a_client_in_no_table(comparisons, fleets):
    """By hand: a client finds 0.1 less."""
    for pair in between_threats(fleets).pairs:
        assert comparisons[Asked(*pair, "auc")].estimate.value == pytest.approx(0.1)
    assert sentences.between(comparisons, fleets).startswith("- `full`: AUC ↑ +0.100 (")
    for threat, other in (("server", "client"), ("client", "server")):
        for claim in claims_of(fleets, threat):
            assert not any(side.threat == other for pair in claim.pairs for side in pair)


def test_peers_are_set_beside_matched_shadows(comparisons, fleets):
    """By hand: 0.03 less for every update."""
    rows = tables.peers(comparisons, fleets).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| full", f"| {FOUR}", f"| {TERNARY}"]
    assert all("↓ -0.030 (" in row for row in rows)


def test_the_answer_says_what_is_shown_of_each_attacker(comparisons, fleets):
    text = sentences.answer(comparisons, fleets)
    assert text.startswith(
        "Against a server that sees each upload, quantized updates protect in part (by its "
        "strongest attack, AUC 0.700 (0.690-0.710) at full precision; 2 updates beside that: AUC "
        "less in 1 (by 0.050) and no difference shown in 1 (small); TPR at 1% FPR less in 1"
    )
    assert "Against a client, or a server under secure aggregation, quantized" in text
    assert "matched shadows (3 updates): AUC less (by 0.030, 0.030 and 0.030)" in text
    assert "What a server finds beside what a client finds (3 updates): AUC more" in text


@pytest.mark.parametrize(
    ("leaks", "word"),
    [
        ((-0.05, -0.06), "quantized updates protect (by"),
        ((0.05, 0.06), "quantized updates do not protect, and are shown to leak more (by"),
        ((0.05, -0.06), "quantized updates leak less by some comparisons and more by others (by"),
        ((0.0, 0.0), "quantized updates are not shown to protect (by"),
    ],
)
def test_whether_updates_protect_follows_from_all_comparisons(several, leaks, word):
    fleets = several(*((leak, None) for leak in leaks))
    assert word in sentences.protection(Comparisons(fleets), fleets, "server")


@pytest.mark.parametrize(
    ("leak", "gap", "first", "second"),
    [
        (
            -0.002,
            0.1,
            "confirmed (2 updates)",
            "confirmed by an attack of its kind (`lda`) and confirmed",
        ),
        (
            -0.05,
            -0.05,
            "refuted (2 updates)",
            "refuted by an attack of its kind (`lda`) and refuted by",
        ),
        (-0.009, 0.0, "not shown (2 updates)", "not shown by an attack of its kind (`lda`)"),
    ],
)
def test_the_toy_is_judged_by_both_of_its_findings(several, leak, gap, first, second):
    """By hand: 0.009 is small, and its interval is not: t(7) = 2.36 times 0.0005 ends above 0.01.

    In the second case `lda` finds 0.05 more with full-precision shadows.
    """
    fleets = several((leak, gap), (leak, gap))
    text = sentences.toy(Comparisons(fleets), fleets)
    assert f"by AUC of a server's strongest attack this is {first}" in text
    assert f"that full-precision shadows would hide this is {second}" in text


def test_without_full_precision_shadows_nothing_is_said_of_them(several):
    fleets = several((-0.002, None), (-0.05, None))
    page = " ".join(render(DIGITS, fleets, {}).split())
    assert "That full-precision shadows hide this has not been asked." in page
    assert "## What the attacker must know" not in page
    assert f"**Not run yet:** full-precision shadows against `{FOUR}` and `{TERNARY}`." in page


def test_federations_that_attack_one_another_count_half(several):
    """By hand: twice the variance makes the interval wider by the root of 2."""
    widths = []
    for targets in (8, 0):
        options = {"fleet": {"targets": targets}}
        fleets = several((-0.002, None), (-0.05, None), **options)
        sides = (TERNARY, "server", MATCHED), ("full", "server", MATCHED)
        found = between(Comparisons(fleets), *sides).estimate
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(2**0.5 * widths[0])


def test_tables_name_bytes_levels_and_sources(comparisons, fleets):
    """By hand: 500 of 4000 bytes are an eighth."""
    row = tables.updates(comparisons, fleets).splitlines()[3]
    assert row.startswith(f"| {FOUR} | 500 | 12.5% | 90.0% (")
    levels = tables.levels(fleets, "server").splitlines()[2:]
    assert [row.split(" | ")[1] for row in levels] == [
        *("none", "peers", "matched"),
        *("none", "peers", "matched", "other") * 2,
    ]
    assert "| other | 0.678 (0.668-0.688) | `lda_standardised` | 9.9% (" in levels[6]
    assert "peers" not in tables.levels(fleets, "client")
    assert tables.source(fleets).splitlines()[2].endswith("| 40.0% (39.0-41.0) | 10.0% |")
    assert "after 5 | after 10 |" in tables.convergence(fleets, "client")


def test_figures_have_a_point_per_update_and_a_column_each(fleets):
    (panels,) = charts.leaks(fleets).panels
    assert [len(panel.series) for panel in panels] == [4, 3]
    assert [len(series.x) for series in panels[0].series] == [3, 3, 3, 2]
    rows = charts.rounds(fleets).panels
    assert [panel.title for panel in rows[0]] == ["full", FOUR, TERNARY]
    assert [row[0].name for row in rows] == [*charts.ROWS]


def test_the_commands_make_every_fleet(fleets):
    text = commands(DIGITS, fleets, null=False)
    assert text.startswith(
        "python train.py --config recipes/federated/study.yaml \\\n"
        "      --run_dir runs/federated/full\n"
    )
    assert "      --federated.update qsgd-w4 \\\n" in text
    assert "audit.py --run_dir runs/federated/qsgd-w4 --shadows runs/federated/full\n" in text
    assert "python audit.py --run_dir runs/federated/full\n" in text
    assert text.endswith(f"runs/federated/{FOUR} \\\n      runs/federated/{TERNARY}")
    assert commands(DIGITS, fleets, null=True) == f"{text} \\\n      --null runs/federated/full"


def test_the_command_keeps_results_and_writes_the_page(make, tmp_path, monkeypatch, capsys):
    document = Document(tmp_path / "federated.md", tmp_path / "kept", DIGITS.recipe)
    monkeypatch.setitem(DOCUMENTS, "digits", document)
    for audit in (make(), make(FOUR, -0.002, 0.1)):
        folder = tmp_path / "runs" / audit.name
        (folder / "audit").mkdir(parents=True)
        (folder / "audit" / "results.json").write_text(as_json(audit))
        for name in audit.audited:
            (folder / "models" / name).mkdir(parents=True)
            (folder / "models" / name / "full.json").write_text(json.dumps({"bytes": [400]}))
    full, four = (str(tmp_path / "runs" / name) for name in ("full", FOUR))
    for given, said in (([full, full], "Two of the folders have updates `full`"), ([full], "The")):
        with pytest.raises(SystemExit) as stopped:
            main(given)
        assert stopped.value.code == 1
        assert capsys.readouterr().err.startswith(f"docs.federated: {said}")
    main([four])
    made = {path.name for path in document.folder.iterdir()}
    assert made == {"full.json", f"{FOUR}.json", "leaks.png", "rounds.png"}
    text = document.page.read_text()
    assert text == render(document, read(document.folder), {})
    assert "(kept/leaks.png)" in text
    main([])
    assert document.page.read_text() == text


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_the_page_is_that_of_the_kept_results(document):
    kept = read(document.folder), read_null(document.folder)
    assert document.page.read_text() == render(document, *kept)
