"""Full fine-tuning of the encoder, and the same network from scratch."""
