"""Scenes of 3D Gaussians: parameters, densification and training."""
