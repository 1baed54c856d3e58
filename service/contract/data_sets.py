"""Data sets that a specification may call by name: `data: {set: gsm8k}`.

    name ──> place on the hub with its commit, or the user's `path` ──> columns, prompt, gold answer, number of rows

A definition fills what the user left out; what a user wrote beside it stays. Rows are never shipped. The commits were
read in several independent public projects that pin them, not on the hub itself; where none was found, the definition
asks for one instead of naming it. Files are those of Qwen2.5-Math's evaluation, which the paper's protocol builds on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any, Literal

Use = Literal["prompts", "supervised"]
"""What the rows are: prompts with gold answers, or samples to be trained."""

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
"""What Qwen2.5-Math's evaluation puts first. SED-SFT's own training data have it without the last full stop."""

_TYPES = {".jsonl": "jsonl", ".parquet": "parquet", ".csv": "csv"}
_QWEN_FILE = "github.com/QwenLM/Qwen2.5-Math at a45202bd16f1, evaluation/data/{}/test.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlace:
    """A dataset on the hub."""

    repository: str
    """`owner/name`."""
    revision: str | None
    """The commit's 40 digits; None where it could not be found out, and then the user has to give it."""
    split: str
    config: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedDataSet:
    """One definition. Layouts are settings of the data source, such as `answer_field`."""

    name: str
    title: str
    use: Use
    hub: HubPlace | None = None
    hub_layout: Mapping[str, Any] = field(default_factory=dict)
    file_origin: str = ""
    """Where the file comes from whose layout is `file_layout`."""
    file_sha256: str | None = None
    """Of that file, as it was read."""
    file_layout: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a file that the user names by `path`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of either place."""
    reward: Mapping[str, Any] | None = None
    """What judges the completions of an evaluation set."""
    note: str = ""

    def layout(self, *, on_hub: bool) -> dict[str, Any]:
        """Columns, prompt and number of rows in one of the two places."""
        return {**self.settings, **(self.hub_layout if on_hub else self.file_layout)}


def _prompts(
    name: str,
    title: str,
    columns: tuple[str, str],
    *,
    hub: HubPlace,
    num_rows: int,
    num_rows_on_hub: int | None = None,
    answer_form: str = "text",
    file_columns: tuple[str, str] | None = None,
    file_answer_form: str | None = None,
    file_sha256: str | None = None,
    in_qwen_file: bool = True,
    further: Mapping[str, Any] | None = None,
    note: str = "",
) -> NamedDataSet:
    """An evaluation set; its file has the hub's layout unless said otherwise."""
    prompt, answer = columns
    file_prompt, file_answer = file_columns or columns
    return NamedDataSet(
        name=name,
        title=title,
        use="prompts",
        hub=hub,
        hub_layout={
            "prompt_field": prompt,
            "answer_field": answer,
            "answer_form": answer_form,
            "expected_rows": num_rows if num_rows_on_hub is None else num_rows_on_hub,
        },
        file_origin=_QWEN_FILE.format(name) if in_qwen_file else "a file with the columns of the hub's dataset",
        file_sha256=file_sha256,
        file_layout={
            "prompt_field": file_prompt,
            "answer_field": file_answer,
            "answer_form": file_answer_form or answer_form,
            "expected_rows": num_rows,
        },
        settings={"chat": {"system_prompt": BOXED}, **(further or {})},
        reward={"type": "math_answer", "unreadable_gold": "text"},
        note=note,
    )


def _hub(repository: str, revision: str | None, split: str, config: str | None = None) -> HubPlace:
    return HubPlace(repository=repository, revision=revision, split=split, config=config)


