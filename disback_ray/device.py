"""Where a role computes."""

import torch


def best_device() -> torch.device:
    """The role's own GPU (Ray shows a role only the one it was given, as cuda:0), or the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
