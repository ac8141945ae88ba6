import json
import threading
import time

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_toys import clip_toy, frame_toy, images, model_bytes

from vlf_edge.compiler import graph
from vlf_edge.compiler.quantization import ranges
from vlf_edge.compiler.quantization.quantize import activations
from vlf_edge.compiler.quantization.ranges import (
    BINS,
    Histogram,
    Ranges,
    cached_ranges,
    collect_ranges,
    divergences,
    entropy_threshold,
    percentile_threshold,
    ranges_key,
)
from vlf_edge.errors import CalibrationError


def slow_divergence(counts, i):
    """The published procedure for one candidate, one level after the other."""
    p = counts[:i].astype(np.float64)
    p[-1] += counts[i:].sum()
    q = np.zeros(i)
    for level in range(128):
        bins = [j for j in range(i) if j * 128 // i == level]
        filled = [j for j in bins if p[j] > 0]
        for j in filled:
            q[j] = counts[bins].sum() / len(filled)
    if (q[p > 0] == 0).any():
        return np.inf
    p, q = (p / p.sum())[p > 0], (q / q.sum())[p > 0]
    return (p * np.log(p / q)).sum()


def histogram_of(values, parts=1):
    histogram = Histogram()
    for part in np.array_split(values, parts):
        histogram.update(part)
    return histogram


@pytest.mark.parametrize("order", [1, -1])
def test_doubling_gives_the_histogram_of_one_shot(order):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.standard_normal(999) * 4.0**e for e in range(-3, 6)]).astype(np.float32)[::order]
    values[17::50] = 0
    grown = histogram_of(values, parts=9)
    magnitudes = np.abs(values[values != 0])
    once, _ = np.histogram(magnitudes.astype(np.float64), bins=BINS, range=(0, grown.limit))
    np.testing.assert_array_equal(grown.counts, once)
    assert grown.zeros == np.count_nonzero(values == 0)
    assert grown.maximum == magnitudes.max() < grown.limit <= 2 * magnitudes.max()


