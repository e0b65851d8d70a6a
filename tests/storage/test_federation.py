import json

from storage.federation import describe_left_out
from storage.names import fleet_names
from storage.run_folder import RunFolder


def test_clients_that_were_left_out_are_counted_by_model(tmp_path):
    run, names = RunFolder(tmp_path), fleet_names(4, 0)
    records = [{"left_out": {"3": [1], "7": [0, 1]}}, {"left_out": {}}, {"kept": {}}]
    for name, record in zip(names, records, strict=False):  # the last has none
        run.model(name).mkdir(parents=True)
        run.record(name, "full").write_text(json.dumps(record))
    assert describe_left_out(run, names) == [
        "shadow-000 left out uploads that were not finite: client 0 in 1 round, client 1 in 2 "
        "rounds. Lower `--model.lr` if there are many."
    ]
