"""Experiments side by side on the page."""

from datetime import timedelta

from playwright.sync_api import expect
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, metric_store
from service.contract.messages import MetricColumns
from service.contract.status import EndReason
from tests.browser.looking import assert_accessible, assert_fits_a_phone
from tests.browser.site import Site
from tests.browser.visiting import Visit
from tests.factories import NOW, make_attempt, make_stage_result, spec_body, study_body

NUM_STEPS = 60


async def finished(session: AsyncSession, *, seed: int, objective: str) -> None:
    """One run with a result and two series."""
    sft = {**spec_body()["sft"], "objective": {"type": objective}}
    evaluation = {**study_body()["base"]["evaluation"], "points": ["after_sft"]}
    facts = {"name": f"{objective} <b>{seed}</b>", "tags": ["side"], "seed": seed}
    attempt = await make_attempt(session, sft=sft, evaluation=evaluation, **facts)
    steps = [*range(1, NUM_STEPS + 1)]
    ts = [NOW + timedelta(seconds=step) for step in steps]
    lead = 0.4 if objective == "sed" else 0.0
    series = {
        "sft/nll": [3.0 / step + lead + seed / 20 for step in steps],
        "sft/entropy": [2.0 - step / 60 + lead + seed / 30 for step in steps],
        "sft/num_tokens": [512.0 for _ in steps],
    }
    columns = [MetricColumns(name=name, steps=steps, ts=ts, values=values) for name, values in series.items()]
    await metric_store.append_columns(session, attempt, columns)
    metrics = {"eval/test/pass@1": 0.3 + lead / 4 + seed / 100, "diversity/test/self_bleu": 60 - 40 * lead + seed}
    await attempts.record_stage_result(session, attempt, make_stage_result("sft"))
    await attempts.record_stage_result(session, attempt, make_stage_result("evaluate_after_sft", metrics=metrics))
    await attempts.end_attempt(session, attempt, EndReason.COMPLETED, "", {})


def test_groups_are_drawn_with_their_bands_and_regrouped(site: Site, visit: Visit) -> None:
    async def feed(session: AsyncSession) -> None:
        for objective in ("ce", "sed"):
            for seed in (1, 2, 3):
                await finished(session, seed=seed, objective=objective)

    site.feed(feed)
    page = visit("/compare?tag=side")
    expect(page.locator("#curves .chart .legendtext").first).to_have_text("ce (n 3)")
    assert page.locator("#curves .chart .js-fill").count() == 4, "one band for each group of each of two charts"
    expect(page.locator("#results tbody tr").first).to_contain_text("0.320 ±")
    page.get_by_label("over tokens trained").check()
    expect(page.locator("#curves .chart .xtitle").first).to_have_text("tokens trained")
    page.get_by_label("over step").check()
    page.get_by_label("each run").check()
    expect(page.locator("#curves .chart").first.locator(".trace.scatter")).to_have_count(2 * 3 + 6)
    assert_accessible(page)
    assert_fits_a_phone(page)
    page.get_by_label("sft.objective.type", exact=True).uncheck()
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".groups strong")).to_have_text(["all"])
    expect(page.locator(".warnings")).to_contain_text("sft.objective.type")
