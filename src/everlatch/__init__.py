"""An always-connected ZooKeeper client for Python."""

__all__: list[str] = []
