"""Step `pretrain` as a KFP component."""

from kfp import dsl

from sightline_cluster import images


@dsl.component(base_image=images.LAUNCH, install_kfp_package=False)
def pretrain(
    run: str,
    dataset_uri: str,
    labels_uri: str,
    initial_weights_uri: str,
    seed: int,
    workers: int,
    settings: dict,
    storage: dict,
    cluster: dict,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Learn an encoder from unlabelled images with SimCLR."""
    from sightline_cluster.pipeline_step import run_training_step

    uris = {
        "dataset_uri": dataset_uri,
        "labels_uri": labels_uri,
        "initial_weights_uri": initial_weights_uri,
    }
    own = {"seed": seed, "workers": workers}
    step = run_training_step("pretrain", run, uris, settings, own, storage, cluster)
    step.show(metrics=metrics)
    return step.uri
