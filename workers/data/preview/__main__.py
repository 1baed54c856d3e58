"""The previewing process. Bounded in memory; whoever starts it bounds its time."""

import resource
import sys

from service.contract.preview import PreviewReply, PreviewRequest

_MAX_MEMORY_BYTES = 8 * 2**30
"""Of address space: a template or a file that would take more ends this process and no other."""


def main() -> None:
    """One request, one reply."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    # transformers imports torch wherever it is installed, which takes seconds; None makes it look missing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from workers.config_error import ConfigError
    from workers.data.preview.build import build_preview

    request = PreviewRequest.model_validate_json(sys.stdin.buffer.read())
    try:
        reply = PreviewReply(preview=build_preview(request))
    except ConfigError as error:
        reply = PreviewReply(config_error=str(error))
    sys.stdout.write(reply.model_dump_json())


if __name__ == "__main__":
    main()
