"""The pipeline, and the commands that compile it and run it."""
