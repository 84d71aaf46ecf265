"""What a run's folder and files are called."""

from __future__ import annotations


def slug(text: str) -> str:
    """The text as part of a file name: letters, digits, - _ and . stay."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
