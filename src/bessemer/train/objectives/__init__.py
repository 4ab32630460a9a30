"""What there is to learn: one file an objective, each a `train.task.Task`."""

__all__: list[str] = []
