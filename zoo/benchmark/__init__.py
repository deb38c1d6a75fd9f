"""Measurements of speed, side by side with named peers and the machine's limits, and the records of finished runs."""
