import contextlib
import hashlib
import json
import os
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sightline.__main__ import main
from sightline.data import open_dataset
from sightline.errors import UserError
from sightline.gc.config import GcConfig
from sightline.gc.layout import STEPS
from sightline.gc.run import Collection
from sightline.promote.champion import ChampionStore
from sightline.promote.config import RollbackConfig, RollbackUris
from sightline.promote.rollback import run as roll_back
from sightline.steps import PIPELINE_STEPS
from sightline.storage import Entry, StorageUnavailableError, join_uri, open_storage
from sightline.storage.local import LocalStorage


def name_of(uri: str) -> str:
    return uri.rsplit("/", 1)[1]


def shards_of(uri: str) -> set[str]:
    return {shard["name"] for shard in open_dataset(uri).manifest["shards"]}


def read_all(uri: str) -> list[bytes]:
    return list(open_dataset(uri).iter_bytes())


def removed_names(found: dict[str, Any]) -> set[str]:
    return {entry["name"] for entry in found["removed"]}


def test_steps_of_a_run_are_those_of_the_pipeline():
    assert {step.name for step in PIPELINE_STEPS} == set(STEPS)


def test_dry_run_lists_sizes_and_reasons_and_changes_nothing(root: Any, capsys: Any):
    unneeded = root.dataset(b"one")
    root.run("old", unneeded)
    before = root.held()
    sizes = {entry.key: entry.size_bytes for entry in root.storage.list()}
    found = root.gc(delete=False)
    assert root.held() == before
    assert not found["deleted"]
    assert removed_names(found) == {
        "runs/old",
        f"datasets/{name_of(unneeded)}",
        "datasets/shards",
    }
    assert (found["files"], found["size_bytes"]) == (len(before), sum(sizes.values()))
    run = next(entry for entry in found["removed"] if entry["name"] == "runs/old")
    assert run["size_bytes"] == sum(size for key, size in sizes.items() if "runs/" in key)
    written = capsys.readouterr().out
    assert f"gc: datasets/{name_of(unneeded)}: " in written
    assert "no champion and no kept run names it" in written
    assert "this was a dry run, --delete removes them" in written


def test_what_the_dry_run_lists_is_what_delete_removes(root: Any):
    root.run("old", root.dataset(b"one"))
    root.promote("v1", root.dataset(b"two"))
    dry = root.gc(delete=False)
    wet = root.gc()
    assert wet["removed"] == dry["removed"] != []
    assert wet["stays"] == dry["stays"]
    assert root.gc()["removed"] == []


def test_recent_runs_and_their_data_sets_stay(root: Any):
    dataset = root.dataset(b"one")
    root.run("recent", dataset)
    before = root.held()
    assert root.gc(days_later=29)["removed"] == []
    assert root.held() == before
    assert root.gc(days_later=31)["files"] == len(before)
    assert root.held() == set()


def test_a_training_that_was_killed_keeps_its_data_set_until_it_is_old(root: Any):
    dataset = root.dataset(b"one")
    root.begin_training("killed/pretrain", dataset)
    before = root.held()
    assert root.gc(days_later=29)["removed"] == []
    assert root.held() == before
    root.gc(days_later=31)
    assert root.held() == set()


@pytest.mark.parametrize(
    "place",
    ["first/pretrain-b", "first/seeds/1", "a b/pretrain", "pretrain-b"],
)
def test_steps_under_names_of_the_users_own_keep_what_they_name(root: Any, place: str):
    dataset, other, unneeded = (root.dataset(content) for content in (b"one", b"two", b"three"))
    root.run("named", other)
    root.run("unneeded", unneeded)
    named = join_uri(root.uri, "runs/named/prepare")
    root.step_at(place, "pretrain", {}, dataset_uri=dataset, encoder_uri=named)
    before = root.held(f"runs/{place}/")
    found = root.gc(keep_runs=0)
    assert root.held(f"runs/{place}/") == before != set()
    assert read_all(dataset) == [b"one"]
    assert read_all(other) == [b"two"]
    assert f"datasets/{name_of(unneeded)}" in removed_names(found)


@pytest.mark.parametrize("name", ["runs", "models", "datasets"])
def test_a_root_may_be_named_as_one_of_its_folders(name: str, folder: Any, tmp_path: Path):
    root = type(folder)(str(tmp_path / name))
    datasets = [root.dataset(content) for content in (b"one", b"two", b"three")]
    source = root.step("source", "finetune", {}, dataset_uri=datasets[0])
    encoder = root.step("encoder", "pretrain", {}, dataset_uri=datasets[1])
    root.promote("v1", datasets[2], source_uri=source, report_uri=source)
    root.age("", days=100)
    root.step("today", "finetune", {}, encoder_uri=encoder)
    before = root.held()
    assert root.gc(days_later=0)["removed"] == []
    assert root.held() == before


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_run_that_was_named_from_inside_or_through_a_link_stays(
    folder: Any, tmp_path: Path, scheme: str
):
    datasets = [folder.dataset(content) for content in (b"one", b"two")]
    folder.step("near", "pretrain", {}, dataset_uri=datasets[0])
    far = folder.step("far", "pretrain", {}, dataset_uri=datasets[1])
    link = tmp_path / "best"
    link.symlink_to(far)
    folder.age("", days=100)
    folder.step("today", "finetune", {}, encoder_uri="near/pretrain")
    folder.step("today", "evaluate", {}, encoder_uri=f"{scheme}{link}")
    before = folder.held()
    assert folder.gc(days_later=0)["removed"] == []
    assert folder.held() == before


