"""Options declared once: the fields of a dataclass make the command line, and hold values to their limits."""

import argparse
from dataclasses import MISSING, dataclass, fields

import numpy as np
import pytest

from vlf_edge import VlfError
from vlf_edge.batches import in_batches
from vlf_edge.commands import build, train
from vlf_edge.compiler.recipe import Recipe
from vlf_edge.options import add_options, check_options, given_options, option
from vlf_edge.training.settings import Settings


@dataclass(frozen=True)
class Toy:
    data: str = option(MISSING, "what to read", "DATA")
    size_px: int | None = option(None, "side", "PX", flags=("--size", "-s"), least=1)
    share: float = option(0.5, "of all", "SHARE", least=0, below=1)
    names: tuple[str, ...] = option((), "some", "NAME")
    kind: str = option("a", "which", choices=("a", "b"))
    fast: bool = option(False, "hurry")
    percent: float = option(99.0, "of it", "PERCENT", above=0, most=100)
    seed: int = option(0, "of it", "N", least=0, most=9)
    made_elsewhere: int = 3


def parsed(*words, **options):
    parser = argparse.ArgumentParser()
    add_options(parser, Toy, *(f.name for f in fields(Toy) if f.metadata), **options)
    return given_options(parser.parse_args(words), Toy)


def test_the_command_line_is_made_of_the_fields():
    assert Toy(**parsed("x")) == Toy("x")
    words = ("x", "-s", "8", "--share", "0.25", "--names", "m", "n", "--kind", "b", "--fast", "--percent", "1")
    assert Toy(**parsed(*words)) == Toy("x", 8, 0.25, ("m", "n"), "b", True, 1.0)


def test_what_was_not_given_can_be_told_from_what_was():
    assert parsed("x", "--seed", "0", defaults=False) == {"data": "x", "seed": 0}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"size_px": 0}, "--size is 0; expected 1 or more"),
        ({"share": 1.0}, "--share is 1.0; expected from 0 to below 1"),
        ({"share": float("nan")}, "--share is nan; expected from 0 to below 1"),
        ({"percent": 0.0}, "--percent is 0.0; expected above 0 and at most 100"),
        ({"seed": 10}, "--seed is 10; expected from 0 to 9"),
        ({"kind": "c"}, "--kind is 'c', expected one of a, b"),
    ],
)
def test_values_out_of_their_limits_are_refused(changes, said):
    check_options(Toy("x"))
    with pytest.raises(VlfError) as caught:
        check_options(Toy("x", **changes))
    assert str(caught.value) == said
    with pytest.raises(VlfError, match=f"^{next(iter(changes))} is"):
        check_options(Toy("x", **changes), name_of=str)


@pytest.mark.parametrize("kind", [Settings, Recipe])
def test_every_field_is_an_option(kind):
    """But for labels: the command line takes a file of them."""
    assert [f.name for f in fields(kind) if not f.metadata] == (["labels"] if kind is Recipe else [])


@pytest.mark.parametrize("kind, verb", [(Settings, train), (Recipe, build)])
def test_every_field_is_on_the_command_line(kind, verb):
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert {f.name for f in fields(kind)} <= {action.dest for action in parser._actions}


def test_batches_are_joined_in_order():
    sizes, items = [], np.arange(14).reshape(7, 2)

    def double(part):
        sizes.append(len(part))
        return 2 * part

    np.testing.assert_array_equal(in_batches(double, items, 3), 2 * items)
    assert sizes == [3, 3, 1]
    np.testing.assert_array_equal(in_batches(double, items, 8), 2 * items)
