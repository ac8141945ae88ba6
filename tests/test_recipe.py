from pathlib import Path

import pytest

from vlf_edge import VlfError
from vlf_edge.compiler import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]


def test_recipe_file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(
        "precision = 'int8'\ncalib_data = ['clips', 'test://motion', '/abs']\n"
        "percentile = 99\nweights = 'w.safetensors'\n"
    )
    recipe = load_recipe(path, calib_samples=32)
    assert recipe == Recipe(
        precision="int8",
        calib_data=(str(tmp_path / "clips"), "test://motion", "/abs"),
        percentile=99,
        weights=str(tmp_path / "w.safetensors"),
        calib_samples=32,
    )


def test_the_weights_that_ship_are_no_file_beside_a_recipe(tmp_path):
    (tmp_path / "a.toml").write_text('weights = "vlf-tiny"')
    (tmp_path / "b.toml").write_text('weights = "my.safetensors"')
    assert load_recipe(tmp_path / "a.toml").weights == "vlf-tiny"
    assert load_recipe(tmp_path / "b.toml").weights == str(tmp_path / "my.safetensors")


@pytest.mark.parametrize(
    "text, message",
    [
        ("precision = 'int3'", "precision is 'int3', expected one of fp32, fp16, int8"),
        ("precison = 'int8'", "unknown entry 'precison'; a recipe has: model, weights"),
        ("calib_samples = 'many'", "calib_samples is 'many', expected int"),
        ("calib_samples = true", "calib_samples is True, expected int"),
        ("calib_data = 'clips'", "calib_data is 'clips', expected a list"),
        ("calib_samples = 3", "calib_samples is 3; INT8 needs at least 16"),
        ("calib_method = 'best'", "calib_method is 'best', expected one of minmax"),
        ("span_s = 0.0", "span_s is 0.0"),
        ("max_batch = 0", "max_batch is 0; expected 1 or more"),
        ("opt_batch = 9", "opt_batch is 9; expected 1 to max_batch, which is 8"),
        ("= broken", "cannot read the recipe"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(tmp_path, text, message):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(VlfError, match=message):
        load_recipe(tmp_path / "r.toml")


def test_missing_recipe(tmp_path):
    with pytest.raises(VlfError, match="cannot read the recipe .*none.toml"):
        load_recipe(tmp_path / "none.toml")


def test_later_recipes_win_and_the_caller_over_all(tmp_path):
    (tmp_path / "a.toml").write_text("seed = 1\nmax_batch = 1\ntarget = 'rtx'\n")
    (tmp_path / "b.toml").write_text("seed = 2\nmax_batch = 2\n")
    assert load_recipe(tmp_path / "a.toml", tmp_path / "b.toml", seed=3) == Recipe(seed=3, max_batch=2, target="rtx")
    assert load_recipe() == Recipe()


@pytest.mark.parametrize("path", sorted((ROOT / "engines").glob("*.toml")), ids=lambda path: path.stem)
def test_engine_recipes_name_their_target(path):
    recipe = load_recipe(path)
    assert recipe.target != "auto" and not recipe.calib_data


@pytest.mark.parametrize("path", sorted((ROOT / "calibration").glob("*.toml")), ids=lambda path: path.stem)
def test_calibration_recipes_name_clips(path):
    assert load_recipe(path).calib_data
