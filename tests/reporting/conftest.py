"""Results and rows of an audit, records of quantizers, and a reader of offline W&B runs."""

import json
import struct
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from attacks import DEFAULT_ATTACKS
from attacks.cases import make_cases
from attacks.continual.leaks import ContinualLeak
from attacks.continual.utility import Utility
from attacks.evaluate import evaluate
from attacks.game import Game
from attacks.metrics.intervals import Estimate
from attacks.strongest import Strongest
from reporting.findings import find
from reporting.results import make_results
from storage.evidence import Evidence
from storage.records import LayerMeans, QuantizationMeans, VariantFacts

SIZES = {"full": 98712, "nearest-w4": 16858, "nearest-w2": 1089}


@pytest.fixture(scope="session")
def bare_leak():
    """What eight learners of two tasks leak, without any finding beside their accuracy."""
    share = Estimate(0.9, 0.85, 0.95)
    return ContinualLeak(
        classes=[[0, 1], [2, 3]],
        tasks=[1, 2],
        stages=["task-1", "full"],
        targets=8,
        shadows=16,
        false_positives={"tpr_1pct": 9, "tpr_01pct": 1},
        worlds=0,
        world_seconds=0.0,
        cells=[],
        utility=Utility([[share], [share, share]], share, share, None),
        transfers=[],
        by_task=[],
        attackers=[],
        state=[],
        exemplars=None,
        risk_map=None,
        variants=[],
        left_out=[],
    )


@pytest.fixture(scope="session")
def game(synthetic_fleet, observe):
    """Three variants; `nearest-w2` misleads full-precision shadows."""
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=160)
    shifts = {"full": 0, "nearest-w4": 1, "nearest-w2": -8}
    signals = {variant: observe(phi, lambda x, by=by: x + by) for variant, by in shifts.items()}
    return Game(signals, members, make_cases(8, 2))


@pytest.fixture(scope="session")
def strongest(game):
    """Every default attack on every variant."""
    best = Strongest(game)
    for variant in game.variants:
        best.add(evaluate(game, variant, DEFAULT_ATTACKS))
    return best


@pytest.fixture(scope="session")
def rows(strongest):
    """The rows of all attacks."""
    return tuple(strongest.rows)


@pytest.fixture(scope="session")
def accuracy():
    return {
        "full": Estimate(0.95, 0.93, 0.96, 0.01),
        "nearest-w4": Estimate(0.94, 0.91, 0.96, 0.01),
        "nearest-w2": Estimate(0.70, 0.61, 0.77, 0.05),
    }


@pytest.fixture(scope="session")
def evidence(game, accuracy):
    """A fleet that was trained elsewhere; one variant has a record of its quantization."""
    layers = [LayerMeans("stem", 0.25, 0.5, 0.125), LayerMeans("fc", 0.0, None, None)]
    means = QuantizationMeans("each block", "members, 9 images", ["stem", "fc"], layers, 1.5, 2)
    variants = {
        name: VariantFacts(share, SIZES[name], accuracy_by_target=[share.value] * 2)
        for name, share in accuracy.items()
    }
    variants["nearest-w2"] = variants["nearest-w2"]._replace(quantization=means)
    return Evidence("demo", game, variants, {"data": "digits", "excluded": "none"}, {}, [])


@pytest.fixture(scope="session")
def findings(game, strongest):
    """All findings, by key."""
    return find(game, strongest)


@pytest.fixture(scope="session")
def results(evidence, strongest, findings):
    """The results of an audit."""
    return make_results(evidence, strongest, findings, "0123456789abcdef" * 4)


@pytest.fixture(scope="session")
def units():
    """Blocks and layers that the records of `write_records` name."""
    return ["stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"]


@pytest.fixture(scope="session")
def write_records(units):
    """Write beside each model's weights what a quantizer would have, different for each model."""

    def write(run, variants=("nearest-w4", "nearest-w2"), **changes):
        for number, name in enumerate(run.read().names):
            for variant in variants:
                moved, cost = number * (variant != "nearest-w4"), 2.5 ** (number % 5)
                error = 0.25 * number if moved else None
                layers = [
                    {"name": layer, "unit": unit, "bits": 2, "weights": 9, "flipped": moved / 64}
                    | {"error_before": error, "error_after": error and error / 4}
                    | {"seconds": cost / 2}
                    for layer, unit in (
                        ("stem", "stem"),
                        ("layer1.0.conv", "layer1.0"),
                        ("fc", "fc"),
                    )
                ]
                used = moved and {"source": "members", "images": 1024, "indices": [number]}
                record = {"variant": variant, "objective": "squared error of blocks"}
                record |= {"units": units, "calibration": used or None}
                record |= {"layers": layers, "seconds": cost}
                run.record(name, variant).write_text(json.dumps(record | changes))

    return write


PATIENCE = 1200  # seconds; only a process that hangs takes so long


class OfflineRun(NamedTuple):
    """What `wandb sync` would upload."""

    run: object  # name, group, job type, as in `RunRecord`
    config: dict
    summary: dict
    history: list[dict]
    folder: Path


@pytest.fixture(scope="session")
def read_wandb():
    """Read what an offline W&B run kept; the keys of nested values are joined by a dot.

    The file is a LevelDB log behind 7 bytes of its own: records, in blocks of 32 KiB, have a
    checksum, a length and a kind (1 whole, 2 first, 3 middle, 4 last part).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    def records(content):
        at, whole = 7, b""
        while at + 7 <= len(content):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, size, kind = struct.unpack_from("<IHB", content, at)
            if at + 7 + size > len(content):
                return  # being written
            whole += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):
                yield Record.FromString(whole)
                whole = b""

    def values(items):
        return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}

    def finished(file):
        """All records, once W&B's own process has written the last: `finish` does not wait."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            written = list(records(file.read_bytes()))
            if written and written[-1].WhichOneof("record_type") == "exit":
                return written
            time.sleep(0.05)
        raise TimeoutError(f"{file} has no last record.")

    def read(folder):
        (file,) = folder.glob("*.wandb")
        run, config, summary, history = None, {}, {}, []
        for record in finished(file):
            match record.WhichOneof("record_type"):
                case "run":
                    run = record.run
                    config |= values(record.run.config.update)
                case "config":
                    config |= values(record.config.update)
                case "summary":
                    summary |= values(record.summary.update)
                case "history":
                    history.append(values(record.history.item))
        return OfflineRun(run, config, summary, history, folder)

    return read
