"""The program vlf-edge, also as python -m vlf_edge. It obeys signals before it imports what takes long."""

from . import memory, signals


def _verb() -> int:
    from .cli import main

    return main()


def main() -> None:
    """Ends the process."""
    memory.one_arena()
    signals.run(_verb)


if __name__ == "__main__":
    main()
