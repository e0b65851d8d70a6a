"""The page of the second edition, on made-up fleets: which sections it has, and its family."""

import re

import pytest

from docs.study import second_figure
from docs.study.comparisons import all_tests
from docs.study.edition import Edition
from docs.study.fleets import FLEETS
from docs.study.page import Page, render
from reporting.matplotlib_charts import draw


@pytest.fixture(scope="module")
def text(comparisons, edition):
    return render(Page(comparisons, edition))


def flat(text):
    return " ".join(text.split())


def test_the_second_edition_leads_and_the_first_stays(text, comparisons):
    (finding,) = re.findall(r"^\*\*(.+?)\*\*$", text, re.M | re.S)
    assert finding.startswith("How much of the privacy of ternary weights is real")
    first = render(Page(comparisons, None))
    (older,) = re.findall(r"^\*\*(.+?)\*\*$", first, re.M | re.S)
    before, _, after = text.partition("\n## First edition\n")
    assert flat(older) in flat(after)
    assert "## Is it quantization?" in before
    sections = re.findall(r"^## (.+)$", first, re.M)
    ends = "Rules of the words", "Data and commands", "What this does not show"
    for section in sections:
        assert f"\n{'##' if section in ends else '###'} {section}\n" in after
    tables = re.findall(r"^\|.*\|$", first, re.M)
    assert [line for line in re.findall(r"^\|.*\|$", after, re.M) if line in tables] == tables


def test_headings_and_links_are_unique_and_lead_somewhere(text):
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    assert len(headings) == len(set(headings))
    slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for link in re.findall(r"\]\(#([^)]+)\)", flat(text)):
        assert link in slugs


def test_a_section_appears_with_its_fleet(text, comparisons, fleets):
    small = Edition({"frontier": fleets["large"]})  # without controls or the paper's grid
    alone = render(Page(comparisons, small))
    for heading in ("Is it quantization?", "What else buys privacy", "At the paper's pool size"):
        assert f"\n## {heading}\n" in text
        assert f"\n## {heading}\n" not in alone
    assert "## The paper's own quantizers" not in alone
    limits = flat(alone.split("## What this does not show")[1])
    for name in ("decay", "private", "published", "large"):
        assert f"- **Not run yet:** {FLEETS[name].purpose} ([recipe]" in limits
    assert "No control with noise or zeros was audited." in limits
    assert "Not run yet" not in text
    assert f"corrected by Holm over all {len(small)} comparisons of the second" in flat(alone)
    with_decay = Edition({"frontier": fleets["frontier"], "decay": fleets["decay"]})
    some = render(Page(comparisons, with_decay))
    assert "Weight decay of 0.0005" in flat(some)
    assert "DP-SGD with noise" not in some


def test_every_comparison_of_the_page_is_corrected_and_no_other(comparisons, fleets, monkeypatch):
    edition, used = Edition(fleets), set()
    look_up = Edition.__getitem__
    monkeypatch.setattr(Edition, "__getitem__", lambda e, k: used.add(k) or look_up(e, k))
    render(Page(comparisons, edition))
    assert used == set(edition._compared)
    assert len(edition) == len(used) > 300
    assert all(p.p_holm >= p.p for p in edition._compared.values())
    assert {key for key, _ in all_tests(fleets)} >= used


def test_commands_give_the_options_of_every_fleet(text):
    commands = text[text.index("## Data and commands") : text.index("### Those of the first")]
    for name, fleet in FLEETS.items():
        assert f"python train.py --config recipes/{fleet.recipe} \\" in commands
        assert f"python -m docs.study --{name} runs/study/" in commands
    assert "--model.network resnet8 \\" in commands  # the made-up private fleet's
    assert "the same images by the same options" in flat(commands)


def test_figures_show_the_curve_and_every_variant(edition, base):
    charts = second_figure.all_of(edition)
    assert list(charts) == ["frontier", "large"]
    for panel, measure in zip(charts["frontier"].panels[0], ("auc", "tpr_1pct"), strict=False):
        line, _, full, *points = panel.series
        assert list(line.x) == [
            base.results.variants[v].accuracy.value for v in (*base.variants[6:9], "full")
        ]
        assert (
            line.y[-1]
            == full.y[0]
            == max(
                getattr(row.summary, measure).value
                for row in base.results.rows
                if row.variant == "full"
            )
        )
        names = [point.names[0] for point in points]
        assert names == [*base.variants[1:6], *base.variants[9:], "full"]  # weight decay's `full`
    for chart in charts.values():
        assert len(draw(chart).axes) == 3
