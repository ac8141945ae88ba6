"""What defines a model but its weights and labels. It travels with the weights as JSON, also from strangers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import VlfError
from ..types import Preprocess

# So that a damaged or hostile file cannot ask for all memory; 256 for what is not named.
_SMALLEST = {"spatial_layers": 0}  # 1 for what is not named
_LARGEST = {"token_dim": 4096, "height_px": 4096, "width_px": 4096, "classes": 100_000}


@dataclass(frozen=True, kw_only=True)
class Sizes(ABC):
    """What all models have.

    name: a key of the ``SIZES`` of the model's file. frames: K. height_px, width_px: of an image. classes: C.
    dropout: in training. backbone, backbone_options: a timm model and its own options.
    Raises VlfError for sizes no model can have.
    """

    name: str
    backbone: str
    frames: int
    height_px: int
    width_px: int
    dropout: float = 0.1
    classes: int = 1
    backbone_options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for f in fields(self):
            _check(f.name, f.type, getattr(self, f.name))
        object.__setattr__(self, "backbone_options", _as_tuples(self.backbone_options))

    @property
    def preprocess(self) -> Preprocess:
        """What a camera image goes through: in training, in calibration and live alike."""
        return Preprocess(self.height_px, self.width_px, max(self.height_px, self.width_px))

    @abstractmethod
    def build(self, pretrained: bool = False) -> Any:
        """The ``Model`` of these sizes, randomly initialised; ``pretrained`` fetches timm's weights of the backbone."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> Sizes:
        """Raises VlfError saying which entry is missing, unknown or wrong."""
        what = cls.__name__.removesuffix("Sizes")
        if not isinstance(raw, dict):
            raise VlfError(f"sizes are a {type(raw).__name__}, expected an object of names and values")
        known = {f.name for f in fields(cls)}
        if raw.keys() != known:
            missing, unknown = sorted(known - raw.keys()), sorted(map(str, raw.keys() - known))
            raise VlfError(f"sizes do not describe a {what}: missing {missing}, unknown {unknown}")
        return cls(**raw)


def _check(name: str, kind: str, value: Any) -> None:
    """Raises VlfError for the types and ranges that a JSON document could get wrong."""
    wanted: type | tuple[type, ...] = {"str": str, "int": int, "bool": bool, "float": (int, float)}.get(kind, dict)
    if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
        raise VlfError(f"{name} is {value!r}, expected {kind.split('[')[0]}")
    smallest, largest = _SMALLEST.get(name, 1), _LARGEST.get(name, 256)
    if kind == "int" and not smallest <= value <= largest:
        raise VlfError(f"{name} is {value}, expected {smallest} to {largest}")
    if kind == "float" and not 0 <= value < 1:
        raise VlfError(f"{name} is {value}, expected at least 0 and below 1")


def _as_tuples(value: Any) -> Any:
    """JSON has no tuples, timm wants them: one form, so that a round trip gives an equal object."""
    if isinstance(value, dict):
        return {str(key): _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value
