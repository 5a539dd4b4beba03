"""Every error that a user can meet.

    DisbackError
    ├── ConfigError           a recipe, a cluster file or an option is wrong
    ├── ClusterError          Ray can't be reached, or a role was lost
    │   ├── PlacementError    what a role asks for is not there
    │   └── DeviceMemoryError a role's GPU has too little memory
    ├── CheckpointError       a file is missing, damaged, refused or doesn't fit
    ├── RunFolderError        the folder belongs to another run
    ├── VersionError          a role was asked for weights that it doesn't hold
    └── NonFiniteError        NaN or Inf in a score, a loss or a gradient

Each takes one message of one line: the key or file, its value, and what to do. The command line prints that line and exits 2.
"""

from typing import Any


class DisbackError(Exception):
    """Base of the tree: everything that is not a bug of ours."""


class ConfigError(DisbackError):
    """A recipe, a cluster file or an option is wrong."""


class ClusterError(DisbackError):
    """Ray can't be reached, or a role was lost."""


class PlacementError(ClusterError):
    """What a role asks for is not there."""


class DeviceMemoryError(ClusterError):
    """A role's GPU has too little memory. role: whose."""

    def __init__(self, message: str, role: str = "") -> None:
        super().__init__(message)
        self.role = role

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.role)


class CheckpointError(DisbackError):
    """A file is missing, damaged, refused or doesn't fit."""


class RunFolderError(DisbackError):
    """The folder belongs to another run."""


class VersionError(DisbackError):
    """A role was asked for weights that it doesn't hold."""


class NonFiniteError(DisbackError):
    """NaN or Inf in a score, a loss or a gradient. keys: of the samples, where they are known; with them it can be seen again."""

    def __init__(self, message: str, keys: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.keys = keys or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.keys)
