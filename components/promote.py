"""Step `promote` as a KFP component."""

from kfp import dsl

from sightline_cluster import images


@dsl.component(base_image=images.DETECT, install_kfp_package=False)
def promote(
    run: str,
    report_uri: str,
    finetune_uri: str,
    detect_uri: str,
    labels_uri: str,
    boxes_uri: str,
    out: str,
    seed: int,
    gate_metric: str,
    gate_floor: float,
    gate_margin: float,
    settings: dict,
    storage: dict,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Move the champion if the challenger is better."""
    from sightline.pipeline_step import run_pipeline_step
    from sightline.storage import join_uri

    uris = {"report_uri": report_uri, "finetune_uri": finetune_uri, "detect_uri": detect_uri}
    uris |= {"labels_uri": labels_uri, "boxes_uri": boxes_uri}
    uris |= {"models_uri": join_uri(out, "models")}
    own = {"gate_metric": gate_metric, "gate_floor": gate_floor, "gate_margin": gate_margin}
    step = run_pipeline_step("promote", run, uris, settings, {"seed": seed, **own}, storage)
    step.show(metrics=metrics)
    return step.uri
