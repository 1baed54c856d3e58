"""The shipped base model loads and is as able as the README says: neither untrained nor without room for RL."""

import json

import torch
from make_task import HERE
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.contract.gold_answers import parse_countdown_gold
from workers.rewards.countdown import verify_countdown


def test_base_model_solves_about_half_of_the_dev_prompts_greedily() -> None:
    tokenizer = AutoTokenizer.from_pretrained(HERE / "base")
    model = AutoModelForCausalLM.from_pretrained(HERE / "base")
    rows = [json.loads(line) for line in (HERE / "data/dev.jsonl").read_text(encoding="utf-8").splitlines()[:64]]
    prompts = tokenizer([row["prompt"] for row in rows], return_tensors="pt")
    with torch.inference_mode():
        samples = model.generate(**prompts, do_sample=False, max_new_tokens=16)
    texts = tokenizer.batch_decode(samples[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    golds = [parse_countdown_gold(row["answer"]) for row in rows]
    num_right = sum(verify_countdown(text, gold) for text, gold in zip(texts, golds, strict=True))
    assert 0.35 <= num_right / len(rows) <= 0.65


def test_base_model_is_small_float32_and_knows_its_end_token() -> None:
    model = AutoModelForCausalLM.from_pretrained(HERE / "base")
    tokenizer = AutoTokenizer.from_pretrained(HERE / "base")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.num_parameters() < 250_000
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
