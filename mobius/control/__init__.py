"""The control node: bundles, runs, the lab."""
