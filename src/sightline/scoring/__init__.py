"""Every number's one definition: scores, intervals and baselines."""
