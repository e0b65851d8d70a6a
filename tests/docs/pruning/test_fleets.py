"""Which fleets the page takes, and what it keeps of them."""

import pytest

from docs.pruning import sentences
from docs.pruning.claims import compare_all
from docs.pruning.fleets import Fleets, keep, keep_borrowed, read
from docs.pruning.page import render


@pytest.fixture
def write(make, tmp_path):
    """Writes the kept results of some fleets; returns the folder."""

    def keep_all(**results):
        for name, audit in results.items():
            (tmp_path / f"{name}.json").write_text(keep(name, audit))
        return tmp_path

    return keep_all


def test_fleets_are_kept_by_what_they_are(make):
    with pytest.raises(ValueError, match=r"`--dense` needs .* `--prune null`, those of ocs were"):
        keep("dense", make("ocs"))
    with pytest.raises(ValueError, match=r"with `--prune null`\. Name it by `--dense`"):
        keep("ocs", make())
    with pytest.raises(ValueError, match=r"another experiment, ocs has none\. Run `audit\.py`"):
        keep_borrowed(make("ocs"))
    with pytest.raises(ValueError, match="another experiment, dense was not pruned"):
        keep_borrowed(make(other=-0.1))


def test_what_is_kept_is_read_back(fleets, make, write):
    folder = write(dense=make(), ocs=make("ocs", leak=0.05, accuracy=-0.02))
    method, text = keep_borrowed(make("ocs", leak=0.05, accuracy=-0.02, other=-0.03))
    (folder / f"borrowed-{method}.json").write_text(text)
    found = read(folder)
    assert (list(found.pruned), list(found.borrowed)) == (["ocs"], ["ocs"])
    assert {row.knowledge for row in found.borrowed["ocs"].results.rows} == {
        "matched", "other", "none",
    }  # fmt: skip
    expected = Fleets(fleets.dense, {"ocs": fleets.pruned["ocs"]}, fleets.borrowed)
    answers = [sentences.answer(compare_all(own), own) for own in (found, expected)]
    assert answers[0] == answers[1]
    assert render(found).count("\n## ") == render(expected).count("\n## ")


def test_a_page_needs_a_dense_and_a_pruned_fleet(make, write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Name its run folder, as in `--dense RUN_DIR`"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Name its run folder, as in `--ocs RUN_DIR`"):
        read(write(dense=make()))


def changed(results, **options):
    config = results.experiment.config | options
    return results._replace(experiment=results.experiment._replace(config=config))


def test_fleets_that_cannot_be_compared_are_refused(make, write):
    folder = write(dense=make(), ocs=changed(make("ocs"), seed=7))
    with pytest.raises(ValueError, match=r"ocs\.json cannot be used: .* its seed is 7"):
        read(folder)
    write(ocs=changed(make("ocs"), model={"network": "resnet8", "lr": 0.2}))
    with pytest.raises(ValueError, match=r"differs from dense in model\.lr 0\.2, and 0\.1 there"):
        read(folder)
    more = {"method": "init", "remove": 0.75}
    write(ocs=make("ocs"), init=changed(make("init"), prune=more))
    with pytest.raises(ValueError, match=r"`--prune\.remove`, got ocs 0\.5, init 0\.75\. Train"):
        read(folder)


def test_dense_shadows_attack_the_fleet_that_is_kept(make, write):
    folder = write(dense=make(), init=make("init"))
    lent = make("ocs", other=-0.03)
    (folder / "borrowed-ocs.json").write_text(keep_borrowed(lent)[1])
    with pytest.raises(ValueError, match=r"targets of ocs, which is not the fleet .* `--ocs`, too"):
        read(folder)
    write(ocs=lent._replace(experiment=lent.experiment._replace(id="1")))
    with pytest.raises(ValueError, match="which is not the fleet that is kept of ocs"):
        read(folder)


def test_dense_shadows_are_those_of_the_dense_fleet(make, write):
    folder = write(dense=make()._replace(name="other"), ocs=make("ocs"))
    (folder / "borrowed-ocs.json").write_text(keep_borrowed(make("ocs", other=-0.03))[1])
    with pytest.raises(ValueError, match="has the shadows of dense, and the dense fleet is other"):
        read(folder)
