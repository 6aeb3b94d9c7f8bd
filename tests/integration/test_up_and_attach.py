"""`squall up`, Locust by hand on it (headless and with the web UI), `squall down`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pandas as pd
import pytest
from pipeline import NO_FAULTS, QUICKSTART, ROOT, SHORT, left_over, sets, squall

from harness.core import clock

pytestmark = [
    pytest.mark.sut,
    pytest.mark.timeout(240),
    pytest.mark.load,
]
LOCUST = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py")]


@pytest.fixture
def system(tmp_path: Path, killing: Callable[[str], None]) -> Iterator[Path]:
    out = tmp_path / "up"
    done = squall("up", str(QUICKSTART), "--out", str(out), *sets(*SHORT, *NO_FAULTS), out=out)
    assert done.code == 0, done.out + done.err
    run_id = json.loads((out / "manifest.json").read_text())["run_id"]
    killing(run_id)
    assert "locust -f" in done.out
    yield out
    down = squall("down", str(out), out=out)
    assert down.code == 0, down.out + down.err
    assert left_over(run_id) == []


def test_locust_by_hand_runs_judges_and_leaves_the_system_up(system: Path) -> None:
    argv = [*LOCUST, "--run-dir", str(system), "--headless"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=system.parent, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads((system / "verdict.json").read_text())
    assert verdict["status"] == "pass"
    users = pd.read_parquet(system / "requests.parquet").user_class
    assert set(users) == {"ChatUser", "CancellingUser"}, "without -u the scenario's users are started"
    url = json.loads((system / "sut.json").read_text())["urls"][0]
    with urlopen(f"{url}/health", timeout=5) as health:  # still there
        assert json.load(health)["status"] == "healthy"
    again = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=system.parent, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (
        len([d for d in system.parent.iterdir() if not d.is_symlink() and (d / "verdict.json").exists()]) == 2
    )


def test_the_web_ui_listens_on_loopback_only_and_shows_the_users(system: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [*LOCUST, "--run-dir", str(system), "--web-port", str(port)]
    with (system.parent / "ui.log").open("wb") as log:
        child = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, cwd=system.parent)
    try:

        def up() -> bool:
            try:
                with urlopen(f"http://127.0.0.1:{port}/", timeout=2) as page:
                    return b"Locust" in page.read()
            except OSError:
                return False

        assert clock.wait_until(up, 30), (system.parent / "ui.log").read_text()
        from harness.core import proc

        assert port in proc.listening_ports(child.pid)
        table = Path(f"/proc/{child.pid}/net/tcp").read_text()
        assert f"0100007F:{port:04X}" in table
        assert f"00000000:{port:04X}" not in table
    finally:
        child.terminate()
        child.wait(30)


def test_without_a_run_dir_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [*LOCUST, "--headless"], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert "squall up" in done.stderr
