"""Shows what data become, by a process with the workers' own code: the control plane knows no tokenizer.

The process reads what a user names: it gets none of the service's secrets, a folder of its own that vanishes with it,
and an end in time.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from service.contract.data import PromptData, SupervisedData
from service.contract.preview import DataPreview, PreviewReply, PreviewRequest
from service.contract.spec import ExperimentSpec
from service.errors import CannotRun, PreviewBusy, PreviewFailed, PreviewTooSlow, PreviewUnavailable
from service.planning.data_files import find_unreachable
from service.planning.findings import Finding

logger = logging.getLogger(__name__)

MAX_RUNNING = 2
_MODULE = "workers.data.preview"


class DataPreviewer:
    """Runs at most two previews at a time; a third is refused at once."""

    def __init__(self, *, python: str, timeout_s: float, max_running: int = MAX_RUNNING) -> None:
        """`python` is an interpreter with sedray's `preview` extra, or more."""
        self._python = python
        self._timeout_s = timeout_s
        self._free = max_running

    async def preview(self, request: PreviewRequest) -> DataPreview:
        """The preview; raises CannotRun if data, tokenizer or template cannot be used, or one of the Preview errors."""
        if findings := list(_unreachable(request.spec)):
            raise CannotRun(findings[0].problem, errors=[finding.as_detail() for finding in findings])
        if not self._free:
            raise PreviewBusy("other previews are running; try again in a few seconds")
        self._free -= 1
        try:
            reply = _decode(await self._ask(request))
        finally:
            self._free += 1
        if reply.preview is None:
            raise CannotRun(reply.config_error or "the data cannot be used")
        return reply.preview

    async def _ask(self, request: PreviewRequest) -> bytes:
        with TemporaryDirectory(prefix="sedray-preview-") as folder:
            process = await asyncio.create_subprocess_exec(
                *(self._python, "-P", "-m", _MODULE),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(folder),
                cwd=folder,
                start_new_session=True,
            )
            try:
                output, errors = await asyncio.wait_for(
                    process.communicate(request.model_dump_json().encode()), self._timeout_s
                )
            except TimeoutError:
                raise PreviewTooSlow(
                    f"the preview took longer than {self._timeout_s:g} s; ask for fewer records"
                ) from None
            finally:
                await _end(process)
        if process.returncode:
            raise _failure(process.returncode, errors.decode(errors="replace"))
        return output


def _environment(folder: str) -> dict[str, str]:
    """Nothing is inherited. Libraries keep their caches at home."""
    return {
        "PATH": os.defpath,
        "HOME": folder,
        "TMPDIR": folder,
        "PYTHONUTF8": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }


async def _end(process: asyncio.subprocess.Process) -> None:
    """The process with all that it may have started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _failure(code: int, errors: str) -> PreviewUnavailable | PreviewFailed:
    last = (errors.strip().splitlines() or [f"exit code {code}"])[-1]
    if "No module named" in last:
        return PreviewUnavailable(
            f"this service cannot preview data: {last}; install sedray with its 'preview' extra beside the API, or set "
            "SEDRAY_PREVIEW_PYTHON to an interpreter that has it"
        )
    logger.error("preview failed", extra={"exit_code": code, "errors": errors[-4000:]})
    return PreviewFailed(
        f"the preview ended with {last[:300]!r}; if the data are large or the template runs long, ask for fewer records"
    )


def _decode(output: bytes) -> PreviewReply:
    try:
        return PreviewReply.model_validate_json(output)
    except ValidationError as error:
        raise PreviewFailed(f"the preview gave no answer that can be read: {error.errors()[0]['msg']}") from error


def _unreachable(spec: ExperimentSpec) -> Iterator[Finding]:
    if not spec.model.path.startswith("/"):
        hint = "give the absolute path of a folder that the service can read"
        yield Finding(field="model.path", problem=f"{spec.model.path!r} is no absolute path", hint=hint)
    sources: dict[str, SupervisedData | PromptData | None] = {
        "sft.data": spec.sft.data if spec.sft else None,
        "sft.eval_data": spec.sft.eval_data if spec.sft else None,
        "rl.data": spec.rl.data if spec.rl else None,
        **{f"{where}.data": one.data for where, one in spec.evaluation_sets().items()},
    }
    for where, data in sources.items():
        if data is not None and (finding := find_unreachable(where, data)) is not None:
            yield finding
