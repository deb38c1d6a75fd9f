"""Every reader of files against damaged files: ``python -m tests.fuzz`` runs long, `tests.property` a little."""
