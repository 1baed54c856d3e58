"""Checks of a specification's text: findings at their lines, and what would follow."""

import json
from html import unescape
from typing import Any

import httpx
import pytest
import yaml

from api.spec_templates import spec_templates
from api.spec_text import MAX_VALUES, read_spec_text
from service.contract.spec import ExperimentSpec
from service.contract.studies import StudySpec
from tests.factories import spec_body, study_body

pytestmark = pytest.mark.anyio
TEXT = """\
# a comment
name: toy
model: {path: /models/toy}
sft:
  data:
    path: /data/sft.jsonl
  optimizer: {learning_rate: 1e-3}
  num_epochs: 1
  batch_sise: 8
"""


async def check(client: httpx.AsyncClient, text: str, kind: str = "experiments") -> dict[str, Any]:
    answer = await client.post(f"/api/v1/{kind}/validate", json={"text": text})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_findings_stand_at_their_lines(client: httpx.AsyncClient) -> None:
    found = {one["field"]: one for one in (await check(client, TEXT))["findings"]}
    assert {name: one["line"] for name, one in found.items()} == {
        "sft.optimizer.learning_rate": 7,
        "sft.batch_size": 4,
        "sft.batch_sise": 9,
    }
    assert found["sft.optimizer.learning_rate"]["hint"] == "YAML reads 1e-3 as text; write 0.001"
    assert "did you mean 'batch_size'" in found["sft.batch_sise"]["hint"]


async def test_relative_paths_are_refused_with_what_to_do(client: httpx.AsyncClient) -> None:
    good = TEXT.replace("1e-3", "1.0e-3").replace("sise", "size")
    [finding] = (await check(client, good.replace("/data/sft", "data/sft")))["findings"]
    assert (finding["line"], finding["field"]) == (6, "sft.data.path") and "sedray submit FILE" in finding["hint"]


async def test_what_is_sound_comes_with_its_plan_and_its_start(client: httpx.AsyncClient) -> None:
    good = TEXT.replace("1e-3", "1.0e-3").replace("sise", "size")
    found = await check(client, good)
    assert found["findings"] == [] and found["plan"]["num_cpus"] == 2.0
    assert (found["start"]["place"], found["start"]["fits_now"]) == (1, None)
    place = found["places"]["sft.optimizer.learning_rate"]
    assert good.splitlines()[place["line"]][place["column"] : place["end_column"]] == "1.0e-3"
    assert (await client.post("/api/v1/experiments", json=found["body"])).status_code == 201
    assert "behind 1 that waits" not in found["start"]["words"]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("name: [toy\nseed: 1\n", 2, "not YAML"),
        ("name: a\nname: b\n", 2, "stands here twice"),
        ("- a\n", 1, "no object with keys"),
        ("", 1, "no object with keys"),
        ("name: .nan\n", 1, "cannot be read"),
        ("a: &a {b: *a}\n", 1, "cannot be read"),
        ("name: !!bool x\n", 1, "cannot be read"),
        ("name: \x00", 1, "cannot be read"),
    ],
)
async def test_broken_text_is_told_where(client: httpx.AsyncClient, text: str, line: int, problem: str) -> None:
    found = await check(client, text)
    assert found["body"] is None and found["findings"][0]["line"] == line
    assert problem in found["findings"][0]["problem"]


def test_a_small_text_cannot_stand_for_a_huge_one() -> None:
    text = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    text += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    found = read_spec_text(text)
    assert found.body is None and str(MAX_VALUES) in found.problems[0].problem


async def test_what_the_planner_refuses_and_unknown_projects_have_lines_too(client: httpx.AsyncClient) -> None:
    text = yaml.safe_dump(spec_body(project="nowhere"), sort_keys=False)
    [finding] = (await check(client, text))["findings"]
    assert text.splitlines()[finding["line"] - 1] == "project: nowhere"


async def test_a_study_is_checked_as_well(client: httpx.AsyncClient) -> None:
    found = await check(client, json.dumps(study_body()), "studies")
    assert found["findings"] == [] and found["plan"]["num_experiments"] == 4
    found = await check(client, yaml.safe_dump(study_body(baseline="none"), sort_keys=False), "studies")
    assert found["plan"] is None and "none" in found["findings"][0]["problem"]


async def test_templates_are_specifications(client: httpx.AsyncClient) -> None:
    items = (await client.get("/api/v1/spec-templates")).json()["items"]
    assert {one["kind"] for one in items} == {"experiment", "study"}
    for one in spec_templates():
        model = StudySpec if one.kind == "study" else ExperimentSpec
        model.model_validate(read_spec_text(one.text).body)


async def test_a_copy_can_be_submitted_as_it_is(client: httpx.AsyncClient) -> None:
    sft = {**spec_body()["sft"], "objective": {"type": "ce"}}
    rl = {
        "data": {"path": "/data/rl.jsonl"},
        "reward": {"type": "countdown"},
        "optimizer": {"learning_rate": 1e-4},
        "num_steps": 2,
        "num_prompts_per_step": 2,
        "num_generations": 2,
        "max_completion_length": 8,
    }
    made = (await client.post("/api/v1/experiments", json=spec_body(sft=sft, rl=rl))).json()
    page = await client.get("/new", params={"from": made["id"]})
    text = unescape(page.text.split("<textarea", 1)[1].split(">", 1)[1].split("</textarea>")[0])
    assert ExperimentSpec.model_validate(read_spec_text(text).body) == ExperimentSpec.model_validate(made["spec"])


async def test_a_copy_begins_with_the_specification(client: httpx.AsyncClient) -> None:
    made = (await client.post("/api/v1/experiments", json=spec_body(description="<b>bold</b>"))).json()["id"]
    page = await client.get("/new", params={"from": made})
    assert f"# from {made}" in page.text and "&lt;b&gt;bold" in page.text
    assert (await client.get("/new", params={"from": "exp-none"})).status_code == 404
