"""The handler that does nothing."""


def nothing(_task: object) -> None:
    """Do nothing: what is measured is everything else."""
