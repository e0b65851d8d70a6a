"""The acceptance run of a machine with GPUs, about a quarter of an hour on one.

    python -m benchmarks.gpu                     # every step
    python -m benchmarks.gpu --step speed waits  # these steps

Prints a Markdown table of the machine and of every step: what it must show, and what it measured.
A step that needs more GPUs than there are is skipped by name. A step that misses its bound, or
fails, is named in the last line, and the exit code is 1. Each step has a process of its own, which
is ended after three times the step's seconds and a minute. No images are downloaded.

Not run on a GPU yet, so the seconds and the bounds are estimates. The Multi-Process Service,
several machines and SLURM are not tried.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks.gpu import fleets, quantizing, suites, training
from benchmarks.gpu.machine import describe
from benchmarks.gpu.step import Step, exit_code, run, table

STEPS: dict[str, Step] = {
    "emulated": Step(60, 0, "all tests pass", suites.emulated),
    "plan": Step(20, 0, "a forecast, and no file", fleets.dry_run),
    "bits-cpu": Step(40, 0, "equal files, twice and after a kill", fleets.same_bits_on_cpu),
    "tests": Step(60, 1, "all tests pass, none is skipped", suites.real),
    "same": Step(60, 1, "99% of codes; phi within 1e-3 nats of the CPU's", fleets.same_as_cpu),
    "bits": Step(80, 1, "equal files, twice and after a kill", fleets.same_bits_on_gpu),
    "waits": Step(20, 1, "no step waits for the GPU", training.waits),
    "speed": Step(90, 1, "resnet18: 0.95 of the bare loop, GPU busy 90%", training.speed),
    "precision": Step(
        30, 1, "float32 to 1e-5; phi within 0.05 nats of TF32's", quantizing.precision
    ),
    "quantize": Step(120, 1, "forecast of loops within a factor of 2", quantizing.quantize),
    "greedy": Step(60, 1, "8 times faster; 99% of codes", quantizing.greedy),
    "paper": Step(60, 1, "a forecast", fleets.paper_plan),
    "packed": Step(60, 1, "equal files", fleets.packed),
    "nccl": Step(20, 1, "files, and no warning at the end", fleets.nccl),
    "broken": Step(20, 1, "one line, exit code 1, no later model begun", fleets.broken),
    "two-gpus": Step(60, 2, "weights within 1e-2 of one GPU's", fleets.two_gpus),
    "two-gpus-fail": Step(60, 2, "an exit code other than 0", fleets.two_gpus_that_fail),
}


def parse(arguments: Sequence[str] | None = None) -> list[str]:
    """Names of the steps to run."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--step", nargs="+", choices=STEPS, default=[*STEPS], help="only these")
    names: list[str] = parser.parse_args(arguments).step
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps, print the table, and return the exit code."""
    names, gpus = parse(arguments), torch.cuda.device_count()
    results = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results.append(run(name, STEPS[name], gpus))
    print(*describe(), "", table(results, STEPS), "", sep="\n")
    bad = [result.name for result in results if result.outcome in ("missed", "failed")]
    passed = sum(result.outcome == "passed" for result in results)
    skipped = [result.name for result in results if result.outcome == "skipped"]
    print(
        f"{passed} passed; missed or failed: {', '.join(bad) or 'none'}; skipped: "
        f"{', '.join(skipped) or 'none'}"
    )
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
