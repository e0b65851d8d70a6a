"""Steps that run train.py: the same bits, the same models as on a CPU, several models and GPUs."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.gpu.commands import (
    DIGITS,
    FEW,
    call,
    command,
    digests,
    folders,
    kill,
    train,
)
from benchmarks.gpu.step import Missed, Skipped, require
from storage.weights import load_quantized, load_weights

EXACT = "--trainer.deterministic true"


def same_bits(accelerator: str) -> str:
    """Train twice, and once with a kill between; compare the files."""
    options = f"{FEW} --fleet.shadows 2 --fleet.targets 0 --trainer.max_epochs 6"
    options += f" --trainer.accelerator {accelerator}"
    with folders() as folder:
        for name in ("one", "two"):
            train(folder / name, f"{options} {EXACT}")
        killed = folder / "killed"
        kill(killed, f"{options} {EXACT}", killed / "models" / "shadow-000" / "last.ckpt")
        train(killed, f"{options} {EXACT}")
        train(folder / "free", options)
        one, two, again, free = (digests(folder / n) for n in ("one", "two", "killed", "free"))
    equal = [sum(one[name] == files.get(name) for name in one) for files in (two, again, free)]
    text = f"{len(one)} files; equal: {equal[0]} twice, {equal[1]} after a kill, {equal[2]} without"
    return require(len(one) > 0 and equal[:2] == [len(one)] * 2, f"{text} `deterministic`")


def same_bits_on_cpu() -> str:
    """See `same_bits`."""
    return same_bits("cpu")


def same_bits_on_gpu() -> str:
    """See `same_bits`."""
    return same_bits("gpu")


def same_as_cpu() -> str:
    """Quantize and record the same weights on the CPU and on the GPU; compare codes and signals."""
    options = f"{DIGITS} --fleet.shadows 2 --fleet.targets 1 --trainer.max_epochs 3"
    with folders() as folder:
        train(folder / "cpu", f"{options} --trainer.accelerator cpu")
        shutil.copytree(folder / "cpu", folder / "gpu")
        for path in (folder / "gpu").glob("models/**/*"):
            signals = path.parent.name == "signals"
            if path.is_file() and (signals or path.name != "full.safetensors"):
                path.unlink()
        train(folder / "gpu", f"{options} --trainer.accelerator gpu")
        models = sorted((folder / "cpu" / "models").iterdir())
        pairs = [(model, folder / "gpu" / "models" / model.name) for model in models]
        shares = dict[str, float]()
        for here, there in pairs:
            for path in {*here.glob("*.safetensors")} - {here / "full.safetensors"}:
                share = equal_codes(path, there / path.name)
                shares[path.stem] = min(share, shares.get(path.stem, 1.0))
        apart = max(phi_apart(here, there) for here, there in pairs)
    worst = min(shares, key=lambda name: shares[name])
    text = (
        f"{len(shares)} variants of {len(pairs)} models: at least {shares[worst]:.2%} equal "
        f"codes ({worst}); phi of the same weights within {apart:.1g} nats"
    )
    return require(shares[worst] >= 0.99 and apart <= 1e-3, text)


def equal_codes(here: Path, there: Path) -> float:
    """Share of the codes of two quantized networks that are equal."""
    one, other = load_quantized(here).weights, load_quantized(there).weights
    equal = sum(int((one[key].codes == other[key].codes).sum()) for key in one)
    return equal / sum(weight.codes.numel() for weight in one.values())


def phi_apart(here: Path, there: Path) -> float:
    """Largest difference in phi of two models at full precision, in nats."""
    one, other = (
        load_file(model / "signals" / "full.safetensors")["phi"] for model in (here, there)
    )
    return float((one - other).abs().max())


def dry_run() -> str:
    """The plan of the digits recipe, on the GPU where there is one."""
    with folders() as folder:
        options = "--config recipes/digits.yaml --trainer.accelerator auto --fleet.dry_run true"
        plan = train(folder / "run", options).output
        if (folder / "run").exists():
            raise Missed("the dry run wrote files")
    return f"planned: {read_plan(plan)}"


def read_plan(plan: str) -> str:
    """The forecast of a dry run.

    Raises:
        Missed: there is none.
    """
    if (forecast := re.search(r"Time: (.*? with \d+ at once)", plan)) is None:
        raise Missed(f"no forecast in {plan[-200:]!r}")
    return forecast[1]


def paper_plan() -> str:
    """The plan of the CIFAR-10 recipe of the paper, on images of the same shape."""
    with folders() as folder:
        options = "--config recipes/paper/cifar10.yaml --data benchmarks.gpu.noise.Noise"
        plan = train(folder / "run", f"{options} --fleet.dry_run true").output
    return f"the paper's CIFAR-10 fleet on this GPU: {read_plan(plan)}"


def packed() -> str:
    """Train eight models one after another, and four at once on one GPU."""
    if find_spec("ray") is None:
        raise Skipped("needs Ray: `pip install -e '.[ray]'`")
    options = f"{FEW} --fleet.shadows 8 --fleet.targets 0 --trainer.max_epochs 10"
    options += f" --trainer.accelerator gpu {EXACT}"
    with folders() as folder:
        single = train(folder / "single", options).seconds
        workers = "--fleet.workers 4 --fleet.gpus_per_model 0.25"
        together = train(folder / "packed", f"{options} {workers}").seconds
        one, other = digests(folder / "single"), digests(folder / "packed")
    equal = sum(one[name] == other.get(name) for name in one)
    text = f"{equal} of {len(one)} files equal; {single:.0f} s in turn, {together:.0f} s packed"
    return require(len(one) > 0 and equal == len(one), text)


def nccl() -> str:
    """Train two models by DDP on one GPU, so that NCCL starts."""
    options = f"{FEW} --fleet.shadows 2 --fleet.targets 0 --trainer.max_epochs 2"
    with folders() as folder:
        distributed = "--trainer.accelerator gpu --trainer.strategy ddp --trainer.devices 1"
        done = train(folder / "run", f"{options} {distributed}")
        files = len(digests(folder / "run"))
    complaint = re.search(r".*(?:destroy_process_group|NCCL WARN).*", done.errors)
    return require(complaint is None, complaint[0] if complaint else f"{files} files, no warning")


def broken() -> str:
    """Train a fleet of a network that ends the GPU's context."""
    options = f"{FEW} --fleet.shadows 4 --fleet.targets 0 --trainer.max_epochs 2"
    options += " --model.network benchmarks.gpu.noise.Breaking --trainer.accelerator gpu"
    with folders() as folder:
        done = call(command(folder / "run", options))
        begun = [path.name for path in (folder / "run").glob("models/*")]
    lines = [line for line in done.output.splitlines() if line.startswith("Stopped:")]
    text = f"exit code {done.code}, {len(begun)} models begun; {' / '.join(lines) or 'no line'}"
    return require(done.code == 1 and len(lines) == 1 and len(begun) <= 1, text)


