"""The launcher with small stand-ins for the mesh's processes; each is a real process."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartpay_sandbox.launcher import Mesh, MeshError
from smartpay_sandbox.processes import Listening, Process
from smartpay_sandbox.run_folder import RunFolder
from smartpay_sandbox.supervisor import RESTARTS_MAX, AlreadyRunningError, Supervisor

PATIENCE_SECONDS = 20

Make = Callable[..., Mesh]

CHILD = """
import os, signal, socket, sys, time
behaviour, path = sys.argv[1], sys.argv[2]
if behaviour == "dies":
    print("the disk is on fire"); sys.exit(3)
if behaviour == "tells":
    open(path, "w").write(repr(dict(os.environ))); sys.exit(0)
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.path.exists(path):
    os.unlink(path)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
while True:
    listener.accept()[0].close()
"""

PLAN = """
import sys
from smartpay_sandbox.processes import Listening, Process

def plan(run, overrides):
    def stays(name, after=(), layer=0, behaviour="serves"):
        path = run.sockets / f"{name}.sock"
        command = (sys.executable, CHILD, overrides.get(name, {}).get("BEHAVIOUR", behaviour))
        return Process(
            name, (*command, str(path)), {"PLANNED": "yes"}, after, Listening(path),
            stop_layer=layer, stop_seconds=0.3,
        )
    told = str(run.root / "told")
    task = Process(
        "task", (sys.executable, CHILD, "tells", told), {"PLANNED": "yes"}, is_task=True
    )
    return (task, stays("one", ("task",)), stays("two", ("one",), 1))
"""


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A mesh of two stand-ins and a task; give it behaviours by mesh.behave."""
    (tmp_path / "child.py").write_text(CHILD)
    plan = PLAN.replace("CHILD", repr(str(tmp_path / "child.py")))
    (tmp_path / "plan_of_stand_ins.py").write_text(textwrap.dedent(plan))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("A_SECRET_OF_THE_SHELL", "must not travel")
    started: list[Mesh] = []

    def make(**behaviours: str) -> Mesh:
        environment = {name: {"BEHAVIOUR": how} for name, how in behaviours.items()}
        plan = "plan_of_stand_ins:plan"
        started.append(Mesh(tmp_path / "run", environment=environment, plan=plan))
        return started[-1]

    yield make
    for one in started:
        one.stop()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child whose parent was killed may wait a moment for init to collect it.
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def eventually(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def pids(mesh: Mesh) -> list[int]:
    return [mesh.process(name).pid for name in ("one", "two")]


def test_start_returns_once_every_process_is_ready(mesh: Make) -> None:
    with mesh() as running:
        assert running.status["state"] == "healthy"
        assert running.process("task").state == "done"
        assert {running.process(name).state for name in ("one", "two")} == {"ready"}
        assert all(is_alive(pid) for pid in pids(running))


def test_a_clean_stop_leaves_nothing_but_state(mesh: Make) -> None:
    running = mesh()
    running.start()
    children, sockets = pids(running), running.run.sockets
    running.stop()
    assert not any(is_alive(pid) for pid in children)
    assert not sockets.exists()
    assert running.status["state"] == "stopped"
    assert running.run.state.is_dir()
    assert not running.is_running


def test_a_stopped_mesh_starts_again(mesh: Make) -> None:
    running = mesh()
    running.start()
    running.stop()
    running.start()
    assert running.status["state"] == "healthy"


def test_a_child_that_dies_at_the_start_stops_everything_and_its_last_words_are_told(
    mesh: Make,
) -> None:
    running = mesh(two="dies")
    with pytest.raises(MeshError) as told:
        running.start()
    assert str(told.value).startswith("two ended with 3; its last lines:")
    assert "the disk is on fire" in str(told.value)
    assert not running.is_running
    assert not is_alive(running.process("one").pid)


def test_the_last_words_of_an_earlier_start_are_not_told_again(mesh: Make) -> None:
    running = mesh(one="dies")
    for _ in range(2):
        with pytest.raises(MeshError) as told:
            running.start()
    assert str(told.value).count("the disk is on fire") == 1


async def test_a_process_that_never_gets_ready_stops_the_start_and_is_named(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path / "run")
    run.make()
    sleeps = (sys.executable, "-c", "import time; time.sleep(60)")
    plan = [Process("silent", sleeps, {}, ready=Listening(run.sockets / "nobody.sock"))]
    assert await Supervisor(plan, run, ready_seconds=0.2).run() == 1
    status = json.loads(run.status.read_text())
    assert status["reason"].startswith("silent was not ready within 0.2 s")
    assert not is_alive(status["processes"]["silent"]["pid"])


async def test_a_program_that_is_missing_stops_the_start_and_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.make()
    plan = [Process("ghost", (str(tmp_path / "no such program"),), {})]
    assert await Supervisor(plan, run).run() == 1
    assert "no such program" in json.loads(run.status.read_text())["reason"]


def test_a_child_that_ignores_the_request_to_stop_is_ended(mesh: Make) -> None:
    running = mesh(one="stubborn")
    running.start()
    pid = running.process("one").pid
    running.stop()
    assert not is_alive(pid)


def test_kill_9_of_the_supervisor_leaves_no_orphan(mesh: Make) -> None:
    running = mesh(one="stubborn")
    running.start()
    children = pids(running)
    os.kill(running.status["supervisor"], signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in children))
    eventually(lambda: not running.is_running)


