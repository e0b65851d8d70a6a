"""The command line of audit.py as a whole; the folders beside this file test its parts."""

import html
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from threadpoolctl import threadpool_info, threadpool_limits

import train
from attacks import ATTACKS, DEFAULT_ATTACKS
from attacks.cases import make_cases
from attacks.evaluate import score
from attacks.game import FULL, Game, ModelSignals
from attacks.metrics.intervals import delong, summarise
from attacks.quantile import make_features
from audit import main
from datamodules import Digits
from storage.run_folder import RunFolder


def test_a_wrong_option_is_an_error(audited_run, capsys):
    for option, message in [
        (("--attacks",), "`--attacks` needs a value"),
        (("--wandb", "on"), "wandb"),
        (("--rmia.population", "train"), "`--rmia.population` must be test or pool, got `train`."),
        (("--rmia.a", "best"), "`--rmia.a` must be float or tuned, got `best`."),
    ]:
        with pytest.raises(SystemExit):
            main(["--run_dir", str(audited_run[0].path), *option])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"`--rmia.a` must be 0 to 1 or `tuned`, got 1.5\."):
        main(["--run_dir", str(audited_run[0].path), "--rmia.a", "1.5"])
    with pytest.raises(SystemExit, match=r"got `lirra_online`\. Did you mean `lira_online`\?"):
        main(["--run_dir", str(audited_run[0].path), "--attacks", "lirra_online"])
    with pytest.raises(
        SystemExit, match="`--run_dir` is missing; pass for example `--run_dir runs/digits`"
    ):
        main([])
    with pytest.raises(SystemExit, match="`--run_dir` is missing"):
        main(["--signals", "some.npz"])


def test_threads_are_those_of_numpy_and_of_torch(tmp_path):
    before = torch.get_num_threads()
    try:
        with threadpool_limits(1, "blas"):
            with pytest.raises(SystemExit, match="No experiment in"):
                main(["--run_dir", str(tmp_path), "--threads", "2"])
            blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
            assert {pool["num_threads"] for pool in blas} == {2}
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.fleet
def test_the_recipe_of_the_report_makes_the_same_models(toy_run, tmp_path, quick_audit):
    folder = Path(shutil.copytree(toy_run, tmp_path / "run"))
    quick_audit(RunFolder(folder))
    page = (folder / "audit" / "report.html").read_text()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(html.unescape(page.rsplit("<pre>", 1)[1].split("</pre>")[0]))
    train.main(["--config", str(recipe), "--run_dir", str(tmp_path / "again")])
    for path in folder.glob("models/*/full.safetensors"):
        again = tmp_path / "again" / path.relative_to(folder)
        assert again.read_bytes() == path.read_bytes()


@pytest.mark.fleet
@pytest.mark.slow
def test_real_digits_leak_and_random_labels_do_not(tmp_path, audit, read_csv):
    """From images to the table; with 8 targets, because Student's t needs more than 2."""
    run = RunFolder(tmp_path / "digits")
    options = "--data Digits --data.pool_size 600 --data.batch_size 32 --model.network convnet"
    options += " --model.lr 0.1 --trainer.accelerator cpu --trainer.max_epochs 15 --threads 1"
    options += " --fleet.shadows 16 --fleet.targets 8"
    train.main(["--run_dir", str(run.path), *options.split()])
    audit(run)
    lines = {(e["variant"], e["knowledge"], e["attack"]): e for e in read_csv(run)}
    assert len(lines) == 10 + 3 * (3 + 3 * 7)  # the shadows of 7 of 10 attacks are of three kinds
    for attack in DEFAULT_ATTACKS:
        kind = "matched" if ATTACKS[attack].shadows else "none"
        assert lines["full", kind, attack]["auc_low"] > 0.5, attack
    assert lines["full", "matched", "lira_online"]["auc_low"] > 0.58
    assert lines["full", "none", "global_threshold"]["accuracy"] > 0.93
    sizes = {line["variant"]: line["bytes"] for line in lines.values()}
    assert sizes["adaround-w1.58"] < sizes["adaround-w2"] < sizes["adaround-w4"] < sizes["full"]

    members = torch.stack(list(run.membership().values()))
    order = torch.rand(members.shape, generator=torch.Generator().manual_seed(1)).argsort(1)
    shuffled = members.gather(1, order)
    shuffled[1:16:2] = ~shuffled[:16:2]
    files = [load_file(run.signals(name, "full")) for name in run.read().names]
    keys = ("phi", "hinge", "population", "population_hinge")
    data = Digits(pool_size=600)
    data.setup("fit")
    signals = (torch.stack([file[key] for file in files]) for key in keys)
    known = ModelSignals(*signals, make_features(*data.pool, *data.test))
    game = Game({FULL: known}, shuffled, make_cases(16, 8))
    by_attack = score(DEFAULT_ATTACKS, game, FULL)
    for attack, scores in by_attack.items():
        auc = summarise(scores, shuffled[16:]).auc
        assert auc.low <= 0.5 <= auc.high, attack
        assert delong(scores[0], shuffled[16]).value == pytest.approx(0.5, abs=0.08)