def two_gpus() -> str:
    """Train on two GPUs together, and compare the weights with those of one GPU."""
    options = f"{FEW} --fleet.shadows 2 --fleet.targets 0 --trainer.max_epochs 1"
    options += " --trainer.accelerator gpu"
    with folders() as folder:
        train(folder / "one", options)
        both = "--trainer.devices 2 --trainer.strategy ddp --trainer.sync_batchnorm true"
        done = train(folder / "two", f"{options} {both}")
        names = [f"models/shadow-{number:03d}/full.safetensors" for number in range(2)]
        apart = max(weights_apart(folder / "one" / name, folder / "two" / name) for name in names)
    return require(apart <= 1e-2, f"weights within {apart:.1g}; {done.seconds:.0f} s")


def weights_apart(here: Path, there: Path) -> float:
    """Largest difference between the weights of two files."""
    one, other = load_weights(here), load_weights(there)
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def two_gpus_that_fail() -> str:
    """Let a model fail on two GPUs: both processes must end."""
    options = f"{FEW} --fleet.shadows 2 --fleet.targets 0 --trainer.max_epochs 1"
    options += " --model.network benchmarks.gpu.noise.Breaking --trainer.accelerator gpu"
    with folders() as folder:
        both = "--trainer.devices 2 --trainer.strategy ddp"
        done = call(command(folder / "run", f"{options} {both}"))
    return require(done.code != 0, f"exit code {done.code} after {done.seconds:.0f} s")
