"""Previewed data in the terminal: samples with their trained tokens marked, lengths, counts, digests."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.contract.preview import DataPreview, DataSetPreview, LengthHistogram, PreviewedSample

_TRAINED = "black on #ffc44d"
_UNTRAINED = "dim"
_BEGIN, _END = "⟦", "⟧"
"""Around what is trained, also where there are no colours."""
_BAR_WIDTH = 40
_GLYPHS = {"\n": "⏎\n", "\t": "⇥\t"}
_DIGESTS = ("data_sha256", "tokenizer_sha256", "template_sha256", "lineage_sha256")


def preview_view(preview: DataPreview) -> RenderableType:
    """All data sets, one below the other."""
    return Group(*(part for data_set in preview.data_sets for part in _data_set(data_set)))


def _data_set(data_set: DataSetPreview) -> Iterator[RenderableType]:
    yield Text.assemble((data_set.name, "bold"), f"  {data_set.path}")
    yield Text(_counts(data_set))
    for refusal in data_set.refusals:
        yield Text(f"would be refused: {refusal}", style="red")
    yield _histogram(data_set.lengths)
    for number, sample in enumerate(data_set.samples):
        yield from _sample(number, sample)
    for name in _DIGESTS:
        if (digest := getattr(data_set, name)) is not None:
            yield Text(f"{name.removesuffix('_sha256'):10}{digest}", style="dim")
    yield Text()


def _counts(data_set: DataSetPreview) -> str:
    part = "" if data_set.is_complete else "the first "
    counts = [f"{part}{data_set.num_records} records", f"{data_set.num_samples} samples"]
    for name, number in (
        ("held out", data_set.num_held_out),
        ("dropped", data_set.num_dropped),
        ("truncated", data_set.num_truncated),
    ):
        if number:
            counts.append(f"{number} {name}")
    return ", ".join(counts)


def _histogram(lengths: LengthHistogram) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_row(Text("tokens", style="dim"), Text(f"median {lengths.median}, longest {lengths.longest}", style="dim"))
    most = max(lengths.counts, default=0)
    begin = next((number for number, count in enumerate(lengths.counts) if count), 0)
    for number, count in enumerate(lengths.counts[begin:], start=begin):
        bar = "█" * -(-count * _BAR_WIDTH // most) if most else ""
        first = number * lengths.bin_width
        name = str(first) if lengths.bin_width == 1 else f"{first}–{first + lengths.bin_width - 1}"
        table.add_row(Text(name), Text(f"{bar} {count}" if count else "", style="cyan"))
    return table


def _sample(number: int, sample: PreviewedSample) -> Iterator[RenderableType]:
    trained = f", {sample.num_trained_tokens} trained" if sample.answer is None else ""
    yield Text(f"sample {number}: {sample.num_tokens} tokens{trained}", style="bold")
    text = Text()
    before = False
    for place, (token, is_trained) in enumerate(zip(sample.tokens, sample.is_trained, strict=True)):
        if is_trained != before:
            text.append(_BEGIN if is_trained else _END)
        # Neighbours differ by underlining, so that single tokens can be told apart.
        style = (_TRAINED if is_trained else _UNTRAINED) + (" underline" if place % 2 else "")
        text.append(_visible(token), style=style)
        before = is_trained
    text.append(_END if before else "")
    if len(sample.tokens) < sample.num_tokens:
        text.append(" …", style=_UNTRAINED)
    yield text
    if sample.answer is not None:
        yield Text.assemble(("answer: ", "dim"), _visible(sample.answer))


def _visible(token: str) -> str:
    """With line ends to be seen, and nothing in it that could steer the terminal."""
    return "".join(_GLYPHS.get(sign) or (sign if sign.isprintable() else f"\\x{ord(sign):02x}") for sign in token)
