"""Charts as data."""

from reporting.charts import Choice, Panel, Series, chosen


def test_the_first_of_the_highest_rank_is_chosen_from_each_group():
    series = [
        Series("always"),
        *(Series(f"a{i}", choice=Choice(group="a", rank=r)) for i, r in enumerate((1, 3, 3, 2))),
        Series("always, too", choice=Choice("w2", rank=-5)),
        Series("b", choice=Choice(group="b", rank=-1)),
    ]
    labels = [s.label for s in chosen(Panel(series))]
    assert labels == ["always", "a1", "always, too", "b"]


def test_an_empty_panel_draws_nothing():
    assert chosen(Panel([])) == []
