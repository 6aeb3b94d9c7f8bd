"""The archive: what an experiment adds, and a file that is whole or refused."""

from __future__ import annotations

import os
import threading

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sessions import session

from harness.core import rundir
from harness.core.errors import InvalidRun, UsageError
from harness.stats import archive, compare
from harness.stats.archive import Origin
from harness.stats.compare import judge
from harness.stats.plan import GatingMetric, defaults

ONE = (GatingMetric("ttft_p50_ms", "steady", 0.1, 0.03), GatingMetric("ttft_p99_ms", "steady", 0.2, 0.05))
FIRST = Origin("e1", "nightly", "c", "f")


def values(ratios, n=2000, metrics=ONE):
    rows = [
        (pair, arm, one.metric, one.window, 100.0 * (ratio if arm == "B" else 1.0), n)
        for pair, ratio in enumerate(ratios)
        for arm in "AB"
        for one in metrics
    ]
    return pd.DataFrame(rows, columns=["pair_id", "arm", "metric", "window", "value", "n"])


def of(frame, metric="ttft_p50_ms"):
    return frame[frame["metric"] == metric]


def test_equal_systems_give_their_differences():
    found = of(archive.rows(values([1.1, 0.9]), ONE, FIRST, same=True))
    assert found["d"].tolist() == pytest.approx([np.log(1.1), np.log(0.9)])
    assert found["kind"].tolist() == ["aa", "aa"]
    assert found["experiment_id"].tolist() == ["e1", "e1"]


def test_others_give_residuals_that_no_shift_enters():
    small = of(archive.rows(values([1.1, 0.9, 1.0]), ONE, FIRST, same=False))
    d = np.log([1.1, 0.9, 1.0])
    assert small["d"].tolist() == pytest.approx(((d[1:] - d[:-1]) / np.sqrt(2)).tolist())
    assert small["kind"].tolist() == ["residual", "residual"]
    large = of(archive.rows(values([2.2, 1.8, 2.0]), ONE, FIRST, same=False))
    assert large["d"].tolist() == pytest.approx(small["d"].tolist())


def test_the_probe_goes_along():
    c = pd.Series({0: 0.01, 1: 0.03, 2: 0.02})
    aa = of(archive.rows(values([1.1, 0.9, 1.0]), ONE, FIRST, same=True, covariate=c))
    assert aa["c_probe"].tolist() == pytest.approx([0.01, 0.03, 0.02])
    rest = of(archive.rows(values([1.1, 0.9, 1.0]), ONE, FIRST, same=False, covariate=c))
    assert rest["c_probe"].tolist() == pytest.approx([0.02 / 2**0.5, -0.01 / 2**0.5])


def test_what_says_nothing_about_noise_stays_out():
    assert not len(of(archive.rows(values([1.1, 0.9], n=999), ONE, FIRST, same=True), "ttft_p99_ms"))
    assert len(of(archive.rows(values([1.1, 0.9], n=1000), ONE, FIRST, same=True), "ttft_p99_ms")) == 2
    gone = session(4)
    gone.loc[(gone["metric"] == "recover_s") & (gone["pair_id"] == 1) & (gone["arm"] == "B"), "value"] = (
        np.inf
    )
    assert of(archive.rows(gone, defaults(), FIRST, same=True), "recover_s")["pair_id"].tolist() == [0, 2, 3]
    assert of(archive.rows(gone, defaults(), FIRST, same=False), "recover_s")["pair_id"].tolist() == [3]
    with pytest.raises(InvalidRun, match="not archived: pair 0, arm A"):
        archive.rows(values([1.1]).assign(value=np.nan), ONE, FIRST, same=True)


def test_counts_of_equal_systems_or_of_the_baseline():
    counts = pd.DataFrame(
        [(p, arm, "shed", p, 100) for p in range(3) for arm in "AB"],
        columns=["pair_id", "arm", "kind", "x", "n"],
    )
    equal = of(archive.rows(values([1.0] * 3), ONE, FIRST, same=True, counts=counts), "shed_ratio")
    assert equal[["pair_id", "arm", "x"]].to_numpy().tolist() == [
        [0, "A", 0.0], [0, "B", 0.0], [1, "A", 1.0], [1, "B", 1.0], [2, "A", 2.0], [2, "B", 2.0],
    ]  # fmt: skip
    other = of(archive.rows(values([1.0] * 3), ONE, FIRST, same=False, counts=counts), "shed_ratio")
    assert other["arm"].tolist() == ["A"] * 3
    grown = archive.append(
        archive.empty(), archive.rows(values([1.0] * 14), ONE, FIRST, same=True, counts=counts)
    )
    assert compare.judge_counts(counts.assign(x=0), grown).status == "pass"


