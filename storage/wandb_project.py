"""Weights & Biases names that training and audits share: project, settings and keys.

W&B is imported where it is used, because that takes half a second.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from storage.files import as_unicode
from storage.names import WandbMode

PROJECT = "bitleak"
LONGEST_GROUP = 128  # characters; the service refuses more


def make_settings() -> Any:  # noqa: ANN401
    """Settings of every run; none is global: it might not close, and take the next one's logs."""
    import wandb

    return wandb.Settings(silent=True, console="off", reinit="create_new")


def sortable(variant: str) -> str:
    """A variant's name in letters, digits and underscores, by which W&B can sort and filter.

    Source: https://docs.wandb.ai/support/models/articles/why-cant-i-sort-or-filter-metrics-with-c
    """
    return re.sub(r"\W", "_", variant)


def accuracy_key(variant: str) -> str:
    """Key of a variant's test accuracy: one model's in its run, the targets' mean in the audit."""
    return f"test_accuracy/{sortable(variant)}"


def group_name(run_dir: Path) -> str:
    """The name of the group of an experiment's runs: its folder's name.

    A name that is too long is cut, and ends with a hash of the whole, so that it stays unique.
    """
    name = as_unicode(run_dir.resolve().name)
    if len(name) <= LONGEST_GROUP:
        return name
    ending = "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return name[: LONGEST_GROUP - len(ending)] + ending


def choose_folders(run_dir: Path) -> None:
    """Let W&B keep its cache and data below the run folder if they cannot be below HOME.

    To be called before the first run, which starts W&B's server: a server that cannot create its
    log file in the cache writes its log on the screen.
    """
    from wandb.env import CACHE_DIR, DATA_DIR, get_cache_dir, get_data_dir

    for variable, folder in ((CACHE_DIR, get_cache_dir()), (DATA_DIR, get_data_dir())):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            os.environ[variable] = str(run_dir.resolve() / "wandb" / "home")


def check_key(mode: WandbMode) -> None:
    """Raise if W&B needs an API key and has none, before any work is done.

    Raises:
        ValueError: `online` without an API key, or with a key that is refused.
    """
    if mode != "online":
        return
    import wandb

    try:
        logged_in = wandb.login(prompt=False)
    except Exception as error:
        raise ValueError(
            f"`--wandb online` could not log in ({error}). Check the key and the network, or pass "
            "`--wandb offline`."
        ) from error
    if not logged_in:
        raise ValueError(
            "`--wandb online` needs an API key and found none. Run `wandb login`, or set "
            "WANDB_API_KEY, or pass `--wandb offline` and later `wandb sync` "
            "RUN_DIR/wandb/offline-run-*."
        )
