import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import DeadKernelError

from neuralef import kernels

forked = pytest.mark.skipif(not kernels.forks(), reason="processes are not forked on this system")


@pytest.fixture
def run(tmp_path):
    def executed(*cells, folder=tmp_path):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "in.ipynb")
        done = papermill.execute_notebook(
            tmp_path / "in.ipynb",
            tmp_path / "out.ipynb",
            kernel_name="python3",
            kernel_manager_class=kernels.manager(),
            cwd=str(folder),
            progress_bar=False,
        )
        return [[output.get("text") or dict(output["data"]) for output in cell.outputs] for cell in done.cells]

    return executed


@pytest.mark.parametrize(
    ("system", "folder", "forked"),
    [
        ("linux", "/tmp", True),
        ("darwin", "/tmp", False),
        ("win32", "/tmp", False),
        ("linux", "/tmp/" + 70 * "a", False),
    ],
)
def test_kernels_are_forked_where_that_works(monkeypatch, system, folder, forked):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(kernels, "gettempdir", lambda: folder)
    assert kernels.forks() == forked
    assert (kernels.manager() is kernels.ForkingKernelManager) == forked


@forked
def test_every_kernel_is_a_process_of_its_own_with_folder_and_environment(run, tmp_path, monkeypatch):
    monkeypatch.setenv("NEURALEF_WORD", "first")
    first = run("import os, sys; kept = 1; print(os.getpid(), os.getcwd(), os.environ['NEURALEF_WORD'])")
    monkeypatch.setenv("NEURALEF_WORD", "second")
    (tmp_path / "beside").mkdir()
    second = run(
        "import os, sys; print(os.getpid(), os.getcwd(), os.environ['NEURALEF_WORD'])",
        "print('kept' in globals(), 'torch' in sys.modules)",
        folder=tmp_path / "beside",
    )
    (pid, folder, word), (other, beside, another) = (cells[0][0].split() for cells in (first, second))
    assert len({pid, other, str(os.getpid())}) == 3
    assert (Path(folder), Path(beside)) == (tmp_path, tmp_path / "beside")
    assert (word, another) == ("first", "second")
    assert second[1] == ["False True\n"]  # nothing is left of the first, and nothing need be imported


@pytest.mark.parametrize("manager", [kernels.ForkingKernelManager, kernels.EncryptingKernelManager])
def test_kernels_are_spoken_to_in_cipher(run, monkeypatch, manager):
    if manager is kernels.ForkingKernelManager and not kernels.forks():
        pytest.skip("processes are not forked on this system")
    monkeypatch.setattr(kernels, "manager", lambda: manager)
    application = "from ipykernel.kernelapp import IPKernelApp\n"
    assert run(application + "print(IPKernelApp.instance().curve_secretkey is not None)") == [["True\n"]]


def test_figures_stand_in_the_notebook(run):
    (shown,) = run("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert "image/png" in shown[0]


def test_kernels_compute_in_all_threads_and_take_gradients(run):
    product = "import torch\nx = torch.ones(500, 500, requires_grad=True)\n(x @ x).sum().backward()\n"
    (printed,) = run(product + "print(x.grad.sum().item(), torch.get_num_threads())")
    import torch

    assert printed == [f"{2 * 500**3:.1f} {torch.get_num_threads()}\n"]


def test_processes_can_be_started_from_a_kernel(run):
    source = "from concurrent.futures import ProcessPoolExecutor\nimport multiprocessing\n"
    source += "with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:\n"
    source += "    print(pool.submit(pow, 2, 3).result())"
    assert run(source) == [["8\n"]]


def test_a_kernel_that_dies_is_an_error(run):
    with pytest.raises(DeadKernelError):
        run("import os; os._exit(3)")


@forked
def test_what_is_imported_once_has_started_no_thread(run):
    assert run("import os; print(len(os.listdir(f'/proc/{os.getppid()}/task')))") == [["1\n"]]


@forked
@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)"])
def test_kernels_end_with_the_process_that_started_them(tmp_path, ending):
    script = tmp_path / "start.py"
    script.write_text(
        "import asyncio, os, sys\n"
        "from neuralef import kernels\n"
        "kernels.PRELOADED = ('ipykernel.kernelapp',)\n"  # the rest takes its time and ends no otherwise
        "async def start():\n"
        "    manager = kernels.manager()(kernel_name='python3')\n"
        "    await manager.start_kernel()\n"
        "    await asyncio.sleep(1)\n"
        "    print(manager.provisioner.pid, flush=True)\n"
        f"    {ending}\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(start())\n"
    )
    pid = int(subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120).stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.2)
    pytest.fail(f"kernel {pid} outlived the process that started it")
