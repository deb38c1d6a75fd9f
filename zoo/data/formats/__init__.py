"""On-disk layouts of posed photographs."""
