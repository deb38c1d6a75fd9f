"""What surrounds a training run: its folder, its configuration, random states, checkpoints, signals and the report."""