_EVALUATION_SETS = (
    _prompts(
        "aime24",
        "AIME 2024, I and II",
        ("problem", "solution"),
        hub=_hub("math-ai/aime24", "83a7f387baaa524a8bda0022eac0541582297103", "test"),
        num_rows=30,
        answer_form="last_boxed",
        file_columns=("problem", "answer"),
        file_answer_form="number",
        file_sha256="af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac",
    ),
    _prompts(
        "aime25",
        "AIME 2025, I and II",
        ("problem", "answer"),
        hub=_hub("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", "test"),
        num_rows=30,
        answer_form="number",
        in_qwen_file=False,
        note="not among the files of Qwen2.5-Math's evaluation",
    ),
    _prompts(
        "amc23",
        "AMC 12 2023, with integer answers",
        ("question", "answer"),
        hub=_hub("math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057", "test"),
        num_rows=40,
        answer_form="number",
        file_sha256="43707e1ca784602d8479de24ee8ce36609dbebc46dd152b0b12a46611aa898a4",
    ),
    _prompts(
        "gsm8k",
        "GSM8K, test",
        ("question", "answer"),
        hub=_hub("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "test", "main"),
        num_rows=1319,
        answer_form="after_hashes",
        file_sha256="9f098df7ff4522078d6ccec27a5c38a454790fdb51131bedfaa0e490070d5394",
    ),
    _prompts(
        "math",
        "MATH, the whole test split",
        ("problem", "solution"),
        hub=_hub("DigitalLearningGmbH/MATH-lighteval", "0530c78699ea5e8eb5530600900e1f328b48acad", "test"),
        num_rows=5000,
        answer_form="last_boxed",
        note="the paper says MATH500, but its figures have tenths that 500 problems cannot give",
    ),
    _prompts(
        "gaokao2023en",
        "GaoKao 2023, in English",
        ("question", "answer"),
        hub=_hub("MARIO-Math-Reasoning/Gaokao2023-Math-En", None, "train"),
        num_rows=385,
        file_sha256="654d8f49bdb86f578c171dbc0dd8f4d9f1bf3d7a7438f60359fda7d643df4951",
        further={"without_answer": "drop"},
        note="2 of the 385 rows have no answer and are left out; the published evaluation counts them as wrong",
    ),
    _prompts(
        "olympiadbench",
        "OlympiadBench, open-ended mathematics in English, text only",
        ("question", "final_answer"),
        hub=_hub("Hothan/OlympiadBench", "91184b52131e7fc9455fef848035173aea8cc01a", "train", "OE_TO_maths_en_COMP"),
        num_rows=675,
        num_rows_on_hub=674,
        answer_form="first_of_list",
        file_sha256="bb8c1e38a16ea9eacb77530315a674d883f267fbff79183effc53681b4fcc416",
        note="the evaluation's file has one problem more than the hub's dataset",
    ),
    _prompts(
        "college_math",
        "CollegeMath, test",
        ("question", "answer"),
        hub=_hub("di-zhang-fdu/College_Math_Test", None, "test"),
        num_rows=2818,
        file_sha256="91131bc4a355b884fc63ef7c4f048c35adb030004a4cb07b1475698f120aa4a6",
    ),
)

_SED_PROMPT = BOXED.removesuffix(".")

_TRAINING_SETS = (
    NamedDataSet(
        name="miromind_m1_sft",
        title="MiroMind-M1-SFT-719K, the first 20,000 rows: the SFT data of SED-SFT",
        use="supervised",
        hub=_hub("miromind-ai/MiroMind-M1-SFT-719K", None, "train"),
        hub_layout={"num_rows": 20_000},
        file_origin="a file with the columns of the hub's dataset, in its order",
        file_layout={"num_rows": 20_000},
        settings={
            "records": "question_answer",
            "question_field": "question",
            "answer_field": "response",
            "chat": {"system_prompt": _SED_PROMPT},
        },
        note="the authors take rows in file order, without shuffling; rows 20,000 to 20,999 are their held-out samples",
    ),
    NamedDataSet(
        name="sed_sft_rl",
        title="MATH train, filtered by Qwen2.5-Math-7B-Instruct: the RL data of SED-SFT",
        use="prompts",
        file_origin=(
            "github.com/pppa2019/SED-SFT at 6a89ea332ddb, data/math_train_data_filtered_qwen25_revised.parquet"
        ),
        file_layout={
            "prompt_field": "prompt",
            "answer_field": "reward_model.ground_truth",
            "expected_rows": 2069,
            "without_answer": "drop",
        },
        settings={"chat": {"system_prompt": _SED_PROMPT}},
        reward={"type": "math_answer"},
        note="one row has no answer and is left out; the prompts ask for no box themselves",
    ),
    NamedDataSet(
        name="math_train",
        title="MATH, the whole train split",
        use="prompts",
        hub=_hub("DigitalLearningGmbH/MATH-lighteval", "0530c78699ea5e8eb5530600900e1f328b48acad", "train"),
        hub_layout={"expected_rows": 7500},
        file_origin="a file with the columns of the hub's dataset",
        file_layout={"expected_rows": 7500},
        settings={
            "prompt_field": "problem",
            "answer_field": "solution",
            "answer_form": "last_boxed",
            "chat": {"system_prompt": BOXED},
        },
        reward={"type": "math_answer"},
    ),
)

DATA_SETS: Mapping[str, NamedDataSet] = {one.name: one for one in (*_EVALUATION_SETS, *_TRAINING_SETS)}

PAPER_EVALUATION_SETS = tuple(one.name for one in _EVALUATION_SETS)
"""The eight of the SED-SFT paper, in the order of its tables."""


def filled_data(body: Mapping[str, Any], use: Use) -> dict[str, Any]:
    """The settings of a data source as written, completed by the set that it names.

    Raises ValueError for an unknown set, one of another use, and one whose place the user has to give.
    """
    if not isinstance(name := body.get("set"), str):
        return dict(body)
    definition = named_data_set(name)
    if definition.use != use:
        places = {"prompts": "rl.data and evaluation", "supervised": "sft.data"}
        raise ValueError(f"set {name!r} is made for {places[definition.use]}, not for this place")
    if "path" in body:
        return {**definition.layout(on_hub=body.get("type") == "huggingface"), **_type_of(body["path"]), **body}
    return {**definition.layout(on_hub=True), **_place(definition, body), **body}


def named_data_set(name: str) -> NamedDataSet:
    """Raises ValueError that names the nearest known set."""
    if name not in DATA_SETS:
        near = get_close_matches(name, DATA_SETS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the sets are {', '.join(DATA_SETS)}"
        raise ValueError(f"no data set is called {name!r}; {hint}")
    return DATA_SETS[name]


def _place(definition: NamedDataSet, body: Mapping[str, Any]) -> dict[str, Any]:
    hub = definition.hub
    if hub is None:
        raise ValueError(
            f"set {definition.name!r} is a file and not on the hub; get it from {definition.file_origin}, "
            "and give its place as path"
        )
    if hub.revision is None and not body.get("revision"):
        raise ValueError(
            f"set {definition.name!r} is {hub.repository} on the hub, of which no commit is known here; give the "
            f"commit's 40 hexadecimal digits as revision, or as path a file ({definition.file_origin})"
        )
    values = {"type": "huggingface", "path": hub.repository, "split": hub.split}
    further = {"revision": hub.revision, "config": hub.config}
    return values | {key: value for key, value in further.items() if value is not None}


def _type_of(path: object) -> dict[str, str]:
    suffix = PurePosixPath(path).suffix if isinstance(path, str) else ""
    return {"type": _TYPES[suffix]} if suffix in _TYPES else {}
