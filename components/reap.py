"""The end of every run as a KFP component: whatever it left running on the cluster goes."""

from kfp import dsl

from sightline_cluster import images


@dsl.component(base_image=images.LAUNCH, install_kfp_package=False)
def reap(out: str, run_id: str, job_id: str, cluster: dict) -> None:
    """Delete the jobs that a run which failed or was stopped left running."""
    from sightline_cluster.pipeline_step import reap_run

    reap_run(out, run_id, job_id, cluster)