def test_a_model_version_that_a_recent_run_names_stays(root: Any):
    dataset = root.dataset(b"one")
    root.promote("v1", dataset)
    store = root.promote("v2", dataset)
    roll_back(RollbackUris(models_uri=join_uri(root.uri, "models")), RollbackConfig())
    run = root.step("recent", "evaluate", {}, encoder_uri=f"{store.model_uri('v2')}/encoder.pth")
    root.gc(keep_runs=1)
    assert "v2" in {key.split("/")[4] for key in root.held("models/") if "/versions/" in key}
    assert open_storage(run).exists("artifacts.json")
    root.gc()
    assert "v2" not in {key.split("/")[4] for key in root.held("models/") if "/versions/" in key}


def test_training_under_way_under_a_name_of_the_users_own_keeps_its_data_set(root: Any):
    dataset = root.dataset(b"one")
    root.begin_training("first/pretrain-b", dataset)
    before = root.held()
    assert root.gc()["removed"] == []
    assert root.held() == before


@pytest.mark.parametrize("step", STEPS)
def test_step_that_has_only_begun_keeps_what_it_was_given(folder: Any, step: str):
    datasets = [folder.dataset(content) for content in (b"one", b"two")]
    encoder = folder.step("encoder", "pretrain", {}, dataset_uri=datasets[0])
    folder.age("", days=100)
    before = folder.held()
    with folder.begun(f"new/{step}", step, dataset_uri=datasets[1], encoder_uri=encoder):
        assert folder.gc(days_later=29)["removed"] == []
        assert folder.held() >= before
    assert folder.held() == before
    folder.gc(days_later=0)
    assert folder.held() == set()


def test_steps_below_those_of_a_run_count_for_it(folder: Any):
    dataset = folder.dataset(b"one")
    folder.step_at("kept/finetune/lr3", "finetune", {}, dataset_uri=dataset)
    folder.step_at("kept/finetune/lr4", "finetune", {}, dataset_uri=dataset)
    before = folder.held()
    assert folder.gc(keep_runs=1)["removed"] == []
    assert folder.held() == before
    folder.storage.write_bytes(
        "runs/kept/finetune/lr5/.begun-0123456789ab.json", b'{"step": "finetune", "uris": {}}'
    )
    folder.gc(keep_runs=1)
    assert folder.held() == set()


def test_result_may_hold_files_that_are_named_as_records(folder: Any):
    uri = folder.run("kept")
    Path(uri, "tool").mkdir()
    Path(uri, "tool", "metrics.json").write_text("{}")
    before = folder.held()
    assert folder.gc(keep_runs=1)["removed"] == []
    assert folder.held() == before


def test_steps_below_those_of_a_run_stay_and_go_with_it(root: Any):
    dataset = root.dataset(b"one")
    root.step_at("first/pretrain/seed-1", "pretrain", {}, dataset_uri=dataset)
    before = root.held()
    assert root.gc(days_later=29)["removed"] == []
    assert root.held() == before
    root.gc(days_later=31)
    assert root.held() == set()


@pytest.mark.parametrize("record", ["config.json", "artifacts.json", ".begun-x.json"])
@pytest.mark.parametrize("content", [b"# not JSON", b'{"step": "cook", "uris": 1}', b"[1]"])
def test_records_of_other_tools_are_no_hindrance(root: Any, record: str, content: bytes):
    root.run("old", root.dataset(b"one"))
    root.storage.write_bytes(f"runs/others/{record}", content)
    root.gc()
    assert root.held() == {f"runs/others/{record}"}


def test_newest_runs_stay_however_old_they_are(folder: Any):
    datasets = [folder.dataset(str(number).encode()) for number in range(4)]
    for number, dataset in enumerate(datasets):
        folder.run(f"run-{number}", dataset)
        # The names say nothing about the age: run-3 is the oldest.
        folder.age(f"runs/run-{number}/", days=number)
    folder.gc(keep_runs=2)
    assert folder.names("runs") == {"run-0", "run-1"}
    assert folder.names("datasets") == {name_of(uri) for uri in datasets[:2]} | {"shards"}
    assert [read_all(uri) for uri in datasets[:2]] == [[b"0"], [b"1"]]
    assert folder.names("datasets", 2) >= shards_of(datasets[0]) | shards_of(datasets[1])
    assert not folder.names("datasets", 2) & {f"shards/{b}.tar" for b in "23"}


def test_killed_runs_do_not_push_out_finished_ones(folder: Any):
    for number in range(2):
        folder.run(f"finished-{number}", folder.dataset(b"%d" % number))
    folder.age("runs/", days=100)
    # One was killed in its first step, the other in its second: both are newer.
    folder.run("killed-later", folder.dataset(b"2"))
    for left in ("killed/prepare/config.json", "killed-later/pretrain/checkpoints/step-7.pt"):
        folder.storage.write_bytes(f"runs/{left}", b'{"step": "prepare", "uris": {}}')
    folder.age("runs/killed", days=90)
    folder.gc(days_later=0, keep_runs=2)
    assert folder.names("runs") == {"finished-0", "finished-1"}


def test_killed_run_that_is_recent_stays_beside_those_that_are_counted(folder: Any):
    for number in range(2):
        folder.run(f"finished-{number}", folder.dataset(b"%d" % number))
        folder.age(f"runs/finished-{number}/", days=100 + number)
    folder.storage.write_bytes("runs/killed/prepare/config.json", b'{"step": "prepare"}')
    folder.gc(days_later=29, keep_runs=1)
    assert folder.names("runs") == {"finished-0", "killed"}