def test_a_mesh_starts_again_after_its_supervisor_was_killed(mesh: Make) -> None:
    running = mesh()
    running.start()
    os.kill(running.status["supervisor"], signal.SIGKILL)
    eventually(lambda: not running.is_running)
    running.start()
    assert running.status["state"] == "healthy"


def test_the_mesh_ends_with_the_process_that_asked_for_it(mesh: Make, tmp_path: Path) -> None:
    asking = f"""
        import os, signal
        from pathlib import Path
        from smartpay_sandbox.launcher import Mesh
        Mesh(Path({str(tmp_path / "run")!r}), plan="plan_of_stand_ins:plan").start()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    running = mesh()
    subprocess.run([sys.executable, "-c", textwrap.dedent(asking)], check=False)
    eventually(lambda: not running.is_running)
    assert not any(is_alive(pid) for pid in pids(running))


def test_a_killed_process_is_started_again_and_the_others_run_on(mesh: Make) -> None:
    with mesh() as running:
        one, two = pids(running)
        running.kill("one")
        running.wait_restarted("one")
        assert running.process("one").pid != one
        assert running.process("two").pid == two
        assert running.status["state"] == "healthy"


def test_a_process_that_falls_over_again_and_again_is_given_up(mesh: Make) -> None:
    with mesh() as running:
        for restarts in range(1, RESTARTS_MAX + 1):
            running.kill("one")
            running.wait_restarted("one", restarts)
        running.kill("one")
        eventually(lambda: running.process("one").state.startswith("gave up"))
        assert running.process("two").state == "ready"
        assert running.is_running


def test_a_second_start_is_refused(mesh: Make) -> None:
    with mesh() as running, pytest.raises(AlreadyRunningError):
        Mesh(running.run.root, plan="plan_of_stand_ins:plan").start()


def test_children_inherit_nothing_that_was_not_planned(mesh: Make) -> None:
    with mesh() as running:
        told = (running.run.root / "told").read_text()
    assert "PLANNED" in told
    assert "A_SECRET_OF_THE_SHELL" not in told


def test_the_status_file_is_whole_json_for_whoever_reads_it(mesh: Make) -> None:
    with mesh() as running:
        status = json.loads(running.run.status.read_text())
    assert status["processes"]["one"]["restarts"] == 0
    assert set(status) == {"state", "reason", "supervisor", "processes"}


def test_up_says_that_the_mesh_runs_already_and_succeeds(mesh: Make) -> None:
    with mesh() as running:
        running.run.endpoints.write_text(json.dumps({"rest": "https://127.0.0.1:1"}))
        command = (sys.executable, "-m", "smartpay_sandbox.launcher", "--run")
        said = subprocess.run(
            [*command, str(running.run.root), "up"], capture_output=True, text=True, check=False
        )
    assert said.returncode == 0
    assert "runs already" in said.stdout


def test_a_taken_port_that_was_demanded_stops_the_start_and_names_its_holder(
    tmp_path: Path,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mesh = Mesh(tmp_path / "run", environment={"ports": {"edge": str(port)}})
        with pytest.raises(MeshError, match=rf"Port {port} for edge is taken by process"):
            mesh.start()
        assert not mesh.is_running
