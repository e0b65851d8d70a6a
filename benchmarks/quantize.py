"""Compare our quantizers with the published loops: accuracy, size, CPU seconds (peers: peers.py).

    python train.py --run_dir runs/resnet20 --threads 1 --data ImageFolder \
        --data.root data/cifar10-jpeg --model.network resnet20 --model.schedule one-cycle \
        --model.lr 0.4 --trainer.precision bf16-mixed --trainer.max_epochs 12 \
        --fleet.shadows 0 --fleet.targets 3
    python benchmarks/quantize.py runs/resnet20 data/cifar10-jpeg adaround-w2 adaround-w2-paper ...
    python benchmarks/quantize.py runs/resnet20 data/cifar10-jpeg --table   # the README's tables

Each result is a line of RUN/benchmark.jsonl; results in the file are not computed again. A variant
with `-paper` runs `--iterations` of its 20,000 steps; the table extrapolates the time of all steps
from the CPU time of those after the first 20.
"""

import argparse
import copy
import json
import resource
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from attacks.game import FULL
from datamodules import ImageFolder
from datamodules.seeds import derive_seed
from lightning_modules.networks import build_network
from pruning.cut import load
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.variant import Variant
from storage.names import ModelName
from storage.run_folder import RunFolder
from storage.weights import load_weights, save_quantized

IMAGES = 1024
COLUMNS = {"bytes": ",.0f", "logits": ".4f", "cpu": ".1f", "extrapolated": ",.0f"}
COUNTED_FROM = 20  # first iterations, which only warm up and are not extrapolated


def accuracy(network: torch.nn.Module, data: ImageFolder) -> float:
    """Percentage of the test images that are classified correctly."""
    with torch.inference_mode():
        right = [
            (network(b.images).argmax(1) == b.labels).sum().item() for b in data.test_batches()
        ]
    return float(100 * sum(right) / len(data.test.labels))


