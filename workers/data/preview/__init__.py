"""What data become before a run, computed by a process of its own: `python -m workers.data.preview`.

It reads a `PreviewRequest` from its standard input and writes a `PreviewReply` to its standard output.
"""
