"""Step `pretrain` as a KFP component."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def pretrain(
    run: str,
    dataset_uri: str,
    labels_uri: str,
    initial_weights_uri: str,
    seed: int,
    workers: int,
    settings: dict,
    storage: dict,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Learn an encoder from unlabelled images with SimCLR."""
    from sightline.pipeline_step import run_pipeline_step

    uris = {
        "dataset_uri": dataset_uri,
        "labels_uri": labels_uri,
        "initial_weights_uri": initial_weights_uri,
    }
    own = {"seed": seed, "workers": workers}
    step = run_pipeline_step("pretrain", run, uris, settings, own, storage)
    step.show(metrics=metrics)
    return step.uri