def cpu_seconds() -> float:
    """CPU time of this process over all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(
    network: torch.nn.Module, variant: Variant, calibration: Calibration, iterations: int
) -> dict[str, Any]:
    """Quantize once, or twice if the cost of a loop is extrapolated."""
    paper = variant.paper_settings
    settings = full = paper.loop if paper is not None else None
    row: dict[str, Any] = {}
    if settings is not None:
        started = cpu_seconds()
        few = settings._replace(iterations=COUNTED_FROM)
        quantize_network(network, variant, calibration, loop=few)
        row["fixed"] = cpu_seconds() - started
        settings = settings._replace(iterations=iterations)
    started, clock = cpu_seconds(), time.perf_counter()
    quantized, record = quantize_network(network, variant, calibration, loop=settings)
    row |= {"cpu": cpu_seconds() - started, "wall": time.perf_counter() - clock}
    if full is not None:
        step = (row["cpu"] - row["fixed"]) / (iterations - COUNTED_FROM)
        row |= {"iterations": iterations, "each": step}
        row["extrapolated"] = row["cpu"] + step * (full.iterations - iterations)
    errors = [layer.error_after for layer in record.layers if layer.error_after is not None]
    row["error"] = mean(errors) if errors else None
    row["state"] = quantized
    return row


def calibration_for(run: RunFolder, data: ImageFolder, name: ModelName) -> Calibration:
    """The images with which train.py calibrates this model."""
    seed = derive_seed(run.read().config["seed"], name.role, name.number, 0)
    indices = data.draw_calibration("members", run.membership()[name], IMAGES, seed)

    def augmented(number: int) -> torch.Tensor:
        return data.calibration_images("members", indices, derive_seed(seed, "calibration", number))

    images = data.calibration_images("members", indices)
    return Calibration(images, augmented, indices, "members", seed)


def logits_error(network: torch.nn.Module, full: torch.nn.Module, images: torch.Tensor) -> float:
    """Relative squared error of the logits: the one figure that all tools share."""
    with torch.inference_mode():
        expected = full(images)
        error: torch.Tensor = (network(images) - expected).square().sum()
        return float(error / expected.square().sum())


def run_all(arguments: argparse.Namespace) -> None:
    """Measure every variant that has no result yet."""
    run, data = RunFolder(arguments.run_dir), ImageFolder(arguments.root)
    data.setup("fit")
    experiment = run.read()
    config = experiment.config["model"]
    results = arguments.run_dir / "benchmark.jsonl"
    for position, name in enumerate(experiment.names):
        if arguments.models and position not in arguments.models:
            continue
        network = build_network(config["network"], data.num_classes, 3, {}).eval()
        load(network, load_weights(run.weights(name, FULL)))
        network.to(memory_format=torch.channels_last)
        calibration = calibration_for(run, data, name)
        for text in [FULL, *arguments.variants]:
            key = {"model": str(name), "variant": text}
            if text.endswith("-paper"):
                key["iterations"] = arguments.iterations
            if any(key.items() <= line.items() for line in read(results)):
                continue
            row: dict[str, Any] = {}
            other = network
            if text != FULL:
                row = measure(network, Variant.parse(text), calibration, arguments.iterations)
                quantized = row.pop("state")
                other = copy.deepcopy(network)
                other.load_state_dict(quantized.state_dict())
                with tempfile.TemporaryDirectory() as folder:
                    save_quantized(Path(folder) / "x", quantized)
                    row["bytes"] = (Path(folder) / "x").stat().st_size
                row["logits"] = logits_error(other, network, calibration.images)
            row = key | {"accuracy": accuracy(other, data)} | row
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Every result so far."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )


def table(rows: list[dict[str, Any]]) -> None:
    """Print one line per variant: means over models, and the accuracy of each model."""
    lines = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["model"]):
        lines[(row["variant"], row.get("iterations"))].append(row)
    print("| variant | accuracy % | each model | bytes | logit error | CPU s | at 20,000 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (variant, iterations), same in sorted(lines.items()):
        label = f"{variant} ({iterations:,} steps)" if iterations else variant
        accuracies = ", ".join(f"{row['accuracy']:.2f}" for row in same)
        cells = [label, f"{mean(row['accuracy'] for row in same):.2f}", accuracies]
        for key, show in COLUMNS.items():
            values = [row[key] for row in same if row.get(key) is not None]
            cells.append(format(mean(values), show) if values else "")
        print(f"| {' | '.join(cells)} |")


def compare(rows: list[dict[str, Any]]) -> None:
    """Print our default against the published loop, on the models that both have run on."""
    results = {(row["variant"], row.get("iterations"), row["model"]): row for row in rows}
    pairs = defaultdict(list)
    for (variant, iterations, model), loop in sorted(results.items(), key=str):
        ours = results.get((variant.removesuffix("-paper"), None, model))
        if iterations and ours:
            pairs[variant.removesuffix("-paper"), iterations].append((ours, loop))
    print("| | steps | seeds | accuracy %, ours / loop | CPU s, ours / loop to 20,000 | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (variant, iterations), both in pairs.items():
        accuracies = [mean(row["accuracy"] for row in side) for side in zip(*both, strict=True)]
        ours, loop = mean(o["cpu"] for o, _ in both), mean(p["extrapolated"] for _, p in both)
        print(
            f"| {variant} | {iterations:,} | {len(both)} | {accuracies[0]:.2f} / "
            f"{accuracies[1]:.2f} | {ours:.1f} / {loop:,.0f} | {loop / ours:.0f} |"
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path, help="run folder of trained resnet20s")
    parser.add_argument("root", type=Path, help="folder of CIFAR-10 images")
    parser.add_argument("variants", nargs="*", help="variants as train.py names them")
    parser.add_argument("--models", nargs="*", type=int, help="positions; default all")
    parser.add_argument("--iterations", type=int, default=5000, help="steps of the published loops")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table:
        rows = read(arguments.run_dir / "benchmark.jsonl")
        table(rows)
        print()
        compare(rows)
    else:
        run_all(arguments)


if __name__ == "__main__":
    main()
