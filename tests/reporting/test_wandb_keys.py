"""Keys in Weights & Biases, which saved dashboards rely on."""

from reporting.tables import Table
from reporting.wandb_keys import (
    audit_id,
    figure_key,
    finding_key,
    holder_key,
    risk_key,
    roc_key,
    task_key,
    transfer_key,
)
from storage.experiment import Experiment


def test_keys_by_hand(rows):
    assert risk_key("auc", "obc-w1.58-last8") == "risk/auc/obc_w1_58_last8"
    assert figure_key("plane") == "figures/plane"
    assert task_key(1, 5, "auc") == "continual/task-1/after-5/auc"
    assert transfer_key("loss", "tpr_1pct") == "continual/transfer/loss/tpr_1pct"
    assert holder_key("state", "auc") == "continual/holds/state/auc"
    (row,) = (r for r in rows if r[:3] == ("nearest-w2", "unquantized", "attack_r"))
    assert roc_key(row) == "roc/unquantized/attack_r"


def test_the_key_of_a_finding_does_not_depend_on_its_title():
    keys = {finding_key(Table("epsilon", title, (), (), "")) for title in ("Old", "New title")}
    assert keys == {"findings/epsilon"}


def test_an_audit_has_the_id_of_its_experiment_or_of_its_inputs(results):
    assert audit_id(results) == "0123456789abcdef-audit"
    experiment = Experiment({}, {}, {}, {}, {}, "0a1b2c3d")
    assert audit_id(results._replace(experiment=experiment)) == "0a1b2c3d-audit"
