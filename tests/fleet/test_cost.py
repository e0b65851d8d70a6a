import pytest

from fleet.cost import Costs, _blend, duration, show_cost
from fleet.counts import Counts
from fleet.equations import EquationsCost
from fleet.gpu_hours import HALF, rate
from fleet.trials import Operations, QuantizationCost, SignalCost, Training
from quantization.launches import Work
from storage.files import save_whole
from storage.names import fleet_names
from storage.run_folder import RunFolder

FULL = 4096  # bytes


@pytest.fixture
def costs():
    quantizations = {"nearest-w2": QuantizationCost(5.0, "trial", 300, Work(0, 0))}
    quantizations["adaround-w2-paper"] = QuantizationCost(
        7200.0, "trial", 200, Work(10**9, 6 * 10**16)
    )
    training, signals = Training(0.5, 2.0, 4000, 10**9, 1.5), SignalCost(0.001, 13)
    operations = Operations(10**9, 3 * 10**9, 40, 100)
    return Costs(training, signals, operations, FULL, quantizations, HALF)


@pytest.fixture
def counts(tmp_path):
    run, names = RunFolder(tmp_path), fleet_names(2, 1)
    for file in (run.weights(names[0], "full"), run.signals(names[0], "full")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    variants = ["full", "nearest-w2", "adaround-w2-paper"]
    queries = ["mirror", "shift+1+0"]
    return Counts(run, names, 4, 10, 500, 50, 5, 1000, 100, queries, variants, 0, 2, 60.0)


def test_a_model_that_is_trained_again_lacks_everything(costs, counts):
    """The first model has trained weights and their signals; they will be set aside."""
    table, *_ = show_cost(counts._replace(again=[counts.todo[0]]), costs)
    assert [*table.columns[2].cells] == ["3", "9", "3", "3", ""]


def test_the_plan_worked_by_hand(costs, counts):
    table, *lines = show_cost(counts, costs)
    columns = [[*column.cells] for column in table.columns]
    # an epoch takes 27 s, so that the third, sixth, ninth and last write a checkpoint
    training = 10 * (50 * 0.5 + 2) + 5 * 100 * 0.001 + 4 * 1.5  # 276.5 s
    signals = (1000 * 2 + 100 * 3) * 0.001  # the test split in the view of accuracy too
    total = 2 * training + 8 * signals + 3 * 5 + 3 * 7200
    assert columns[0] == [
        "training, 10 epochs", "signals of a variant", "nearest-w2", "adaround-w2-paper", "total"
    ]  # fmt: skip
    assert columns[1] == ["4.6 min", "2.30 s", "5.00 s", "2.0 h", ""]
    assert columns[2] == ["2", "8", "3", "3", ""]
    assert columns[3] == ["9.2 min", "18.40 s", "15.00 s", "6.0 h", duration(total)]
    text = " ".join(lines)
    assert "3 to be made, 4 finished" in text
    assert f"Time: {duration(total / 2)} with 2 at once" in text
    assert "a checkpoint takes 1.500 s and is written 4 times" in text
    kept = 3 * (512 + 1000 * 2 * 13 + 100 * (2 * 8 + 1))
    assert f"{FULL + 500:,} of weights, {FULL:,} of them full; {kept:,} of signals; 4,000" in text


def test_gpu_hours_worked_by_hand(costs, counts):
    text = show_cost(counts, costs)[-1]
    # 3e9 x 500 x 10 and 100 x 50 x 10; 1e9 x 2300 x 3, and 40 kernels for each of 5 x 3 batches
    assert "0.015 PFLOP and 0.05 million kernels of training, at 31.2 TFLOP/s" in text
    assert "0.0069 PFLOP and 0.0006 million kernels of signals, at 9.75 TFLOP/s" in text
    assert "60 PFLOP and 1,000 million kernels of published loops and OBC's" in text
    # the loop is bound by its operations, 6,154 s, unless launches take 10 microseconds
    training, signals = 15e12 / 31.2e12, 6.9e12 / 9.75e12
    low, high = (3 * (training + signals + loop) / 3600 for loop in (6e16 / 9.75e12, 1e4))
    assert f"{low:.3g} to {high:.3g} GPU hours for 3 models" in text
    assert "an estimate, not measured" in text


@pytest.mark.parametrize(
    ("precision", "tf32", "expected"),
    [("bf16-mixed", False, 31.2), (16, True, 31.2), (None, False, 9.75), ("32-true", True, 15.6)],
)
def test_the_rate_follows_the_arithmetic_of_training(precision, tf32, expected):
    assert rate(precision, tf32) == pytest.approx(expected * 1e12)


def test_embeddings_worked_by_hand(costs, counts):
    """Of the first model two of three variants lack them, of the last all."""
    first, _, last = counts.todo
    save_whole(counts.run.embeddings(first, "nearest-w2"), {})
    embedded = counts._replace(embedded=[first, last])
    table, *lines = show_cost(embedded, costs)
    cells = [column.cells for column in table.columns]
    label, each, count, total, _ = next(row for row in zip(*cells, strict=True) if "emb" in row[0])
    assert (label, each, count, total) == ("embeddings of a variant", "1.10 s", "5", "5.50 s")
    size = 512 + 4 * 32 * 1100
    assert f"{3 * size:,} of embeddings per audited model" in " ".join(lines)
    assert embedded._replace(again=[first]).unembedded() == 6
    assert "embeddings" not in " ".join(show_cost(counts, costs)[1:])


def test_normal_equations_worked_by_hand(costs, counts):
    """Of three models two are untrained, and one of these is audited."""
    solving = costs._replace(equations=EquationsCost(40.0, 24 * 10_000**2))
    table, *lines = show_cost(counts._replace(audited=counts.todo[-1:]), solving)
    rows = [*zip(*(column.cells for column in table.columns), strict=True)]
    assert ("normal equations", "40.00 s", "1", "40.00 s", "trial") in rows
    assert "GB of memory, and normal equations take 2.4 GB more." in " ".join(lines)
    table, *lines = show_cost(counts, costs)
    assert "normal equations" not in " ".join([*table.columns[0].cells, *lines[:1]])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.00 s"), (59.9, "59.90 s"), (90.0, "1.5 min"), (36e6, "10,000.0 h")],
)
def test_durations_are_rounded_for_people(seconds, text):
    assert duration(seconds) == text


def test_a_cut_in_training_worked_by_hand(costs):
    """Two fifths of the epochs are dense; the checkpoint that stays is that of the cut network."""
    dense = Operations(10, 100, 4, 8), Training(0.5, 2.0, 4000, 90, 1.5)
    narrow = Operations(5, 40, 4, 8), Training(0.3, 1.0, 1000, 70, 0.5)
    operations, training = _blend(0.4, dense, narrow)
    assert operations == Operations(5, 64, 4, 8)
    assert training == pytest.approx((0.38, 1.4, 1000, 90, 0.9))


def test_snapshots_from_before_a_cut_are_larger(costs, counts):
    kept = counts._replace(snapshots=2)
    lines = [" ".join(show_cost(kept, costs._replace(before_cut=n))[1:]) for n in (0, 5000)]
    stored = 3 * FULL + 300 + 200
    assert f"{stored:,} of weights" in lines[0]
    assert f"{stored + 5000:,} of weights" in lines[1]
