"""Step `evaluate` as a KFP component."""

from kfp import dsl

from sightline_cluster import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def evaluate(
    run: str,
    encoder_uri: str,
    dataset_uri: str,
    seed: int,
    settings: dict,
    storage: dict,
    metrics: dsl.Output[dsl.Metrics],
    linear: dsl.Output[dsl.ClassificationMetrics],
) -> str:
    """Measure the frozen encoder with kNN and linear evaluation."""
    from sightline.pipeline_step import run_pipeline_step

    uris = {"encoder_uri": encoder_uri, "dataset_uri": dataset_uri}
    step = run_pipeline_step("evaluate", run, uris, settings, {"seed": seed}, storage)
    step.show(metrics=metrics, classification={"linear": linear})
    return step.uri
