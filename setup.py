"""What pyproject.toml cannot say: the recipes lie at the top of a checkout, but inside an installed package."""

from setuptools import find_packages, setup

RECIPES = ("calibration", "engines")
DATA = ("weights", "serve.page")

setup(
    packages=[*find_packages(include=["vlf_edge*"]), *(f"vlf_edge.{name}" for name in (*DATA, *RECIPES))],
    package_dir={f"vlf_edge.{name}": name for name in RECIPES},
)
