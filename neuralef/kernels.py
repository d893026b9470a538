"""Notebook kernels that need not import anything: forked from a process that has imported what notebooks import.

A kernel by itself takes most of ten seconds to start, import PyTorch and the rest, and end; a forked one takes one.
The first kernel of a process pays for the imports, those after it share them. They differ in nothing else: each is a
process of its own with its own folder and environment. Where processes cannot be forked (macOS, Windows), kernels start
as they always do.
"""

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import gettempdir
from threading import Thread
from typing import Any

import zmq
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import default

from neuralef.allocation import keep_freed_memory

PRELOADED = (
    "ipykernel.kernelapp",
    "neuralef.experiments",
    "neuralef.plots",
    "neuralef.reporting",
    "sklearn.cluster",
    "timm",
)
"""What is imported once: modules that the notebooks, or most of them, come to import. None may start a thread of its
own, compute, or ask for a GPU: a fork keeps nothing of that."""

INLINE = "module://matplotlib_inline.backend_inline"

LONGEST_FOLDER = 70
"""Bytes of the name of the folder for temporary files that leave room for a socket's in the 108 of its address."""


def forks() -> bool:
    """Whether kernels are forked here."""
    return sys.platform == "linux" and len(os.fsencode(gettempdir())) <= LONGEST_FOLDER


class ForkedProcess:
    """A process of the fork server with the methods of ``subprocess.Popen`` that Jupyter calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: multiprocessing.Process):
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        """Exit status; ``None`` while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit status, once it has ended or ``timeout`` seconds have passed."""
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it."""
        self._process.kill()


class ForkingProvisioner(LocalProvisioner):
    """Starts kernels from the fork server."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Mapping[str, Any]:  # noqa: D102 (inherited)
        from multiprocessing import forkserver, resource_tracker  # not everywhere

        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        resource_tracker.ensure_running()  # which the server would start, and let interrupts through again
        with _without_interrupts():  # Ctrl-C is for this process, and would leave a traceback of the server's imports
            forkserver.ensure_running()
        options = cmd[cmd.index("ipykernel_launcher") + 1 :]
        folder = kwargs.get("cwd") or Path.cwd()
        process = context.Process(target=_run_kernel, args=(options, folder, dict(kwargs["env"])))
        process.start()
        self.process = ForkedProcess(process)
        atexit.register(process.kill)  # multiprocessing would wait for a kernel that nobody has told to end
        self.pid = self.pgid = process.pid
        return self.connection_info


class EncryptingKernelManager(AsyncKernelManager):
    """Manager of kernels that are spoken to in cipher where libraries can; otherwise ipykernel warns every time."""

    @default("transport_encryption")
    def _where_possible(self) -> str:
        return "auto" if zmq.has("curve") else "disabled"


class ForkingKernelManager(EncryptingKernelManager):
    """Manager of kernels of this interpreter, forked."""

    async def _async_pre_start_kernel(self, **kw: Any) -> tuple[list[str], dict[str, Any]]:
        if self.provisioner is None:
            self.provisioner = ForkingProvisioner(kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**kw)


def manager() -> type[AsyncKernelManager]:
    """Class of the managers of notebook kernels on this system."""
    return ForkingKernelManager if forks() else EncryptingKernelManager


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started here do not see SIGINT until they want to; it is kept for this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_kernel(options: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
    """A kernel, in the process that was forked for it."""
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()  # Ctrl-C is for the process that runs the notebooks, which then ends its kernels
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    Thread(target=_end_with, args=(multiprocessing.parent_process().sentinel,), daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    keep_freed_memory()
    # Both read the environment when they were imported.
    matplotlib.rcParams["backend"] = environment.get("MPLBACKEND", INLINE)
    IPKernelApp.launch_instance(argv=list(options), parent_handle=os.getppid())


def _end_with(sentinel: int) -> None:
    """End this process when the one that started it has ended, be it killed; Jupyter would look at the fork server."""
    wait([sentinel])
    os._exit(1)
