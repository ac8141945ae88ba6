"""benchmarks/few_clips.py: gestures are rendered apart for every split, and the figures of a way are put together."""

import few_clips

from vlf_edge import open_source


def test_gestures_are_a_motion_and_its_way_back(tmp_path, monkeypatch):
    monkeypatch.setattr(few_clips, "GESTURES", {"bow": "down", "grasp": "close"})
    data = few_clips.render(tmp_path, 3, 2, 0.5)
    counts = {str(path.relative_to(data)): len([*path.iterdir()]) for path in data.glob("*/*")}
    assert counts == {
        "train/bow": 2, "train/grasp": 1, "val/bow": 1, "val/grasp": 1, "test/bow": 6, "test/grasp": 6,
    }  # fmt: skip
    with open_source(str(data / "train" / "bow" / "000.avi")) as source:
        frames = [frame.image.astype(int) for frame in source]
    assert len(frames) == few_clips.FPS * few_clips.SECONDS
    assert abs(frames[0] - frames[-1]).mean() < 3 < abs(frames[0] - frames[len(frames) // 2]).mean()


def test_figures_of_a_way_are_put_together():
    one = {"way": "--balance", "clips": 100, "epochs": 9, "minutes": 1.0, "ms_a_clip": 5.0}
    said = few_clips.table([{**one, "top1": 0.5}, {**one, "top1": 0.9, "epochs": 11}])
    assert "| `--balance` | 50.0%, 90.0% | 70.0% of 200, 63% to 76% | 10 | 1.0 | 5.0 |" in said
