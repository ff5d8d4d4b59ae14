"""Parallel work: order, failures, processes that die, interrupts."""

import os
import signal
import subprocess
import sys
import time

import pytest

from triaffect.jobs import prefetch, run_all

SCRIPT = """
import sys
from test_jobs import note_and_wait
from triaffect.jobs import run_all

if __name__ == "__main__":
    try:
        list(run_all(note_and_wait, sys.argv[1:], workers=2))
    except KeyboardInterrupt:
        print("stopped")
"""


def double(number):
    if number == 3:
        raise ValueError("three")
    return 2 * number


def environment(_):
    return os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


def die_once(path):
    """End this process as `kill -9` does, unless it was done before."""
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write("x")
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return "survived"


def die(_):
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def note_and_wait(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize("workers", [0, 3])
def test_prefetch_keeps_the_order(workers):
    assert list(prefetch(lambda n: 2 * n, range(20), workers)) == [2 * n for n in range(20)]


@pytest.mark.parametrize("workers", [1, 2])
def test_one_failure_does_not_stop_the_others(workers):
    outcomes = {outcome.item: outcome for outcome in run_all(double, range(5), workers)}
    assert {item: outcome.result for item, outcome in outcomes.items()} == {0: 0, 1: 2, 2: 4, 3: None, 4: 8}
    assert str(outcomes[3].error) == "three"
    assert all(outcomes[item].error is None for item in (0, 1, 2, 4))


def test_each_process_has_its_own_gpu_and_share_of_threads():
    results = {outcome.result for outcome in run_all(environment, range(6), 2, gpus=["4", "7"])}
    assert {gpu for _, gpu, _ in results} <= {"4", "7"}
    assert {threads for threads, _, _ in results} == {str(max(1, (os.cpu_count() or 1) // 2))}
    assert os.getpid() not in {process for _, _, process in results}


def test_an_item_whose_process_was_killed_is_tried_again(tmp_path):
    (outcome,) = run_all(die_once, [str(tmp_path / "mark")], 2)
    assert outcome.result == "survived"


def test_a_process_that_always_dies_is_one_failure(tmp_path):
    (outcome,) = run_all(die, [0], 2)
    assert str(outcome.error) == "its process died (killed, or out of memory)"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_the_processes_end_with_the_one_that_started_them(tmp_path, number):
    (tmp_path / "script.py").write_text(SCRIPT)
    files = [tmp_path / "a", tmp_path / "b"]
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(tmp_path / "script.py"), *map(str, files)]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True) as script:
        deadline = time.monotonic() + 60
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        script.send_signal(getattr(signal, number))
        printed, _ = script.communicate(timeout=20)  # the output is closed once every process has ended
    assert printed == ("stopped\n" if number == "SIGINT" else "")


def test_workers_that_have_finished_clean_up_after_themselves(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "from triaffect.jobs import run_all\n"
        "LOCKS = []\n"
        "def hold_a_semaphore(number):\n"
        "    LOCKS.append(multiprocessing.get_context('spawn').RLock())\n"
        "    return number\n"
        "if __name__ == '__main__':\n"
        "    print(sorted(outcome.result for outcome in run_all(hold_a_semaphore, range(4), workers=2)))\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[0, 1, 2, 3]"
    assert result.stderr == ""