def test_age_of_a_run_is_that_of_its_newest_file(folder: Any):
    folder.run("long", folder.dataset(b"one"))
    folder.step("long", "pretrain", {})
    folder.age("", days=100)
    newest = Path(folder.uri, "runs/long/pretrain/metrics.json")
    newest.touch()
    before = folder.held()
    assert folder.gc(days_later=0)["removed"] == []
    assert folder.held() == before


def test_any_step_of_a_kept_run_keeps_the_data_set_and_the_run_it_names(folder: Any):
    dataset, other = folder.dataset(b"one"), folder.dataset(b"two")
    encoder = folder.step("encoder", "pretrain", {}, dataset_uri=other)
    folder.age("", days=100)
    # Through another mount, or from another working directory: the names are what counts.
    folder.step(
        "today",
        "finetune",
        {},
        dataset_uri=f"elsewhere/datasets/{name_of(dataset)}/",
        encoder_uri=f"../out/runs/encoder/{name_of(encoder)}",
    )
    folder.gc(days_later=0)
    assert folder.names("runs") == {"encoder", "today"}
    assert read_all(dataset) == [b"one"]
    assert read_all(other) == [b"two"]


@pytest.mark.parametrize(
    "content", [b"", b'{"step": "finet', b"[1]", b'{"uris": 1}', b"[" * 100_000, b"\0"]
)
@pytest.mark.parametrize("place", ["recent/finetune", "first/seeds/1"])
def test_damaged_word_of_a_step_under_way_stops_everything(folder: Any, place: str, content: bytes):
    folder.dataset(b"one")
    folder.run("old")
    folder.storage.write_bytes(f"runs/{place}/.begun-0123456789ab.json", content)
    before = folder.held()
    with pytest.raises(UserError, match=r"\.begun-0123456789ab\.json is gone or damaged"):
        folder.gc(days_later=29)
    assert folder.held() == before


def test_addresses_that_are_no_paths_do_no_harm(root: Any):
    content = json.dumps({"step": "pretrain", "uris": {"a": "x\0y", "b": "\ud800"}}).encode()
    root.storage.write_bytes("runs/recent/pretrain/.begun-0123456789ab.json", content)
    root.run("old")
    root.gc(days_later=29)
    assert "recent" in root.names("runs")


@pytest.mark.parametrize("files", ["[]", '["a.txt"]', "{}", '{"a": "b"}', '{"config.json": {}}'])
@pytest.mark.parametrize("place", ["wandb", "old/prepare/mlruns"])
def test_lists_of_other_tools_are_no_hindrance(root: Any, place: str, files: str):
    root.run("old", root.dataset(b"one"))
    key = f"runs/{place}/artifacts.json"
    root.storage.write_bytes(key, b'{"files": %s}' % files.encode())
    root.gc()
    assert root.held() <= {key}


def test_data_sets_are_found_however_deep_they_are_named(root: Any):
    dataset, other = root.dataset(b"one"), root.dataset(b"two")
    root.step("recent", "prepare", {"datasets": {"images": [dataset, {"labels": other}]}})
    before = root.held()
    assert root.gc(keep_runs=1)["removed"] == []
    assert root.held() == before


def test_records_that_a_run_stored_beside_those_of_a_killed_one_are_the_ones_that_count(root: Any):
    dataset, other = root.dataset(b"one"), root.dataset(b"two")
    # What a killed run left under the names of its records is never written over.
    for name in ("config.json", "metrics.json"):
        left = {"uris": {}, "datasets": {"0": other}}
        root.storage.write_bytes(f"runs/recent/prepare/{name}", json.dumps(left).encode())
    root.run("recent", dataset)
    found = root.gc(keep_runs=1)
    assert removed_names(found) == {f"datasets/{name_of(other)}", "datasets/shards"}
    assert read_all(dataset) == [b"one"]


def test_rollback_still_works_down_to_the_first_champion(root: Any):
    datasets = [root.dataset(bytes([number])) for number in range(3)]
    for number, dataset in enumerate(datasets):
        root.promote(f"v{number}", dataset)
    unneeded = root.dataset(b"unneeded")
    root.gc()
    assert name_of(unneeded) not in root.names("datasets")
    uris = RollbackUris(models_uri=join_uri(root.uri, "models"))
    assert roll_back(uris, RollbackConfig())["to"] == "v1"
    assert roll_back(uris, RollbackConfig())["to"] == "v0"
    assert [read_all(uri) for uri in datasets] == [[bytes([number])] for number in range(3)]


def test_former_champion_can_come_back_for_a_while_after_a_rollback(folder: Any):
    folder.promote("v1", folder.dataset(b"one"))
    dataset = folder.dataset(b"two")
    folder.promote("v2", dataset)
    folder.age("", days=100)
    roll_back(RollbackUris(models_uri=join_uri(folder.uri, "models")), RollbackConfig())
    before = folder.held()
    assert folder.gc(days_later=29)["removed"] == []
    assert folder.held() == before
    folder.gc(days_later=31)
    assert not Path(dataset).exists()


def test_version_that_was_rolled_away_goes_with_its_record_and_data_set(root: Any):
    first, second = root.dataset(b"first"), root.dataset(b"second")
    root.promote("v1", first)
    root.promote("v2", second)
    uris = RollbackUris(models_uri=join_uri(root.uri, "models"))
    roll_back(uris, RollbackConfig())
    assert root.gc(days_later=29)["removed"] == []
    root.gc()
    place = "classification/default"
    assert root.names("models", 4) == {f"{place}/champion.json", f"{place}/versions/v1"}
    assert root.names("datasets") == {name_of(first), "shards"}


def test_champion_keeps_the_run_and_report_that_its_record_points_to(root: Any):
    dataset = root.dataset(b"one")
    root.run("proof", dataset)
    report = root.step("proof", "report", {})
    root.run("other", dataset)
    root.promote("v1", "", report_uri=report, source_uri="")
    root.gc()
    assert root.names("runs") == {"proof"}
    assert read_all(dataset) == [b"one"]


def test_every_name_under_models_is_a_champion_of_its_own(root: Any):
    one, two = root.dataset(b"one"), root.dataset(b"two")
    root.promote("v1", one, name="versions")
    root.promote("v1", two, name="history")
    before = root.held()
    assert root.gc()["removed"] == []
    assert root.held() == before


@pytest.mark.parametrize("place", ["team-a", "team/of/ours"])
def test_champion_in_a_folder_of_the_users_own_keeps_all_it_needs(root: Any, place: str):
    dataset = root.dataset(b"one")
    run = root.step("source", "finetune", {}, dataset_uri=dataset)
    below = type(root)(join_uri(root.uri, "models", place))
    store = ChampionStore(below.uri, "classification", "default")
    assert store.move({"version": "v1", "dataset_uri": dataset, "source_uri": run}, None)
    before = root.held()
    assert root.gc()["removed"] == []
    assert root.held() == before


def test_champions_data_set_outside_the_root_is_no_hindrance_and_is_not_touched(root: Any):
    elsewhere = type(root)(f"{root.uri}-elsewhere")
    dataset = elsewhere.dataset(b"one")
    root.run("old", root.dataset(b"two"))
    root.promote("v1", dataset)
    before = elsewhere.held()
    root.gc()
    assert elsewhere.held() == before
    assert root.names("runs") == root.names("datasets") == set()
    assert root.names("models", 2) == {"classification/default"}


def test_two_roots_do_not_touch_each_other(root: Any):
    # The other's name begins with the first one's, as a prefix does.
    other = type(root)(f"{root.uri}2")
    for place in (root, other):
        place.run("old", place.dataset(b"one"))
    before = other.held()
    root.gc()
    assert root.held() == set()
    assert other.held() == before


def test_versions_share_shards_and_the_last_one_takes_them_along(root: Any):
    _, labels = root.datasets_of_shared_shards([b"a", b"b", b"c"], [b"b"])
    root.promote("v1", labels)
    root.gc()
    assert root.names("datasets", 2) == {
        f"{name_of(labels)}/samples.jsonl",
        f"{name_of(labels)}/manifest.json",
        *shards_of(labels),
    }
    assert read_all(labels) == [b"b"]


def test_nothing_within_the_grace_period_is_touched(root: Any):
    root.dataset(b"one")
    version = next(name for name in root.names("datasets") if name != "shards")
    root.storage.delete(f"datasets/{version}/manifest.json")
    root.storage.write_bytes(f"datasets/shards/{'0' * 64}.tar", b"of a prepare under way")
    before = root.held()
    for delete in (False, True):
        assert root.gc(days_later=0.9, keep_days=0, delete=delete)["removed"] == []
    assert root.held() == before
    root.gc(days_later=1.1)
    assert root.held() == set()


def test_grace_period_holds_for_runs_also_where_nothing_is_recent(root: Any):
    root.run("now", root.dataset(b"one"))
    root.promote("v1")
    before = root.held()
    assert root.gc(days_later=0.9, keep_days=0)["removed"] == []
    assert root.held() == before
    assert removed_names(root.gc(days_later=1.1, keep_days=0)) >= {"runs/now", "datasets/shards"}


def test_data_set_that_only_a_step_outside_the_root_may_use_counts_as_recent(root: Any):
    dataset = root.dataset(b"one")
    assert root.gc(days_later=29)["removed"] == []
    assert read_all(dataset) == [b"one"]


def test_unfinished_writes_go_after_the_grace_period(folder: Any):
    folder.run("old", folder.dataset(b"one"))
    partial = Path(folder.uri, "datasets", "shards", ".partial-x")
    partial.write_bytes(b"half")
    foreign = Path(folder.uri, "datasets", ".partial-of-somebody")
    foreign.write_bytes(b"theirs")
    assert folder.gc(days_later=0.9)["removed"] == []
    listed = folder.gc(days_later=1.1, delete=False)["removed"]
    assert [(entry["name"], entry["size_bytes"]) for entry in listed] == [("datasets", 4)]
    assert partial.exists()
    folder.gc(days_later=1.1)
    assert not partial.exists()
    assert foreign.exists()


def test_unfinished_uploads_of_ours_go_from_a_bucket(bucket: Any, s3_server: Any):
    bucket.run("old", bucket.dataset(b"one"))
    client, name = s3_server.client(), bucket.uri.split("/")[2]
    mine = f"out/datasets/shards/{'0' * 64}.tar"
    for key in (mine, "out/datasets/theirs.bin"):
        client.create_multipart_upload(Bucket=name, Key=key)

    def uploads() -> list[str]:
        found = client.list_multipart_uploads(Bucket=name).get("Uploads", [])
        return sorted(upload["Key"] for upload in found)

    assert uploads() == [mine, "out/datasets/theirs.bin"]
    bucket.gc(days_later=1.1)
    assert uploads() == ["out/datasets/theirs.bin"]
    for upload in client.list_multipart_uploads(Bucket=name)["Uploads"]:
        client.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["notes.txt"],
        # A usual machine-learning project: every folder has our names, and nothing is ours.
        [
            "datasets/cats/1.jpg",
            "datasets/shards/cats.tar",
            "datasets/manifest.json",
            "runs/exp1/events.out",
            "runs/exp1/report/report.pdf",
            "runs/exp1/evaluate/config.json",
            "models/classification/resnet.pth",
            "models/classification/resnet/versions/1/model.pt",
        ],
    ],
    ids=["empty", "notes", "another project"],
)
def test_mistyped_root_is_refused(root: Any, keys: list[str]):
    for key in keys:
        root.storage.write_bytes(key, b'{"lr": 0.1}')
    with pytest.raises(UserError, match="holds no data sets, runs or champions of Sightline"):
        root.gc()
    assert root.held() == set(keys)


@pytest.mark.parametrize("below", ["datasets", "runs", "models"])
def test_folder_below_the_root_is_refused(folder: Any, below: str):
    folder.run("old", folder.dataset(b"one"))
    folder.promote("v1")
    before = folder.held()
    with pytest.raises(UserError, match="give the folder that runs were given as out"):
        type(folder)(f"{folder.uri}/{below}").gc()
    assert folder.held() == before


def test_what_is_not_ours_stays_also_beside_what_goes(root: Any, capsys: Any):
    dataset = root.dataset(b"one")
    root.run("old", dataset)
    foreign = {
        "notes.txt",
        "datasets/readme.txt",
        f"datasets/{name_of(dataset)}/notes.txt",
        "datasets/shards/mine.tar",
        "runs/old/notes.txt",
        "runs/theirs/report/report.pdf",
        "models/classification/unfinished/versions/v1/classifier.pth",
        "models/other/thing.bin",
    }
    for key in foreign:
        root.storage.write_bytes(key, b"mine")
    root.gc()
    assert root.held() == foreign
    assert "left alone: 2 files of unknown use, such as runs/" in capsys.readouterr().out


def damage(root: Any, what: str) -> str:
    dataset = root.dataset(b"one")
    root.promote("v1", dataset)
    root.promote("v2", dataset)
    root.run("recent", dataset)
    place = "models/classification/default/"
    champion = json.loads(root.storage.read_bytes(f"{place}champion.json"))
    manifest = f"datasets/{name_of(dataset)}/manifest.json"
    record = f"{place}{champion['previous']['record']}"
    changes: dict[str, tuple[str, bytes | None]] = {
        "torn champion": (f"{place}champion.json", b'{"version": '),
        "champion without version": (f"{place}champion.json", b"{}"),
        "champion of odd version": (f"{place}champion.json", b'{"version": "../../x"}'),
        "champion of odd predecessor": (
            f"{place}champion.json",
            b'{"version": "v1", "previous": "v0"}',
        ),
        "champion gone": (f"{place}champion.json", None),
        "history gone": (record, None),
        "history altered": (record, b"{}"),
        "torn manifest": (manifest, b"{"),
        "altered manifest": (
            manifest,
            root.storage.read_bytes(manifest).replace(b'"groups": 1', b'"groups": 2'),
        ),
        "manifest of the future": (manifest, b'{"format_version": 99}'),
        "torn run": ("runs/recent/prepare/config.json", b"{"),
        "run of another shape": ("runs/recent/prepare/config.json", b'{"uris": 3}'),
        "run without its data sets": ("runs/recent/prepare/metrics.json", b"{}"),
        "run that lost a file": ("runs/recent/prepare/metrics.json", None),
        "torn list of artifacts": ("runs/recent/prepare/artifacts.json", b"{"),
    }
    key, content = changes[what]
    if content is None:
        root.storage.delete(key)
    else:
        assert root.storage.read_bytes(key) != content
        root.storage.write_bytes(key, content)
    return key


@pytest.mark.parametrize(
    "what",
    [
        "torn champion",
        "champion without version",
        "champion of odd version",
        "champion of odd predecessor",
        "champion gone",
        "history gone",
        "history altered",
        "torn manifest",
        "altered manifest",
        "manifest of the future",
        "torn run",
        "run of another shape",
        "run without its data sets",
        "run that lost a file",
        "torn list of artifacts",
    ],
)
def test_damaged_record_stops_everything(folder: Any, what: str):
    folder.run("old", folder.dataset(b"unneeded"))
    folder.age("", days=100)
    damage(folder, what)
    before = folder.held()
    with pytest.raises(UserError):
        folder.gc(days_later=2)
    assert folder.held() == before


def test_damage_is_named_with_the_way_out(folder: Any):
    folder.run("old", folder.dataset(b"unneeded"))
    key = damage(folder, "torn manifest")
    with pytest.raises(UserError, match="restore it, or remove that folder; nothing was") as told:
        folder.gc()
    assert key in str(told.value)


def test_damage_that_is_found_on_the_way_does_not_claim_that_nothing_was_deleted(
    folder: Any, monkeypatch: pytest.MonkeyPatch
):
    dataset = folder.dataset(b"one")
    folder.run("old")
    folder.age("", days=100)
    manifest = f"datasets/{name_of(dataset)}/manifest.json"
    while_deleting(
        monkeypatch, "runs/old", lambda: folder.storage.write_bytes(manifest, b"damaged")
    )
    with pytest.raises(UserError, match="remove that folder; some is deleted already"):
        folder.gc(days_later=0)
    assert folder.names("runs") == set()


class Stopped(Exception):
    """A kill."""


@pytest.mark.parametrize("stop_after", range(0, 24))
def test_interrupted_anywhere_leaves_no_pointer_to_nothing_and_the_next_run_finishes(
    folder: Any, monkeypatch: pytest.MonkeyPatch, stop_after: int
):
    kept = folder.dataset(b"kept", b"too")
    folder.promote("v1", kept)
    folder.promote("v2", kept)
    roll_back(RollbackUris(models_uri=join_uri(folder.uri, "models")), RollbackConfig())
    folder.run("old", *folder.datasets_of_shared_shards([b"a", b"b"], [b"b"]))
    folder.step("old", "report", {})
    deletions = []
    delete = LocalStorage.delete

    def delete_or_stop(storage: LocalStorage, key: str) -> None:
        if len(deletions) >= stop_after:
            raise Stopped
        present = storage.exists(key)
        delete(storage, key)
        if present:
            deletions.append(key)

    monkeypatch.setattr(LocalStorage, "delete", delete_or_stop)
    with contextlib.suppress(Stopped):
        folder.gc()
    monkeypatch.undo()
    for key in folder.held():
        if key.endswith("manifest.json"):
            uri = join_uri(folder.uri, key.rpartition("/")[0])
            assert len(read_all(uri)) == len(open_dataset(uri))
        if key.endswith("artifacts.json"):
            listed = json.loads(folder.storage.read_bytes(key))["files"]
            here = key.rpartition("/")[0]
            assert {f"{here}/{name}" for name in listed} <= folder.held()
        if "/history/" in key:
            version = json.loads(folder.storage.read_bytes(key))["version"]
            model = f"models/classification/default/versions/{version}/artifacts.json"
            assert model in folder.held()
    folder.gc()
    place = "classification/default"
    assert folder.names("models", 4) == {f"{place}/champion.json", f"{place}/versions/v1"}
    assert folder.names("runs") == set()
    assert folder.names("datasets") == {name_of(kept), "shards"}
    assert folder.names("datasets", 2) & shards_of(kept) == shards_of(kept)
    assert len(folder.held("datasets/shards/")) == 1
    assert read_all(kept)


def test_several_at_once_do_no_harm(root: Any):
    union, labels = root.datasets_of_shared_shards([b"a", b"b", b"c"], [b"b"])
    root.promote("v1", labels)
    root.run("old", union)
    root.step("old", "report", {})
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: root.gc(), range(3)))
    assert root.names("runs") == set()
    assert root.names("datasets") == {name_of(labels), "shards"}
    assert len(root.held("datasets/shards/")) == 1
    assert read_all(labels) == [b"b"]


def test_store_that_stops_answering_is_no_reason_to_delete(
    folder: Any, monkeypatch: pytest.MonkeyPatch
):
    dataset = folder.dataset(b"one")
    folder.run("recent", dataset)
    before = folder.held()

    def fail(storage: LocalStorage, key: str, *given: Any) -> bytes:
        raise StorageUnavailableError("no answer")

    monkeypatch.setattr(LocalStorage, "read_bytes", fail)
    with pytest.raises(StorageUnavailableError):
        folder.gc(days_later=2)
    monkeypatch.undo()
    assert folder.held() == before


def while_deleting(monkeypatch: pytest.MonkeyPatch, begins: str, act: Any) -> None:
    """Let `act` happen right before the first key that begins so is deleted."""
    delete = LocalStorage.delete

    def act_and_delete(storage: LocalStorage, key: str) -> None:
        if join_uri(storage.uri, key).find(begins) >= 0:
            monkeypatch.setattr(LocalStorage, "delete", delete)
            act()
        delete(storage, key)

    monkeypatch.setattr(LocalStorage, "delete", act_and_delete)


def test_version_that_becomes_champion_while_a_run_is_removed_stays(
    folder: Any, monkeypatch: pytest.MonkeyPatch
):
    dataset = folder.dataset(b"one")
    folder.promote("v1", folder.dataset(b"two"))
    folder.promote("v2", dataset)
    uris = RollbackUris(models_uri=join_uri(folder.uri, "models"))
    roll_back(uris, RollbackConfig())
    folder.run("old")
    folder.age("", days=100)
    while_deleting(monkeypatch, "runs/old", lambda: folder.promote("v2", dataset))
    folder.gc(days_later=0)
    assert folder.names("runs") == set()
    assert read_all(dataset) == [b"one"]
    assert "classification/default/versions/v2" in folder.names("models", 4)
    assert roll_back(uris, RollbackConfig())["to"] == "v1"


def test_version_that_becomes_champion_while_models_are_removed_stays(
    folder: Any, monkeypatch: pytest.MonkeyPatch
):
    folder.promote("v1")
    folder.promote("v2")
    uris = RollbackUris(models_uri=join_uri(folder.uri, "models"))
    roll_back(uris, RollbackConfig())
    folder.age("", days=100)
    while_deleting(monkeypatch, "/history/", lambda: folder.promote("v2"))
    folder.gc(days_later=0)
    assert "classification/default/versions/v2" in folder.names("models", 4)
    assert roll_back(uris, RollbackConfig())["to"] == "v1"


def test_list_of_samples_that_is_written_again_while_its_manifest_goes_stays(
    folder: Any, monkeypatch: pytest.MonkeyPatch
):
    place = f"datasets/{name_of(folder.dataset(b'one'))}"
    folder.promote("v1")
    content = folder.storage.read_bytes(f"{place}/samples.jsonl")
    folder.age("", days=100)

    def upload() -> None:
        folder.storage.write_bytes(f"{place}/samples.jsonl", content)

    while_deleting(monkeypatch, "manifest.json", upload)
    folder.gc(days_later=0)
    assert folder.held("datasets/") == {f"{place}/samples.jsonl"}


def test_data_set_that_a_new_run_names_while_others_go_stays(
    folder: Any, monkeypatch: pytest.MonkeyPatch
):
    dataset = folder.dataset(b"one")
    folder.run("old")
    folder.age("", days=100)
    while_deleting(monkeypatch, "runs/old", lambda: folder.run("new", dataset))
    folder.gc(days_later=0)
    assert folder.names("runs") == {"new"}
    assert read_all(dataset) == [b"one"]


@pytest.mark.parametrize("kind", ["runs", "datasets"])
def test_what_a_step_that_begins_on_the_way_was_given_stays(
    folder: Any, monkeypatch: pytest.MonkeyPatch, kind: str
):
    # Otherwise not that soon after the last look.
    monkeypatch.setattr(Collection, "_is_time_to_look", lambda self: self.config.delete)
    folder.run("a")
    encoder = folder.step("b", "pretrain", {})
    first, last = sorted((folder.dataset(b"one"), folder.dataset(b"two")), key=name_of)
    folder.age("", days=100)
    begins = {"runs": "runs/a", "datasets": name_of(first)}[kind]
    under_way = folder.begun("new/evaluate", "evaluate", dataset_uri=last, encoder_uri=encoder)
    while_deleting(monkeypatch, begins, under_way.__enter__)
    folder.gc(days_later=0)
    assert read_all(last) != []
    assert not Path(first).exists()
    assert (folder.names("runs") == {"b", "new"}) == (kind == "runs")


def test_version_that_is_prepared_again_while_others_go_stays(
    folder: Any, monkeypatch: pytest.MonkeyPatch
):
    again, other = sorted([folder.dataset(b"one"), folder.dataset(b"two")], key=name_of)[::-1]
    content = read_all(again)[0]
    folder.age("", days=100)
    while_deleting(monkeypatch, name_of(other), lambda: folder.dataset(content))
    found = folder.gc(days_later=0)
    assert f"datasets/{name_of(again)}" not in removed_names(found)
    assert folder.names("datasets") == {name_of(again), "shards"}
    assert read_all(again) == [content]


def test_shard_that_is_stored_again_after_it_was_listed_stays(
    folder: Any, monkeypatch: pytest.MonkeyPatch
):
    first, last = sorted(shards_of(folder.datasets_of_shared_shards([b"a", b"b"])[0]))
    content = folder.storage.read_bytes(f"datasets/{last}")
    folder.age("", days=100)
    monkeypatch.setattr(LocalStorage, "parallel_requests", 1)
    while_deleting(
        monkeypatch, first, lambda: folder.storage.write_bytes(f"datasets/{last}", content)
    )
    folder.gc(days_later=0)
    assert folder.held() == {f"datasets/{last}"}


def test_shard_that_a_new_version_names_while_others_go_stays(
    folder: Any, monkeypatch: pytest.MonkeyPatch
):
    [doomed] = folder.datasets_of_shared_shards([b"a", b"b"])
    folder.age("", days=100)
    added: list[str] = []

    def share() -> None:
        added.extend(folder.datasets_of_shared_shards([b"b"]))
        folder.age("datasets/shards/", days=100)

    while_deleting(monkeypatch, name_of(doomed), share)
    folder.gc(days_later=0)
    assert read_all(added[0]) == [b"b"]
    assert folder.held("datasets/shards/") == {f"datasets/{name}" for name in shards_of(added[0])}


@pytest.mark.parametrize("delete", [True, False])
@pytest.mark.parametrize(
    "key",
    [
        *("runs/latest", "runs/old/prepare/pictures/photos", "runs/old/prepare/one.jpg"),
        *("models/classification", "models/classification/default/champion.json"),
        *("datasets/current", "datasets/shards/x.tar"),
    ],
)
def test_link_stops_everything(folder: Any, tmp_path: Path, key: str, delete: bool):
    folder.run("old", folder.dataset(b"one"))
    folder.promote("v1")
    path = Path(folder.uri, key)
    if path.exists():  # it lies on another disk, say
        path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")  # for the others it leads nowhere
    before = folder.held()
    with pytest.raises(
        UserError, match=f"{key} is a link.*or remove the link; nothing was deleted"
    ):
        folder.gc(delete=delete)
    assert folder.held() == before


def test_links_elsewhere_are_no_hindrance(folder: Any):
    folder.run("old", folder.dataset(b"one"))
    for name, target in {"loop": "loop", "gone": "/mnt/not-there", "latest": "runs/old"}.items():
        Path(folder.uri, name).symlink_to(target)
    folder.gc()
    assert folder.held("runs/") | folder.held("datasets/") == set()


@pytest.mark.parametrize("area", ["datasets", "models"])
def test_area_of_another_root_is_refused(folder: Any, tmp_path: Path, area: str):
    other = type(folder)(str(tmp_path / "other"))
    other.promote("v1", other.dataset(b"theirs"))
    other.run("theirs")
    Path(folder.uri).mkdir()
    Path(folder.uri, area).symlink_to(Path(other.uri, area))
    folder.run("old")
    before = other.held() | folder.held()
    with pytest.raises(UserError, match=f"part of another root.*--root-uri {other.uri}; nothing"):
        folder.gc()
    assert other.held() | folder.held() == before


@pytest.mark.parametrize("area", ["models", "runs", "datasets"])
def test_area_whose_disk_is_away_stops_everything(folder: Any, area: str):
    folder.run("old") if area != "runs" else folder.dataset(b"one")
    before = folder.held()
    Path(folder.uri, area).symlink_to("/mnt/not-there")
    with pytest.raises(UserError, match=f"{area} is a link that leads to no folder now"):
        folder.gc()
    assert folder.held() == before


def test_area_that_lies_on_another_disk_is_cleared_there(folder: Any, tmp_path: Path):
    (tmp_path / "large-disk").mkdir()
    Path(folder.uri).mkdir()
    Path(folder.uri, "datasets").symlink_to(tmp_path / "large-disk")
    folder.run("old", folder.dataset(b"one"))
    folder.gc()
    assert folder.held() == set()


def test_removed_runs_leave_no_empty_folders(folder: Any):
    folder.run("old", folder.dataset(b"one"))
    folder.gc()
    left = {path.relative_to(folder.uri).as_posix() for path in Path(folder.uri).rglob("*")}
    assert left == {"datasets", "datasets/shards", "runs"}


def test_data_sets_of_format_1_are_understood(folder: Any):
    manifest: dict[str, Any] = {
        "format_version": 1,
        "kind": "images",
        "shards": [{"name": "shard-00000.tar", "count": 1, "bytes": 3, "sha256": "0" * 64}],
    }
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    place = f"datasets/{digest[:16]}"
    folder.storage.write_bytes(f"{place}/shard-00000.tar", b"tar")
    folder.storage.write_bytes(f"{place}/samples.jsonl", b"")
    folder.storage.write_bytes(
        f"{place}/manifest.json", json.dumps({**manifest, "digest": digest}).encode()
    )
    assert folder.gc(days_later=29)["removed"] == []
    assert removed_names(folder.gc()) == {place}
    assert folder.held() == set()


def test_store_without_times_is_never_old_enough(folder: Any, monkeypatch: pytest.MonkeyPatch):
    folder.run("old", folder.dataset(b"one"))
    before = folder.held()
    entries = LocalStorage.list
    monkeypatch.setattr(
        LocalStorage,
        "list",
        lambda storage, prefix="": (
            Entry(entry.key, entry.size_bytes) for entry in entries(storage, prefix)
        ),
    )
    assert folder.gc()["removed"] == []
    assert folder.held() == before


def test_command_is_a_dry_run_by_default(folder: Any, capsys: Any):
    folder.run("old", folder.dataset(b"one"))
    folder.age("", days=100)
    before = folder.held()
    assert main(["gc", "--root-uri", folder.uri, "--keep-runs", "0"]) == 0
    assert folder.held() == before
    assert "this was a dry run" in capsys.readouterr().out
    assert main(["gc", "--root-uri", folder.uri, "--delete"]) == 0
    assert folder.held() == before, "the newest five runs stay"
    assert main(["gc", "--root-uri", folder.uri, "--keep-runs", "0", "--delete"]) == 0
    assert folder.held() == set()
    assert GcConfig().keep_days == 30
    assert GcConfig().grace_hours == 24
    assert main(["gc", "--root-uri", folder.uri]) == 2


def test_empty_address_is_no_root(capsys: Any):
    assert main(["gc", "--root-uri", "", "--delete"]) == 2
    assert "root_uri: an address is needed, got an empty one" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "units", "most"), [("runs", 40, 40 * 40), ("shards", 120, 2400)])
def test_work_grows_with_the_units_and_not_with_their_square(
    folder: Any, monkeypatch: pytest.MonkeyPatch, kind: str, units: int, most: int
):
    for number in range(units):
        key = {
            "runs": f"runs/old-{number}/report/config.json",
            "shards": f"datasets/shards/{number:064x}.tar",
        }[kind]
        folder.storage.write_bytes(key, b'{"step": "report"}')
    looked_at: list[int] = []
    scan = os.scandir

    def count_and_scan(path: Any) -> Any:
        looked_at.append(sum(1 for _ in Path(path).iterdir()))
        return scan(path)

    monkeypatch.setattr("os.scandir", count_and_scan)
    folder.gc()
    assert folder.held() == set()
    assert sum(looked_at) < most


class Key(str):
    """A key whose life can be watched."""


def test_listing_of_many_objects_is_never_held_whole(folder: Any, monkeypatch: pytest.MonkeyPatch):
    folder.run("old", folder.dataset(b"one"))
    entries = LocalStorage.list
    old = time.time() - 1
    alive: weakref.WeakSet[Key] = weakref.WeakSet()
    most = [0]

    def listed(storage: LocalStorage, prefix: str = "") -> Iterator[Entry]:
        yield from entries(storage, prefix)
        names = {"datasets": f"shards/{'0' * 56}{{:08d}}.tar", "runs": "old/detect/pictures/{}.jpg"}
        name = names.get(storage.uri.rpartition("/")[2])
        for number in range(10_000 if name else 0):
            key = Key(name.format(number))
            alive.add(key)
            most[0] = max(most[0], len(alive))
            yield Entry(key, 1, old)

    monkeypatch.setattr(LocalStorage, "list", listed)
    assert folder.gc(delete=False)["files"] > 20_000
    assert most[0] < 10
    assert folder.gc()["files"] > 20_000
    assert most[0] < 2_500


def test_root_of_a_bucket_is_a_root(bucket: Any, s3_bucket: str):
    root = type(bucket)(s3_bucket)
    dataset = root.dataset(b"one")
    root.promote("v1", dataset)
    root.run("old", root.dataset(b"two"))
    root.gc()
    assert root.names("datasets") == {name_of(dataset), "shards"}
    assert open_storage(dataset).exists("manifest.json")
