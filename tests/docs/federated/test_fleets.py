"""Which fleets the page takes, and what it keeps of them."""

import json

import pytest

from docs.federated.fleets import bits_of, keep, name_of, parse_leak, read
from reporting.results import plain
from reporting.results_json import as_json


@pytest.fixture
def write(make, tmp_path):
    """Writes the run folder of a fleet, as far as the page reads it."""

    def run(update="full", sizes=(400, 600), **known):
        audit = make(update, **known)
        folder = tmp_path / "runs" / update
        (folder / "audit").mkdir(parents=True)
        (folder / "audit" / "results.json").write_text(as_json(audit))
        for name in audit.audited:
            (folder / "models" / name).mkdir(parents=True)
            (folder / "models" / name / "full.json").write_text(json.dumps({"bytes": sizes}))
        return folder

    return run


@pytest.fixture
def store(write, tmp_path):
    """Keeps the results of a fleet."""

    def run(update="full", **known):
        name, text = keep(write(update, **known))
        (tmp_path / f"{name}.json").write_text(text)
        return name

    return run


@pytest.mark.parametrize("threat", ["server", "client"])
def test_what_an_attacker_finds_is_read_back(leak_of, threat):
    leak = leak_of(threat, [0.7] * 8, 0.1)
    assert parse_leak(json.loads(json.dumps(plain(leak)))) == leak


@pytest.mark.parametrize(
    ("update", "feedback", "name", "bits"),
    [
        ("full", False, "full", 32),
        ("nearest-w4", True, "nearest-w4-feedback", 4),
        ("qsgd-w1.58", False, "qsgd-w1.58", 1.58),
    ],
)
def test_a_fleet_is_named_for_its_updates(update, feedback, name, bits):
    assert name_of({"federated": {"update": update, "error_feedback": feedback}}) == name
    assert bits_of(name) == pytest.approx(bits)


def test_kept_fleets_come_in_the_order_of_their_bits(store, tmp_path):
    """By hand: rounds of 400 and 600 bytes upload 500 on average."""
    for update in ("qsgd-w1.58", "full", "qsgd-w4"):
        assert store(update, gap=None if update == "full" else 0.1) == update
    fleets = read(tmp_path)
    assert [*fleets.all] == ["full", "qsgd-w4", "qsgd-w1.58"]
    assert fleets.borrowing == ["qsgd-w4", "qsgd-w1.58"]
    assert fleets.full.uploaded == 500
    assert fleets.full.leaks["server"].rows[2].auc.value == pytest.approx(0.7)


def test_a_folder_without_federations_is_refused(write):
    folder = write()
    path = folder / "audit" / "results.json"
    content = json.loads(path.read_text())
    content["findings"] = dict.fromkeys(content["findings"])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"were not trained by clients\. Train them by recipes"):
        keep(folder)


def test_a_record_without_bytes_is_refused(write):
    with pytest.raises(ValueError, match=r"full.json does not say how many bytes were uploaded"):
        keep(write(sizes=()))


@pytest.mark.parametrize(("update", "lacking"), [("full", "quantized"), ("qsgd-w4", "full-prec")])
def test_the_page_needs_full_and_other_updates(store, tmp_path, update, lacking):
    store(update)
    with pytest.raises(FileNotFoundError, match=f"none of {lacking}.* updates are kept"):
        read(tmp_path)


def test_fleets_that_differ_in_more_than_their_updates_are_refused(store, tmp_path):
    store("full")
    store("qsgd-w4", model={"lr": 0.2})
    with pytest.raises(
        ValueError, match=r"qsgd-w4.json differs from full in model.lr 0.2, and 0.1"
    ):
        read(tmp_path)


def test_shadows_of_another_fleet_are_refused(store, tmp_path):
    store("full")
    store("qsgd-w4", gap=0.1)
    path = tmp_path / "qsgd-w4.json"
    path.write_text(path.read_text().replace('"full, which', '"elsewhere, which'))
    with pytest.raises(ValueError, match=r"has the shadows of elsewhere, and the full-precision"):
        read(tmp_path)


def test_a_damaged_file_is_refused(store, tmp_path):
    store("full")
    store("qsgd-w4")
    path = tmp_path / "qsgd-w4.json"
    path.write_text(path.read_text().replace('"convergence"', '"else"'))
    with pytest.raises(ValueError, match=r"qsgd-w4.json is damaged: KeyError"):
        read(tmp_path)
