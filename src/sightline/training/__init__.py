"""What every training loop shares: optimisers, schedules, devices, processes."""
