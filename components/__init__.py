"""One KFP component a step: its inputs, its outputs, its image and one call."""
