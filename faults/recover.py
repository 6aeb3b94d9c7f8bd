"""What `squall recover [RUN]` does: finish a run whose processes and guardian are gone.

Owns the decision whether that is allowed. The steps are restore's; a second call changes nothing.
"""

from __future__ import annotations

import signal

from faults import guardian, restore
from harness.core import clock, proc, rundir
from harness.core.errors import NotRestored
from harness.core.rundir import RunDir

_GUARDIAN_S = 15.0  # it needs about 5 s when it is alive


def recover(run: RunDir, say: restore.Say) -> None:
    """Bring the host back. Raises UsageError while the run lives, NotRestored if something stays.

    A run lives as long as its process holds the lock of the run directory. A guardian at work is
    waited for; one that doesn't end is replaced by us.
    """
    run_id = restore.run_id_of(run.path)
    with rundir.hold(run):
        guards = guardian.find(run_id)
        if guards:
            say(f"waiting for the guardian of {run_id}, which is at work")
            if not clock.wait_until(lambda: not guardian.find(run_id), _GUARDIAN_S):
                for one in guardian.find(run_id):
                    proc.send(one, signal.SIGKILL)
        done = restore.restore(run, run_id, "recover", say)
    if done.problems:
        raise NotRestored(f"{run.path}: not as before: {'; '.join(done.problems)}", done.commands)
    what = [f"{done.stopped} processes stopped"] if done.stopped else []
    what += [f"undone: {', '.join(done.undone)}"] if done.undone else []
    what += [f"system torn down ({done.torn_down} processes)"] if done.torn_down else []
    what += [f"{done.namespaces} network namespaces removed"] if done.namespaces else []
    say(f"{run.path.name}: {'; '.join(what) or 'nothing to do'}; host as before")
