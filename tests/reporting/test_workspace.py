"""The W&B view, against what a real fleet and its audit logged offline."""

import json
import re
import shutil

import pytest
import wandb
from wandb_workspaces.workspaces import Workspace, interface, internal

import audit
import train
from reporting import dashboard, workspace
from reporting.dashboard import publish
from reporting.results_json import read_results
from reporting.workspace import make_workspace, save_view


@pytest.fixture(scope="module")
def logged(toy, toy_run, tmp_path_factory, read_wandb):
    """A run folder whose audit and two models were logged offline; W&B runs by name."""
    folder = tmp_path_factory.mktemp("runs") / "it's"
    shutil.copytree(toy_run, folder)
    for name in ("shadow-000", "target-000"):
        shutil.rmtree(folder / "models" / name)
    train.main(toy(folder, "--wandb offline"))
    attacks = ("--attacks", "global_threshold", "lira_online_fixed")
    audit.main(["--run_dir", str(folder), "--wandb", "offline", *attacks])
    runs = [read_wandb(path) for path in folder.glob("wandb/offline-run-*")]
    return folder, {run.run.display_name: run for run in runs}


@pytest.fixture
def own_wandb(tmp_path, monkeypatch):
    """No key, no settings and no caches but those of this test."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def spec_of(view):
    """What would be uploaded."""
    return json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def sections_of(view):
    """Panels by section."""
    sections = spec_of(view)["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def values(tree, key):
    """All values of a key, at any depth."""
    below = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    own = [tree[key]] if isinstance(tree, dict) and key in tree else []
    return own + [value for branch in below for value in values(branch, key)]


def keys_of(run):
    """Keys that were logged; the fields of a table or an image are nested."""
    return {key.split(".")[0] for row in [run.summary, *run.history] for key in row}


def test_panels_show_everything_that_was_logged_and_nothing_else(logged):
    folder, runs = logged
    sections = sections_of(make_workspace("team", "toy", read_results(folder)))
    assert list(sections) == [
        *("Answer", "Audit", "Figures", "Leakage and accuracy", "Training, by role", "Findings"),
        "ROC curves",
    ]
    models = [run for name, run in runs.items() if name != "audit"]
    assert len(models) == 2
    audited = keys_of(runs["audit"])
    curves = sections.pop("Training, by role")
    for run in models:
        for panel in curves:
            assert panel["config"]["groupBy"] == "jobType"
            (key,), x = panel["config"]["metrics"], panel["config"]["xAxis"]
            assert any(key in row and x in row for row in run.history), key
    shown = {key for keys in values(sections, "mediaKeys") for key in keys}
    shown |= {key for keys in values(sections, "metrics") for key in keys}
    tables = [
        field["value"] for field in values(sections, "args") for field in field
        if field["name"] == "tableKey"
    ]  # fmt: skip
    weave = [
        panel["config"]["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]
        for name in ("Audit", "Findings") for panel in sections[name]
    ]  # fmt: skip
    shown |= {*tables, *weave}
    assert shown <= audited
    assert {"figures/layers", "figures/plane", "plane/auc_table"} <= shown
    (panel,) = sections["Answer"]
    assert all(statement in json.dumps(panel) for statement in read_results(folder).answer)
    prefixes = ("audit/", "figures/", "findings/", "plane/", "roc/", "test_accuracy/")
    prefixes += ("risk/auc/", "risk/tpr_1pct/")
    assert {key for key in audited if key.startswith(prefixes)} <= shown
    accuracies = {key for key in shown if key.startswith("test_accuracy/")}
    for run in models:  # one bar per role
        assert accuracies <= run.summary.keys()


def test_keys_can_be_sorted_by_wandb(logged):
    _, runs = logged
    keys = {key for run in runs.values() for key in run.summary}
    named = [key for key in keys if key.startswith(("test_accuracy/", "risk/", "train/", "val/"))]
    assert len(named) > 15
    assert all(re.fullmatch(r"[a-z]\w*(/\w+)+", key) for key in named)


def test_charts_have_the_fields_of_wandb_plot(logged):
    folder, runs = logged
    sections = sections_of(make_workspace("team", "toy", read_results(folder)))
    panels = [p for s in sections.values() for p in s if p["viewType"] == "Vega2"]
    assert len(panels) > 6
    for panel in panels:
        (key,) = [
            a["value"] for args in values(panel, "args") for a in args if a["name"] == "tableKey"
        ]
        own = runs["audit"].config[f"_wandb.visualize.{key.removesuffix('_table')}"]["panel_config"]
        assert panel["config"]["panelDefId"] == own["panelDefId"]
        assert panel["config"]["fieldSettings"] == own["fieldSettings"]
        assert panel["config"]["stringSettings"].keys() >= own["stringSettings"].keys()


def test_an_uploaded_view_reads_back_as_the_same(logged):
    view = make_workspace("team", "toy", read_results(logged[0]))
    again = internal.WorkspaceViewspec.model_validate(spec_of(view))
    model = view._to_model().model_copy(update={"spec": again})
    assert spec_of(Workspace._from_model(model)) == spec_of(view)


def test_only_the_runs_of_the_experiment_are_shown(logged):
    folder, runs = logged
    results = read_results(folder)
    (runset,) = spec_of(make_workspace("team", "toy", results))["section"]["runSets"]
    (rule,) = runset["filters"]["filters"]
    assert (rule["key"], rule["op"]) == ({"section": "config", "name": "id"}, "=")
    assert {run.config["id"] for run in runs.values()} == {rule["value"]}
    other = results._replace(experiment=results.experiment._replace(id="00000123"))
    (runset_of_other,) = spec_of(make_workspace("team", "toy", other))["section"]["runSets"]
    # the same options, but another experiment
    assert runset_of_other["filters"]["filters"][0]["value"] == "00000123"
    assert runset["grouping"] == [{"section": "run", "name": "jobType"}]
    elsewhere = make_workspace("team", "it's", results._replace(experiment=None))
    (runset,) = spec_of(elsewhere)["section"]["runSets"]
    (rule,) = runset["filters"]["filters"]
    assert rule["key"] == {"section": "run", "name": "name"}  # W&B's name of a run's id
    assert rule["value"] == f"{results.inputs[:16]}-audit"


@pytest.fixture
def service(monkeypatch):
    """Views by name, in place of W&B."""
    views = {}

    def upsert(view):
        views[view.name] = view.model_copy(update={"id": view.id or f"id-{len(views)}"})
        return {"upsertView": {"view": {"name": view.name, "id": views[view.name].id}}}

    def find(entity, project, name):
        if not views:
            raise ValueError("Workspace not found")
        return views[f"nw-{name.removeprefix('nw-').removesuffix('-v')}-v"]

    monkeypatch.setattr(internal, "upsert_view2", upsert)
    monkeypatch.setattr(internal.View, "from_name", find)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.example")
    monkeypatch.setattr(wandb, "Api", lambda: None)
    return views


def test_there_is_one_view_however_often_it_is_saved(logged, service, tmp_path):
    results = read_results(logged[0])
    url = save_view(tmp_path / "toy", "team", results)
    assert url.startswith("https://wandb.example/team/bitleak?nw=")
    ((name, before),) = service.items()
    assert before.display_name == "toy"
    fewer = results._replace(tables=results.tables[:1])
    assert save_view(tmp_path / "toy", "team", fewer) == url
    assert list(service) == [name]
    assert service[name].id == before.id
    (findings,) = (
        s for s in service[name].spec.section.panel_bank_config.sections if s.name == "Findings"
    )
    assert len(findings.panels) == 1


def test_a_view_that_was_deleted_is_an_error_with_a_way_out(logged, service, tmp_path):
    (tmp_path / "wandb.url").write_text("https://wandb.example/team/bitleak?nw=gone\n")
    with pytest.raises(ValueError, match=r"wandb\.url names a view that is not found .*Delete it"):
        save_view(tmp_path, "team", read_results(logged[0]))


def test_the_command_saves_the_view_of_runs_that_were_synced(logged, service, monkeypatch, capsys):
    monkeypatch.setattr(workspace, "check_key", lambda mode: None)
    workspace.main([str(logged[0]), "--entity", "team"])
    assert "View: https://wandb.example/team/bitleak?nw=" in capsys.readouterr().out
    (logged[0] / "wandb.url").unlink()


def test_the_command_needs_an_audit_and_a_key(logged, own_wandb, tmp_path):
    with pytest.raises(SystemExit, match=r"workspace: No audit in .*none.*audit\.py --run_dir"):
        workspace.main([str(tmp_path / "none"), "--entity", "team"])
    with pytest.raises(SystemExit, match=r"workspace: .*needs an API key and found none"):
        workspace.main([str(logged[0]), "--entity", "team"])


@pytest.mark.parametrize("part", ["log_audit", "save_view"])
def test_a_failure_warns_and_costs_nothing(logged, monkeypatch, part):
    def fail(*_):
        raise ConnectionError("the network is down")

    for name in ("log_audit", "save_view"):
        monkeypatch.setattr(dashboard, name, fail if name == part else lambda *_: "team")
    with pytest.warns(
        UserWarning, match=r"W&B failed, the audit stands without it: .*network is down"
    ):
        assert publish(logged[0], "online", read_results(logged[0])) is None


def test_a_view_is_only_saved_online(logged, monkeypatch):
    monkeypatch.setattr(dashboard, "log_audit", lambda *_: "team")
    monkeypatch.setattr(dashboard, "save_view", lambda folder, entity, _: f"{folder.name} {entity}")
    folder, results = logged[0], read_results(logged[0])
    assert publish(folder, "offline", results) is None
    assert publish(folder, "online", results) == "it's team"
