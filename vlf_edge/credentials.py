"""What users keep secret: passwords in addresses, and files that hold them. None of it is ever printed."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from .atomic import open_regular
from .errors import VlfError

_MAX_BYTES = 4096


def split_credentials(url: str) -> tuple[str, str | None, str | None]:
    """``scheme://user:password@host/path`` -> (``scheme://host/path``, user, password).

    What stands before the last @ is the user and the password, so that a password may hold @ : / and #; a % followed
    by two hexadecimal digits is the character of that code. Only for addresses that have no @ after their host.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or "@" not in rest:
        return url, None, None
    secret, _, place = rest.rpartition("@")
    user, colon, password = secret.partition(":")
    return f"{scheme}://{place}", unquote(user), unquote(password) if colon else None


def read_secret(given: str) -> str:
    """``given`` itself, or the first line of FILE for "@FILE": what is typed can be seen by every user of the machine.

    Raises VlfError if the file cannot be read or its first line is empty; the message never holds what it says.
    """
    return read_secret_file(given[1:]) if given.startswith("@") else given


def read_secret_file(name: str | Path) -> str:
    """The first line of a file, without its end. Raises VlfError."""
    try:
        with os.fdopen(open_regular(Path(name)), "rb") as file:
            line = file.read(_MAX_BYTES).decode().partition("\n")[0].strip()
    except OSError as error:
        raise VlfError(f"cannot read the secret in {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise VlfError(f"the secret in {name} is no UTF-8 text") from None
    if not line:
        raise VlfError(f"the first line of {name} is empty; it should hold the secret")
    return line
