"""Who can talk to a Ray of our own: this user, on this machine."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mm1_ablate.run.cluster import keep_token_private

LISTENERS = """
import ipaddress, os, sys
from pathlib import Path
from mm1_ablate.run.cluster import LOCAL, connected

def listeners(table, width):
    for line in Path(table).read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            address = bytes.fromhex(fields[1].split(":")[0])
            words = b"".join(address[place : place + 4][::-1] for place in range(0, width, 4))
            yield fields[9], ipaddress.ip_address(words)

def ours():
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == os.getsid(0):
                for descriptor in (process / "fd").iterdir():
                    yield os.readlink(descriptor)
        except OSError:
            pass

with connected(LOCAL, 1):
    inodes = {name[8:-1] for name in ours() if name.startswith("socket:[")}
    all_listeners = [*listeners("/proc/net/tcp", 4), *listeners("/proc/net/tcp6", 16)]
    found = [address for inode, address in all_listeners if inode in inodes]
    assert found
    print([str(address) for address in found if not (getattr(address, "ipv4_mapped", None) or address).is_loopback])
"""


def test_a_cluster_of_our_own_listens_on_this_machine_alone_and_its_token_is_ours_alone(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS], env=environment, capture_output=True, text=True, start_new_session=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(token.read_text()) == 64
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


def test_a_token_that_others_can_read_is_made_private_and_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_token_private()
    token = tmp_path / ".ray" / "auth_token"
    made = token.read_text()
    token.chmod(0o644)
    keep_token_private()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and token.read_text() == made and [*token.parent.iterdir()] == [token]
    declared = tmp_path / "declared"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(declared))
    keep_token_private()
    assert not declared.exists(), "what is declared is not invented"
    declared.write_text("token")
    declared.chmod(0o664)
    keep_token_private()
    assert stat.S_IMODE(declared.stat().st_mode) == 0o600
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    keep_token_private()  # Ray says what it lacks
