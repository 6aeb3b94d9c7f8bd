"""Processes, with real ones: identities, signals that never hit a stranger, trees, marks, ports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import clock, ids, proc
from harness.core.proc import Identity

WAIT_S = 20


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Children to end after the test, with all that they started."""
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for child in made:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        for pipe in (child.stdin, child.stdout):
            if pipe:
                pipe.close()
        child.wait()


def python(
    started: list[subprocess.Popen[bytes]], code: str, tmp_path: Path, **env: str
) -> subprocess.Popen[bytes]:
    """A process that runs `code`, says `up` and waits."""
    text = f"import os,signal,subprocess,sys,time\n{code}\nprint('up', flush=True)\ntime.sleep(600)\n"
    child = proc.spawn(
        [sys.executable, "-c", text], {**os.environ, **env}, tmp_path / "child.log", stdout=subprocess.PIPE
    )
    started.append(child)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    return child


def identity(child: subprocess.Popen[bytes]) -> Identity:
    who = proc.identify(child.pid)
    assert who is not None
    return who


def test_stat_of_a_process_with_a_nasty_name(started: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    code = "import pathlib; pathlib.Path('/proc/self/comm').write_text(') R 1 (x')"
    child = python(started, code, tmp_path)
    stat = proc.stat(child.pid)
    assert stat is not None
    assert stat.ppid == os.getpid()
    assert stat.state in "SR"
    assert stat.start_ticks > 0


def test_identity_ends_with_the_process_zombies_included(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    child = python(started, "", tmp_path)
    who = identity(child)
    assert proc.alive(who)
    assert proc.exit_code(who) is None
    child.kill()
    assert clock.wait_until(lambda: not proc.alive(who), WAIT_S)  # not waited for: a zombie is dead
    assert proc.stat(who.pid) is not None
    assert proc.exit_code(who) == -signal.SIGKILL
    assert proc.wait(child, WAIT_S) == -signal.SIGKILL
    assert proc.stat(who.pid) is None
    assert proc.exit_code(who) is None
    assert not proc.send(who, signal.SIGTERM)


def test_a_reused_pid_is_never_signalled(started: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """Negative control of identities: the same pid with another start time is a stranger."""
    child = python(started, "", tmp_path)
    who = identity(child)
    stranger = Identity(who.pid, who.start_ticks - 1)
    assert not proc.alive(stranger)
    assert not proc.send(stranger, signal.SIGKILL)
    assert proc.stop_all([stranger], 0.1) == []
    assert proc.tree(stranger) == []
    assert proc.alive(who)
    assert proc.send(who, signal.SIGKILL)
    assert proc.wait(child, WAIT_S) == -signal.SIGKILL


def test_stop_and_continue_show_in_the_state(started: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    who = identity(python(started, "", tmp_path))

    def state() -> str:
        stat = proc.stat(who.pid)
        return stat.state if stat else "gone"

    assert proc.send(who, signal.SIGSTOP)
    assert clock.wait_until(lambda: state() == "T", WAIT_S)
    assert proc.alive(who)
    assert proc.send(who, signal.SIGCONT)
    assert clock.wait_until(lambda: state() in "SR", WAIT_S)


def test_tree_is_the_process_and_its_descendants_parents_first(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    code = (
        'inner = \'import subprocess,sys,time; p=subprocess.Popen(["sleep","600"]); print(p.pid,flush=True); p.wait()\'\n'
        "p = subprocess.Popen([sys.executable, '-c', inner], stdout=subprocess.PIPE)\n"
        "print(p.pid, int(p.stdout.readline()), flush=True)"
    )
    text = f"import subprocess,sys,time\n{code}\ntime.sleep(600)\n"
    child = proc.spawn([sys.executable, "-c", text], os.environ, tmp_path / "log", stdout=subprocess.PIPE)
    started.append(child)
    assert child.stdout is not None
    middle, leaf = map(int, child.stdout.readline().split())
    found = proc.tree(identity(child))
    assert [one.pid for one in found] == [child.pid, middle, leaf]
    assert proc.stop_all(found, 5) == []
    assert not any(proc.alive(one) for one in found)


def test_marked_finds_ours_but_neither_the_caller_nor_a_guardian(
    started: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = ids.token()
    monkeypatch.setenv(proc.RUN_ENV, value)
    ours = python(started, "", tmp_path, **{proc.RUN_ENV: value})
    guardian = python(started, "", tmp_path, **{proc.RUN_ENV: value, proc.GUARDIAN_ENV: "1"})
    other = python(started, "", tmp_path, **{proc.RUN_ENV: value + "x"})
    assert proc.marked(proc.RUN_ENV, value) == [identity(ours)]
    assert proc.environ(guardian.pid)[proc.RUN_ENV] == value
    assert proc.alive(identity(other))
    assert proc.environ(1 << 22) == {}
    assert proc.command_line(1 << 22) == "?"
    assert sys.executable in proc.command_line(ours.pid)


def test_stop_all_kills_what_ignores_term_and_wakes_what_is_stopped(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    stubborn = identity(python(started, "signal.signal(signal.SIGTERM, signal.SIG_IGN)", tmp_path))
    tidy_file = tmp_path / "tidy"
    tidy = identity(
        python(
            started,
            f"signal.signal(signal.SIGTERM, lambda *_: (open({str(tidy_file)!r}, 'w').close(), os._exit(0)))",
            tmp_path,
        )
    )
    proc.send(tidy, signal.SIGSTOP)
    assert proc.stop_all([stubborn, tidy], 2) == []
    assert tidy_file.exists()
    assert not proc.alive(stubborn)


def test_listening_ports_are_the_processes_own(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0)))]
        with contextlib.suppress(OSError):  # a machine without IPv6
            sockets.append(stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6)))
        ports = [s.getsockname()[1] for s in sockets]
        unbound = stack.enter_context(socket.socket())
        unbound.bind(("127.0.0.1", 0))
        mine = proc.listening_ports(os.getpid())
        assert set(ports) <= set(mine)
        assert unbound.getsockname()[1] not in mine
        assert not set(ports) & set(proc.listening_ports(python(started, "", tmp_path).pid))
    assert not set(ports) & set(proc.listening_ports(os.getpid()))
    assert proc.listening_ports(1 << 22) == []


def test_spawn_is_a_session_of_its_own_and_logs_both_outputs(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    log = tmp_path / "deep" / "x.log"
    read, write = os.pipe()
    code = f"import os,sys; print('out',flush=True); print('err',file=sys.stderr); os.write({write}, b'%d' % os.getsid(0)); print(sys.stdin.read())"
    child = proc.spawn([sys.executable, "-c", code], {"A": "b"}, log, cwd=tmp_path, pass_fds=[write])
    started.append(child)
    os.close(write)
    assert proc.wait(child, WAIT_S) == 0
    with os.fdopen(read, "rb") as pipe:
        assert int(pipe.read()) == child.pid
    assert log.read_text().split() == ["out", "err"]


def test_detached_processes_outlive_their_popen(tmp_path: Path) -> None:
    who = proc.spawn_detached(["sleep", "600"], os.environ, tmp_path / "log")
    try:
        assert proc.alive(who)
    finally:
        assert proc.stop_all([who], 2) == []
        proc.collect([who])


def test_run_gives_code_and_outputs_and_ends_in_time() -> None:
    done = proc.run([sys.executable, "-c", "import sys; print('o'); sys.stderr.write('é'); sys.exit(3)"])
    assert (done.code, done.out, done.err) == (3, "o\n", "é")
    with pytest.raises(TimeoutError, match="sleep did not end within"):
        proc.run(["sleep", "600"], timeout_s=0.05)
    with pytest.raises(FileNotFoundError):
        proc.run(["/nonexistent/program"])


def test_tail_is_for_people(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert "No such file" in proc.tail(log)
    log.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % n for n in range(100)))
    assert proc.tail(log, 2) == "line 98\nline 99"


def test_it_imports_without_any_installed_package() -> None:
    """The guardian uses it with the standard library alone."""
    root = Path(__file__).resolve().parents[3]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import harness.core.proc, harness.core.clock"
    assert proc.run([sys.executable, "-I", "-S", "-c", code]).err == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority")
def test_children_do_not_inherit_a_raised_priority(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from harness.core import proc; "
        "os.setpriority(os.PRIO_PROCESS, 0, -5); "
        "child = proc.spawn(['sleep', '30'], {}, Path(sys.argv[1])); "
        "print(os.getpriority(os.PRIO_PROCESS, 0), os.getpriority(os.PRIO_PROCESS, child.pid)); child.kill(); child.wait()"
    )
    done = proc.run([sys.executable, "-c", code, str(tmp_path / "log")])
    assert done.out.split() == ["-5", "0"], done.err


def test_a_process_in_the_middle_of_its_execve_is_not_overlooked() -> None:
    """Right after Popen returns, /proc/<pid>/environ reads as empty about every other time."""
    for _ in range(100):
        child = subprocess.Popen(["sleep", "60"], env={"MARK": "here"})
        try:
            assert proc.environ(child.pid) == {"MARK": "here"}
            assert proc.command_line(child.pid) == "sleep 60"
        finally:
            child.kill()
            child.wait()
    assert proc.environ(child.pid) == {}
