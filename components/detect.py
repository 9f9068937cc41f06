"""Step `detect` as a KFP component."""

from kfp import dsl

from sightline_cluster import images


@dsl.component(base_image=images.LAUNCH, install_kfp_package=False)
def detect(
    run: str,
    encoder_uri: str,
    dataset_uri: str,
    seed: int,
    settings: dict,
    storage: dict,
    cluster: dict,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Train YOLOv12 on the encoder, and the same detector from scratch."""
    from sightline_cluster.pipeline_step import run_training_step

    uris = {"encoder_uri": encoder_uri, "dataset_uri": dataset_uri}
    step = run_training_step("detect", run, uris, settings, {"seed": seed}, storage, cluster)
    step.show(metrics=metrics)
    return step.uri
