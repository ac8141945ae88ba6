"""Text from files, made fit to be shown."""

from __future__ import annotations


def printable(text: object, keep: str = "") -> str:
    """str(text) with every character that does not print written as its escape, such as ``\\x1b`` or ``\\u202e``.

    For the borders at which text is printed, logged or drawn: labels, names of files and what a plan says of itself
    come from strangers, and control characters would move the cursor, hide lines or turn them around. Line ends are
    escaped too. keep: characters to leave as they are, such as ``"\\n"``.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
