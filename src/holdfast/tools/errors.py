"""What an operator can put right."""

from __future__ import annotations


class ToolError(Exception):
    """What was asked for cannot be done; one sentence says why, and what to do next."""
