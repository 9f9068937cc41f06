import pytest
import torch

from sightline.encoders import BACKBONE_FILE, load_encoder
from sightline.pretrain.config import PretrainConfig, PretrainUris
from sightline.pretrain.run import run
from sightline.storage import fetch_artifacts


@pytest.mark.parametrize("loader_processes", [0, 2])
def test_from_s3_to_s3_gives_the_encoder_that_a_folder_gives(
    loader_processes, labelled_dataset, on_s3, s3_bucket, tiny_settings, tmp_path
):
    values = {**tiny_settings, "epochs": 1, "loader_processes": loader_processes}
    config = PretrainConfig.from_values(values)
    encoders, losses = [], []
    for dataset_uri, out_uri in (
        (labelled_dataset, str(tmp_path / "pretrain")),
        (on_s3(labelled_dataset), f"{s3_bucket}/pretrain"),
    ):
        metrics = run(PretrainUris(dataset_uri=dataset_uri, out_uri=out_uri), config)
        encoders.append(load_encoder(out_uri))
        losses.append(metrics["final_loss_nats"])
    assert losses[0] == losses[1]
    for name, tensor in encoders[0].trunk.state_dict().items():
        assert torch.equal(tensor, encoders[1].trunk.state_dict()[name]), name
    # A notebook's own weights file lies where the user put it.
    weights = fetch_artifacts(f"{s3_bucket}/pretrain", [BACKBONE_FILE]) / BACKBONE_FILE
    alone = load_encoder(f"{s3_bucket}/pretrain/{BACKBONE_FILE}")
    assert torch.equal(torch.load(weights)["conv1.weight"], alone.trunk.conv1.weight)