def test_values_on_a_power_of_two_and_jumps_beyond_all_bins():
    histogram = Histogram()
    histogram.update(np.zeros(5, np.float32))
    assert histogram.limit == 0 and histogram.maximum == 0 and histogram.zeros == 5
    histogram.update(np.array([1e-30, -2.0], np.float32))
    assert histogram.limit == 4
    histogram.update(np.array([4.0], np.float32))
    assert histogram.limit == 8 and histogram.counts[BINS // 4] == histogram.counts[BINS // 2] == 1
    histogram.update(np.array([2.0, 3e38], np.float32))
    assert histogram.counts.sum() == 5 and histogram.counts[0] == 4
    assert histogram.maximum == np.float32(3e38)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_histogram_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        Histogram().update(np.array([1, bad, 2], np.float32))


def test_sampling_keeps_the_exact_maximum_and_the_shape():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((4, 16, 56, 56)).astype(np.float32)
    values[2, 3, 4, 5] = -77.5
    sampled = Histogram()
    sampled.update(values, most=20_000)
    assert sampled.maximum == 77.5
    assert 10_000 < sampled.counts.sum() <= 20_000
    assert percentile_threshold(sampled, 90) == pytest.approx(np.quantile(np.abs(values), 0.9), rel=0.05)


@pytest.mark.parametrize("size, most", [(112 * 112 * 32, 65536), (4096, 1000), (30030, 7), (10, 10), (65537, 65536)])
def test_sampling_visits_every_place_of_every_axis(size, most):
    stride = ranges._stride(size, most)
    assert np.gcd(stride, size) == 1 and -(-size // stride) <= most
    for axis in (2, 3, 5, 7, 32, 112):
        if size % axis == 0 and -(-size // stride) >= axis:
            assert len(set((np.arange(0, size, stride) % axis).tolist())) == axis


def test_percentile_of_known_data():
    values = np.concatenate([np.arange(1, 10_001), np.zeros(5_000)]).astype(np.float32)
    histogram = histogram_of(values, parts=3)
    for percentile in (50, 99, 99.9):
        assert percentile_threshold(histogram, percentile) == pytest.approx(percentile * 100, abs=histogram.bin_width)
    assert percentile_threshold(histogram, 100) == 10_000
    assert histogram.share_beyond(9_000) == pytest.approx(1_000 / 15_000, rel=0.01)
    assert histogram.share_beyond(10_000) == 0


@pytest.mark.parametrize("kind", ["normal", "relu", "laplace", "outlier", "spike", "narrow", "uniform"])
def test_entropy_equals_the_obvious_procedure(kind):
    rng = np.random.default_rng(2)
    values = {
        "normal": rng.standard_normal(20_000),
        "relu": np.maximum(rng.standard_normal(20_000), 0),
        "laplace": rng.laplace(size=20_000),
        "outlier": np.append(rng.standard_normal(20_000), 9.0),
        "spike": np.append(rng.uniform(0, 1, 2_000), np.full(5_000, 3.3)),
        "narrow": np.append(rng.uniform(0, 0.01, 500), 1.0),
        "uniform": rng.uniform(-1, 1, 20_000),
    }[kind].astype(np.float32)
    histogram = histogram_of(values)
    fast = divergences(histogram.counts)
    assert len(fast) == np.flatnonzero(histogram.counts)[-1] + 1 - 127
    some = [0, 1, *range(2, len(fast), 97), int(np.argmin(fast)), len(fast) - 1]
    slow = [slow_divergence(histogram.counts, 128 + index) for index in some]
    np.testing.assert_allclose(fast[some], slow, rtol=1e-9, atol=1e-12)
    best = 128 + int(np.argmin(np.round(fast, 12)))
    assert entropy_threshold(histogram) == min((best + 0.5) * histogram.bin_width, histogram.maximum)


def test_entropy_clips_an_outlier_and_does_not_depend_on_zeros():
    values = np.append(np.random.default_rng(3).standard_normal(50_000), 60).astype(np.float32)
    threshold = entropy_threshold(histogram_of(values))
    assert 3 < threshold < 30
    assert entropy_threshold(histogram_of(np.append(values, np.zeros(500_000, np.float32)))) == threshold


def test_entropy_of_few_or_no_values():
    assert entropy_threshold(Histogram()) == 0
    assert entropy_threshold(histogram_of(np.array([0.75], np.float32))) == 0.75


def feeds(count=6, seed=0):
    return [{"image": images(4, seed=seed + i)} for i in range(count)]


def test_minmax_is_the_exact_maximum_of_every_tensor():
    wanted = activations(frame_toy())
    assert wanted == ("x", "act")
    seen = []
    found = collect_ranges(frame_toy(), wanted, iter(feeds()), "minmax", progress=seen.append)
    x = np.concatenate([feed["image"] for feed in feeds()]).astype(np.float32)
    assert found.thresholds["x"] == pytest.approx(np.abs((x - 120) / 60).max(), rel=1e-6)
    assert found.thresholds == found.maxima and set(found.clipped.values()) == {0.0}
    assert found.samples == 24 and seen == [4, 8, 12, 16, 20, 24]


def test_methods_clip_as_they_say():
    minmax, percentile, entropy = (
        collect_ranges(frame_toy(), ["act"], feeds(), method, percentile=95)
        for method in ("minmax", "percentile", "entropy")
    )
    assert percentile.thresholds["act"] < minmax.thresholds["act"]
    assert 0.01 < percentile.clipped["act"] < 0.05  # of all values; zeros never clip
    assert 0 < entropy.thresholds["act"] <= minmax.thresholds["act"]
    assert percentile.maxima == entropy.maxima == minmax.maxima


def test_graph_inputs_and_outputs_can_be_ranged_and_order_is_irrelevant():
    tokens = np.random.default_rng(0).standard_normal((6, 2, 16, 8)).astype(np.float32)
    names = ["logits", "tokens", "pooled"]
    some = collect_ranges(clip_toy(), names, [{"tokens": tokens[:2]}, {"tokens": tokens[2:]}], "entropy")
    same = collect_ranges(clip_toy(), names[::-1], [{"tokens": tokens[2:]}, {"tokens": tokens[:2]}], "entropy")
    assert some.maxima["tokens"] == np.abs(tokens).max()
    assert some.to_json() == same.to_json()


def test_a_tensor_that_is_always_zero_gets_range_zero():
    black = [{"image": np.full((2, 8, 8, 3), 120, np.uint8)}]
    for method in ranges.METHODS:
        found = collect_ranges(frame_toy(), ["x"], black, method)
        assert found.thresholds == found.maxima == found.clipped == {"x": 0.0}


def test_nan_names_the_tensor_and_the_samples():
    nodes = [helper.make_node("Log", ["x"], ["log"]), helper.make_node("Abs", ["log"], ["y"])]
    floats = (TensorProto.FLOAT, ["N", 2])
    toy = model_bytes(nodes, {"x": floats}, {"y": floats}, {})
    batches = [{"x": np.array([[1, 2]], np.float32)}, {"x": np.array([[1, -2]], np.float32)}]
    with pytest.raises(CalibrationError, match="NaN or infinity in tensor 'log' within samples 1 to 1"):
        collect_ranges(toy, ["log"], batches, "minmax")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "max"}, "unknown calibration method 'max'; available: minmax, entropy, percentile"),
        ({"percentile": 0}, "percentile is 0"),
        ({"percentile": 101}, "percentile is 101"),
        ({"tensors": ["nothing"]}, "no tensor 'nothing'"),
        ({"feeds": []}, "no calibration data"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"tensors": ["x"], "feeds": feeds(1), "method": "percentile", "percentile": 99, **change}
    with pytest.raises(CalibrationError, match=message):
        collect_ranges(frame_toy(), **arguments)


def test_json_round_trip_is_exact():
    found = collect_ranges(frame_toy(), ["x", "act"], feeds(), "percentile")
    assert Ranges.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    "change",
    [
        {"method": "magic"},
        {"samples": "many"},
        {"thresholds": {"x": float("nan")}},
        {"thresholds": {"x": -1.0}},
        {"thresholds": {"y": 1.0}},
        {"maxima": None},
    ],
)
def test_unsound_json_is_refused(change):
    sound = {"method": "minmax", "thresholds": {"x": 1.0}, "maxima": {"x": 1.0}, "clipped": {"x": 0.0}, "samples": 3}
    assert Ranges.from_json(sound).samples == 3
    with pytest.raises(CalibrationError, match="calibrate again"):
        Ranges.from_json({**sound, **change})


