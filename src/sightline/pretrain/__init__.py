"""SimCLR: an encoder learned from unlabelled images."""
