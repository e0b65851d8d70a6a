"""The command line of train.py, and the files that it leaves."""

import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.step import Missed

ROOT = Path(__file__).parents[2]
QUIET = ("-W", "ignore")
DIGITS = (
    "--config recipes/digits.yaml --data.flip true --data.crop 1 --checkpoint_every 0 "
    "--trainer.check_val_every_n_epoch null"
)
FEW = f"{DIGITS} --quantize nearest-w2 adaround-w2 obc-w2"


class Call(NamedTuple):
    """How a command ended."""

    code: int
    output: str
    errors: str
    seconds: float


@contextmanager
def folders() -> Iterator[Path]:
    """A folder for run folders, until the end of a step."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def command(folder: Path, options: str) -> list[str]:
    """The command line of train.py with these options."""
    # the folder last, because a recipe names one too
    return [sys.executable, *QUIET, "train.py", *options.split(), "--run_dir", str(folder)]


def call(line: list[str]) -> Call:
    """Run a command to its end."""
    started = time.monotonic()
    done = subprocess.run(line, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    return Call(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def train(folder: Path, options: str) -> Call:
    """Run train.py to its end.

    Raises:
        Missed: its exit code is not 0.
    """
    done = call(command(folder, options))
    if done.code:
        last = (done.output + done.errors).strip().splitlines()[-3:]
        raise Missed(f"train.py {options} ended with exit code {done.code}: {' / '.join(last)}")
    return done


def kill(folder: Path, options: str, first: Path) -> None:
    """Run train.py, and kill it as soon as the file `first` exists.

    Raises:
        Missed: it ended before.
    """
    with subprocess.Popen(command(folder, options), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not first.exists():
            time.sleep(0.005)
        process.kill()
    if process.returncode >= 0:
        raise Missed(f"train.py ended with exit code {process.returncode} before it was killed")


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every weights and signals file of a run folder, by name."""
    paths = sorted(folder.glob("models/**/*.safetensors"))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }
