"""The promotion step: the challenger becomes champion only if it is better, and says why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sightline.errors import UserError
from sightline.promote.challenger import (
    Challenger,
    count_seen,
    measure_difference,
    read_challenger,
    store_model,
)
from sightline.promote.champion import Champion, ChampionStore
from sightline.promote.config import PromoteConfig, PromoteUris
from sightline.promote.gate import Gate, Judgement, judge
from sightline.promote.tasks import TASKS, PromotedTask, Score
from sightline.storage import new_artifacts, require_new
from sightline.storage.artifacts import write_json
from sightline.telemetry import announce

_ATTEMPTS = 5


def run(uris: PromoteUris, config: PromoteConfig) -> dict[str, Any]:
    """Judge the challenger against the champion on the challenger's own test split.

    Returns:
        The decision, as in `decision.json`.

    Raises:
        NotFoundError: If the challenger's step has not finished.
        UserError: If files were altered, data sets differ, or the champion's weights are damaged;
            the champion stays as it is.
    """
    require_new(uris.out_uri)
    task, store = TASKS[config.task], ChampionStore(uris.models_uri, config.task, config.name)
    challenger = read_challenger(task, uris)
    if isinstance(challenger, str):
        decision = _nothing_to_promote(challenger, store, config)
    else:
        announce("promote", f"challenger {challenger.version} from {challenger.uri}")
        decision = _decide(challenger, task, store, uris, config)
    with new_artifacts("promote", uris, config, uris.out_uri) as folder:
        write_json(folder / "decision.json", decision)
        write_json(folder / "metrics.json", decision)
    announce("promote", decision["reason"])
    return decision


def _decide(
    challenger: Challenger,
    task: PromotedTask,
    store: ChampionStore,
    uris: PromoteUris,
    config: PromoteConfig,
) -> dict[str, Any]:
    for _ in range(_ATTEMPTS):
        champion = store.read()
        judgement, score = _judge(challenger, champion, task, store, config)
        if not judgement.promoted:
            return _decision(challenger, champion, judgement, score, task, config)
        store_model(challenger, task, store.model_uri(challenger.version), uris, config)
        if store.move(_record(challenger, store, uris, config), champion):
            return _decision(challenger, champion, judgement, score, task, config)
        announce("promote", "another run moved the champion meanwhile; judging against the new one")
    raise UserError(
        f"the champion of {store.uri} moved {_ATTEMPTS} times while this challenger was judged: "
        "run promote again when fewer runs compete for this name"
    )


def _judge(
    challenger: Challenger,
    champion: Champion | None,
    task: PromotedTask,
    store: ChampionStore,
    config: PromoteConfig,
) -> tuple[Judgement, Score | None]:
    gate = Gate(config.metric, config.gate_floor, config.gate_margin)
    value = challenger.number(config.metric)["value"]
    if champion is None:
        return judge(gate, value, None), None
    if champion.version == challenger.version:
        return Judgement(False, f"version {champion.version} is the champion already"), None
    store.require_weights(champion)
    model_uri = store.model_uri(champion.version)
    classes = task.classes(model_uri)
    if set(classes) != set(challenger.classes):
        return Judgement(
            False,
            f"the champion knows the classes {', '.join(classes)}, the challenger "
            f"{', '.join(challenger.classes)}: they cannot be compared; promote under another name",
        ), None
    score = task.score(model_uri, challenger.dataset, config.seed)
    return judge(gate, value, score.entry[config.metric]["value"]), score


def _record(
    challenger: Challenger, store: ChampionStore, uris: PromoteUris, config: PromoteConfig
) -> dict[str, Any]:
    number = challenger.number(config.metric)
    return {
        "task": config.task,
        "name": config.name,
        "version": challenger.version,
        "model_uri": store.model_uri(challenger.version),
        "classes": list(challenger.classes),
        "metric": config.metric,
        "value": number["value"],
        "interval": [number["low"], number["high"]],
        "dataset_uri": challenger.dataset.uri,
        "dataset_digest": challenger.dataset.digest,
        "source_uri": challenger.uri,
        "report_uri": uris.report_uri,
        "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _decision(
    challenger: Challenger,
    champion: Champion | None,
    judgement: Judgement,
    score: Score | None,
    task: PromotedTask,
    config: PromoteConfig,
) -> dict[str, Any]:
    before = difference = None
    if score:
        difference = measure_difference(
            challenger, task.protocol, score, config.metric, config.seed
        )
    if champion:
        before = {
            "version": champion.version,
            "recorded_metric": champion.record.get("metric"),
            "recorded_value": champion.record.get("value"),
            "on_this_test_split": score.entry[config.metric] if score else None,
            "test_images_seen": count_seen(champion.record, challenger.dataset) if score else None,
        }
        if before["test_images_seen"]:
            announce(
                "promote",
                f"the champion has seen {before['test_images_seen']} of these test images in "
                "training, which favours it: keep prepare's split_seed",
            )
    after = challenger.version if judgement.promoted else champion and champion.version
    return {
        "promoted": judgement.promoted,
        "reason": _sentence(judgement.promoted, judgement.reason),
        "task": config.task,
        "name": config.name,
        "gate": {
            "metric": config.metric,
            "floor": config.gate_floor,
            "margin": config.gate_margin,
        },
        "challenger": {
            "version": challenger.version,
            "uri": challenger.uri,
            config.metric: challenger.number(config.metric),
        },
        "difference": difference,
        "champion_before": before,
        "champion_after": after,
        "test_split": {
            "dataset_digest": challenger.dataset.digest,
            "images": len(challenger.dataset.split("test")),
        },
    }


def _nothing_to_promote(reason: str, store: ChampionStore, config: PromoteConfig) -> dict[str, Any]:
    champion = store.read()
    version = champion and champion.version
    return {
        "promoted": False,
        "reason": _sentence(False, f"nothing to promote, {reason}"),
        "task": config.task,
        "name": config.name,
        "challenger": None,
        "champion_before": {"version": version} if champion else None,
        "champion_after": version,
    }


def _sentence(promoted: bool, reason: str) -> str:
    return f"{'Promoted' if promoted else 'Not promoted'}: {reason}."
