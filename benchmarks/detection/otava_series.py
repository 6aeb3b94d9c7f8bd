"""Change points of many series by Apache Otava; runs in Otava's own venv, which has nothing of squall.

argv: series.npy (series, points), max_pvalue, out.json: for each series its [index, p, mean before, mean after].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from otava.analysis import compute_change_points


def main() -> None:
    series, level, out = np.load(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    found = []
    for one in series:
        points, _ = compute_change_points(list(map(float, one)), max_pvalue=level, min_magnitude=0.0)
        found.append(
            [
                [int(p.index), float(p.stats.pvalue), float(p.stats.mean_1), float(p.stats.mean_2)]
                for p in points
            ]
        )
    out.write_text(json.dumps(found))


main()
