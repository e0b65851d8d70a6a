import pytest

from reporting.illustrate import CAPTIONS
from reporting.pruning import pruning_chart, pruning_table
from storage.pruning import LayerWidth, PruningMeans


@pytest.fixture
def pruned():
    widths = [LayerWidth("conv", 16, 10, 11.5, 13), LayerWidth("fc", 10, 10, 10.0, 10)]
    return PruningMeans(
        *("ocs", 0.5, 2, 1, [4, 6], 1, [[0.5, 1.0, 1.0], [0.25] * 5]),
        *([1000.0, 480.0], [50.0, 20.0], [0.9, 0.6, 0.91], widths),
    )


def test_the_table_worked_by_hand(pruned):
    table = pruning_table(pruned)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["method", "ocs, 50% to remove"],
        ["multiply-accumulates", "480 of 1,000 (48.0%)"],
        ["parameters", "20 of 50 (40.0%)"],
        ["cut after epoch", "4 to 6"],
        ["stable at the cut", "1 of 2 models"],
        ["accuracy before the cut", "90.0%"],
        ["accuracy after the cut", "60.0%"],
        ["accuracy at the end", "91.0%"],
    ]
    assert "in 1 at the latest epoch" in table.note


def test_peers_are_cut_once_and_not_asked_for_stability(pruned):
    peer = pruned._replace(method="random", cut_after=[4, 4], stable=None, stability=[[], []])
    rows = {row[0].text: row[1].text for row in pruning_table(peer).rows}
    assert rows["cut after epoch"] == "4"
    assert "stable at the cut" not in rows
    ((widths,),) = pruning_chart(peer).panels
    assert widths.title == "Width"


def test_the_figure_shows_widths_and_stability_by_epoch(pruned):
    ((widths, stability),) = pruning_chart(pruned).panels
    dense, small = widths.series
    assert (list(dense.y), list(small.y)) == ([16, 10], [11.5, 10.0])
    assert small.y_interval == ([10, 10], [13, 10])
    assert [(list(s.x), list(s.y)) for s in stability.series] == [
        ([2, 3, 4], [0.5, 1.0, 1.0]),
        ([2, 3, 4, 5, 6], [0.25] * 5),
    ]
    assert "Jaccard" in CAPTIONS["pruning"]
