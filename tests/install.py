"""Before the tests: the Debian packages that some of them need, if this is root on Debian; else the command.

Nothing fails here: a test whose part is missing skips with the reason, or fails where REQUIRE names it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PACKAGES = {  # command: package
    "chromium": "chromium",
    "ip": "iproute2",
    "nft": "nftables",
    "etcd": "etcd-server",
    "nats-server": "nats-server",
}
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def main() -> None:
    missing = [package for command, package in PACKAGES.items() if shutil.which(command, path=SEARCH) is None]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        print(f"tests that need {', '.join(missing)} will skip; to run them: sudo {' '.join(command)}")
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "update", "-qq"], command):
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            print(f"{' '.join(argv)} failed: {done.stderr.strip()[-300:]}")
            return


if __name__ == "__main__":
    main()