def test_cache_hits_misses_and_recovers(tmp_path):
    computed = []

    def compute():
        computed.append(1)
        return Ranges("minmax", {"x": 0.1}, {"x": 0.1}, {"x": 0.0}, 3)

    key = ranges_key(frame_toy(), "clips", "minmax")
    first = cached_ranges(tmp_path / "cache", key, compute)
    assert cached_ranges(tmp_path / "cache", key, compute) == first and len(computed) == 1
    (file,) = (tmp_path / "cache").iterdir()
    original = file.read_bytes()
    for damage in (b"", b"{}", file.read_bytes()[:-20], b"\xff\xfe", b"[" * 100_000):
        file.write_bytes(damage)
        assert cached_ranges(tmp_path / "cache", key, compute) == first
    assert len(computed) == 6
    assert cached_ranges(tmp_path / "cache", key, compute) == first and len(computed) == 6
    assert [f.name for f in (tmp_path / "cache").iterdir()] == [f"{key}.ranges"]
    (tmp_path / "cache" / "other.ranges").write_bytes(original)
    assert cached_ranges(tmp_path / "cache", "other", compute) == first and len(computed) == 7, "ranges of another key"
    file.write_bytes(original.replace(b"0.1", b"0.9"))
    assert cached_ranges(tmp_path / "cache", key, compute) == first and len(computed) == 8, "ranges that were edited"
    file.chmod(0o666)
    assert cached_ranges(tmp_path / "cache", key, compute) == first and len(computed) == 9, "anybody can write them"


def test_builds_at_once_measure_once(tmp_path, caplog):
    begun, go, computed, results = threading.Event(), threading.Event(), [], []

    def compute():
        computed.append(1)
        begun.set()
        assert go.wait(60)
        return Ranges("minmax", {"x": 0.1}, {"x": 0.1}, {"x": 0.0}, 3)

    threads = [threading.Thread(target=lambda: results.append(cached_ranges(tmp_path, "key", compute))) for _ in "123"]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(caplog.records) < 2:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join(60)
    assert len(computed) == 1 and len(results) == 3 and results[0] == results[1] == results[2]
    assert {r.getMessage() for r in caplog.records} == {
        "another start on this machine is measuring these ranges: waiting for it"
    }


def test_a_failed_computation_leaves_nothing(tmp_path):
    def fail():
        raise CalibrationError("no clips")

    with pytest.raises(CalibrationError, match="no clips"):
        cached_ranges(tmp_path, "key", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    ranges = Ranges("minmax", {}, {}, {}, 1)
    assert cached_ranges(tmp_path / "file" / "cache", "key", lambda: ranges) == ranges
    (record,) = caplog.records
    assert record.getMessage().startswith(f"cannot keep {tmp_path / 'file' / 'cache' / 'key.ranges'}")


def test_key_depends_on_all_that_matters():
    keys = {
        ranges_key(frame_toy(), "a", "minmax"),
        ranges_key(frame_toy(seed=5), "a", "minmax"),
        ranges_key(frame_toy(), "b", "minmax"),
        ranges_key(frame_toy(), "a", "entropy"),
        ranges_key(frame_toy(), "a", "percentile"),
        ranges_key(frame_toy(), "a", "percentile", 99.9),
    }
    assert len(keys) == 6
    assert ranges_key(frame_toy(), "a", "minmax", 99.9) == ranges_key(frame_toy(), "a", "minmax")


def test_ranged_graph_still_gives_the_same_outputs():
    feed = feeds(1)[0]
    plain = graph.Session(frame_toy()).run(feed)["tokens"]
    watched = graph.Session(ranges._with_outputs(frame_toy(), ["act", "image"])).run(feed)
    assert sorted(watched) == ["act", "tokens"]
    np.testing.assert_array_equal(watched["tokens"], plain)
