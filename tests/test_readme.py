"""Every command that the README shows runs, at toy size, in the order in which it shows them."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import audit
import train
from datamodules import CIFAR10
from datamodules.images import Images
from fleet import export

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[list[str]]:
    """The arguments behind `python` of every such line."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    lines = blocks.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["python"]]


COMMANDS = commands()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
TOY = shlex.split(
    "--trainer.max_epochs 1 --fleet.shadows 4 --fleet.targets 1 --threads 1 "
    "--model.network convnet --quantize nearest-w4 adaround-w2 gptq-w1.58"
)
ONE_CPU = shlex.split(
    "--trainer.accelerator cpu --trainer.devices 1 --trainer.strategy auto "
    "--fleet.workers 1 --fleet.gpus_per_model 0"
)


def photographs(self):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (100, 3, 32, 32), dtype=torch.uint8, generator=rng)
    return Images(images, torch.arange(100) % 10), Images(images[:20], torch.arange(20) % 10)


def overfitted():
    """Logits of 9 models, labels and membership: members' true class stands out."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 5
    halves = torch.rand(5, 60, generator=rng).argsort(1) < 30
    members = torch.cat([halves, ~halves[1:]])
    logits = torch.randn(9, 60, 5, generator=rng)
    return logits + 4 * members[..., None] * (torch.arange(5) == labels[:, None]), labels, members


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder as the README's reader has it: the recipes, some images, a network of one's own."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "my_networks.py").write_text(SNIPPETS[0])
    for kind, shade in (("cat", 40), ("dog", 200)):
        folder = tmp_path / "path" / "to" / "images" / kind
        folder.mkdir(parents=True)
        for number in range(50):
            Image.new("RGB", (20, 30), (shade, 5 * number, 0)).save(folder / f"{number}.png")
    logits, labels, members = overfitted()
    arrays = {"shadow_members": members[1:], "target_members": members[:1], "labels": labels}
    for role, some in (("target", logits[:1]), ("shadow", logits[1:])):
        arrays |= {f"engine-w4/{role}_logits": some}
    np.savez(tmp_path / "path" / "to" / "signals.npz", **{k: v.numpy() for k, v in arrays.items()})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(CIFAR10, "fetch", lambda self: None)
    monkeypatch.setattr(CIFAR10, "read", photographs)


def toy(command: list[str]) -> list[str]:
    """Shrink what the recipe says, and leave what the command itself says but for hardware."""
    recipe = command.index("--config") + 2
    options = [*command[1:recipe], *TOY, *command[recipe:], *ONE_CPU]
    if "--data.pool_size" in options:
        options[options.index("--data.pool_size") + 1] = "60"
        return options
    return [*options, "--data.pool_size", "60"]


def test_every_command_of_the_readme(workplace, capsys):
    assert len(COMMANDS) > 10
    for script, *options in COMMANDS:
        if "--status" in options:
            train.main(options)
            assert "finished" in capsys.readouterr().out
        elif "--fleet.dry_run" in options:
            train.main(toy([script, *options]))
            assert "GPU hours" in capsys.readouterr().out
        elif script == "train.py":
            train.main(toy([script, *options]))
            assert "Next: python audit.py" in capsys.readouterr().out
        elif script == "-m":
            module, *options = options
            assert module == "fleet.export"
            export.main(options)
            assert re.search(r"[\d,]+ bytes, [\d,]+ at full precision", capsys.readouterr().out)
        elif "--compare" in options:
            audit.main(options)
            assert "comparison.csv" in capsys.readouterr().out
        else:
            assert script == "audit.py"
            audit.main(options)
            assert "report.html" in capsys.readouterr().out
    runs = {path.name for path in Path("runs").iterdir()}
    named = {option for command in COMMANDS for option in command if option.startswith("runs/")}
    assert {f"runs/{name}" for name in runs} >= named  # every folder that the text speaks of
    tree = re.search(r"\n    runs/digits/\n(.*?)\n\n", README, re.DOTALL)
    written = {path.name for path in Path("runs/digits").rglob("*")}
    assert (
        set(re.findall(r"[\w.-]+\.(?:yaml|ckpt|safetensors|html|csv|json|txt)|SHA256SUMS", tree[1]))
        <= written
    )


def test_the_attacks_are_a_library():
    logits, labels, members = overfitted()
    names = {"logits": logits, "labels": labels, "members": members}
    exec(SNIPPETS[1], names)
    found = names["summarise"](names["scores"][None], members[:1]).auc
    assert found.low > 0.8
    assert found.value == pytest.approx(roc_auc_score(members[0], names["scores"]))


def test_make_demo_is_the_two_commands():
    printed = subprocess.run(
        ["make", "--dry-run", "demo", "VENV=.nowhere"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    commands = [line.split("python ", 1)[1] for line in printed.splitlines() if ".py" in line]
    assert commands == [" ".join(command) for command in COMMANDS[:2]]
    assert "pip install" in printed
