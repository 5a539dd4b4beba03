"""A run as one page of HTML."""

from disback_ray.report.page import render

__all__ = ["render"]