def test_age_goes_on_over_experiments_and_none_is_there_twice():
    first = archive.rows(values([1.1, 0.9]), ONE, FIRST, same=True)
    one = archive.append(archive.empty(), first)
    second = archive.rows(values([1.2, 0.8]), ONE, Origin("e2", "nightly", "c2", "f"), same=True)
    two = archive.append(one, second)
    assert of(two)["pair_id"].tolist() == [0, 1, 2, 3]
    assert of(two)["experiment_id"].tolist() == ["e1", "e1", "e2", "e2"]
    assert archive.append(two, first).equals(two)
    assert archive.append(two, second).equals(two)


@pytest.mark.parametrize("origin", [Origin("e2", "other", "c", "f"), Origin("e2", "nightly", "c", "g")])
def test_what_doesnt_belong_together_is_refused(origin):
    one = archive.append(archive.empty(), archive.rows(values([1.1]), ONE, FIRST, same=True))
    with pytest.raises(InvalidRun, match="don't belong together; keep one archive for each"):
        archive.append(one, archive.rows(values([1.1]), ONE, origin, same=True))


def test_the_file_comes_back_as_it_went(tmp_path):
    path = rundir.archive(tmp_path, "nightly", "f")
    assert path == tmp_path / "archive" / "nightly" / "f" / "archive.parquet"
    grown = archive.extend(path, archive.rows(values([1.1, 0.9]), ONE, FIRST, same=True))
    assert archive.read(path).equals(grown)
    assert pq.read_schema(path).names == archive.SCHEMA.names
    more = archive.extend(
        path, archive.rows(values([1.2]), ONE, Origin("e2", "nightly", "c", "f"), same=True)
    )
    assert archive.read(path).equals(more)
    assert len(of(more)) == 3


def test_an_archive_from_a_file_judges(tmp_path):
    path = tmp_path / "archive.parquet"
    archive.extend(path, archive.rows(session(60, seed=5), defaults(), FIRST, same=True))
    verdict = judge(session(10), archive.read(path))
    assert verdict.status == "pass"
    assert not any("cold" in one for one in verdict.reasons)


@pytest.mark.parametrize("cut", [0, 3, 0.5, -1])
def test_a_truncated_file_is_refused_and_stays(tmp_path, cut):
    path = tmp_path / "archive.parquet"
    added = archive.rows(values([1.1, 0.9]), ONE, FIRST, same=True)
    archive.extend(path, added)
    whole = path.read_bytes()
    part = whole[: int(len(whole) * cut) if isinstance(cut, float) else cut]
    path.write_bytes(part)
    for call in (lambda: archive.read(path), lambda: archive.extend(path, added)):
        with pytest.raises(InvalidRun, match=r"truncated or no Parquet.*restore it from a copy") as error:
            call()
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert path.read_bytes() == part


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "archive.parquet"
    with pytest.raises(UsageError, match="no such archive"):
        archive.read(path)
    pd.DataFrame({"pair_id": [1], "kind": ["aa"]}).to_parquet(path)
    with pytest.raises(InvalidRun, match="column metric, window, d is missing"):
        archive.read(path)
    pd.DataFrame(
        {"pair_id": ["one"], "kind": ["aa"], "metric": ["m"], "window": ["w"], "d": [0.1]}
    ).to_parquet(path)
    with pytest.raises(InvalidRun, match="another type than an archive's"):
        archive.read(path)


def test_a_crash_while_writing_leaves_the_old_archive(tmp_path, monkeypatch):
    path = tmp_path / "archive.parquet"
    archive.extend(path, archive.rows(values([1.1, 0.9]), ONE, FIRST, same=True))
    before = path.read_bytes()

    def crash(fd):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        archive.extend(path, archive.rows(values([1.2]), ONE, Origin("e2", "nightly", "c", "f"), same=True))
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == [".archive.parquet.lock", "archive.parquet"]


def test_writers_wait_for_each_other(tmp_path):
    path = tmp_path / "archive.parquet"
    parts = [
        archive.rows(values([1.0 + k / 100]), ONE, Origin(f"e{k}", "nightly", "c", "f"), same=True)
        for k in range(8)
    ]
    writers = [threading.Thread(target=archive.extend, args=(path, part)) for part in parts]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert len(of(archive.read(path))) == 8
