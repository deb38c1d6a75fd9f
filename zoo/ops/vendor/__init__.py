"""Adapters of vendors' kernels: the same results as our own, imported only when chosen."""
