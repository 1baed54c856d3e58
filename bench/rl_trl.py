"""TRL's GRPOTrainer on a workload: `python -m bench.rl_trl FOLDER --mode MODE --batch N`, one step a turn.

Runs in an interpreter that has the peers (bench/peers.txt) and needs nothing else of this project. What the workload
does not say is TRL's default, but for what would make it do other work: float32, no gradient checkpointing, no
correction by the engine's log-probs (another forward pass), prompts in the given order, no reports to other services.

Modes are the ways in which TRL generates:

    generate      transformers' generate, all completions in one batch
    continuous    transformers' continuous batching
    vllm          vLLM in the same process. Not made for the CPU: three things are patched, see `vllm_on_the_cpu`
"""

import argparse
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bench.turns import Turns

Mode = Literal["generate", "continuous", "vllm"]
MODES: tuple[Mode, ...] = ("generate", "continuous", "vllm")
_PHASES = {
    "transformers.generate": "generate",
    "transformers.generate_batch": "generate",
    "vLLM.generate": "generate",
    "sync_weights": "weights to the engine",
    "_prepare_inputs": "prepare",
    "compute_loss": "forward pass and loss",
}
"""By TRL's names of what it times itself. `prepare` has the first two, and rewards and padding besides."""


def vllm_on_the_cpu(eager: bool) -> None:
    """Let TRL use vLLM in its own process on a machine without GPU.

    - The engine stays in this process, where TRL looks for the model, and its cache has a size of its own.
    - `generate` has room for all completions of a step at once.
    - Linear layers keep packed copies of their weights only, so new ones are loaded by vLLM's layerwise reload.
    """
    import trl.generation.vllm_generation as generation  # type: ignore[import-not-found]
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    plain = generation.LLM

    def llm(**settings: Any) -> Any:
        settings |= {
            "distributed_executor_backend": "uni",
            "kv_cache_memory_bytes": 1 << 30,
            "max_num_seqs": 256,
            "enforce_eager": eager,
        }
        return plain(**settings)

    def sync_weights(self: Any) -> None:
        core = self.llm.llm_engine
        model = core.model_executor.driver_worker.model_runner.model
        initialize_layerwise_reload(model)
        model.load_weights(self._iter_named_params())
        finalize_layerwise_reload(model, core.model_config)
        self.llm.reset_prefix_cache()

    generation.LLM = llm
    generation.VLLMGeneration.sync_weights = sync_weights


def make_trainer(folder: Path, mode: Mode, batch: int, turns: Turns) -> Any:
    """TRL's trainer, ready to train the workload; `batch` completions a forward pass."""
    import torch
    import transformers
    import trl
    from datasets import Dataset

    class TakesTurns(transformers.TrainerCallback):  # type: ignore[misc]
        """From the beginning of one step to that of the next, so that logging is part of a turn."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Wait for a turn, and leave where none comes."""
            if not turns.next():
                # An engine's threads would keep the process.
                os._exit(0)

        def on_log(self, *_: Any, logs: Mapping[str, float], **__: Any) -> None:
            """A step's metrics come before its end."""
            turns.mean_length = logs.get("completions/mean_length", turns.mean_length)

    workload = json.loads((folder / "peer.json").read_text())
    pattern = re.compile(workload["reward_pattern"], re.DOTALL)

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [1.0 if pattern.search(text) else 0.0 for text in completions]

    completions_per_step = workload["num_prompts"] * workload["num_generations"]
    arguments = trl.GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=workload["num_steps"],
        learning_rate=workload["learning_rate"],
        lr_scheduler_type="constant",
        num_generations=workload["num_generations"],
        max_completion_length=workload["max_completion_length"],
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=completions_per_step // batch,
        generation_batch_size=completions_per_step,
        epsilon=workload["epsilon_low"],
        epsilon_high=workload["epsilon_high"],
        use_vllm=mode == "vllm",
        vllm_mode="colocate",
        vllm_max_model_length=workload["max_model_len"],
        vllm_importance_sampling_correction=False,
        use_transformers_continuous_batching=mode == "continuous",
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=workload["seed"],
    )
    prompts = [json.loads(line)["prompt"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    trainer = trl.GRPOTrainer(
        model=str(folder / "model"),
        args=arguments,
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[TakesTurns()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    assert trainer.model.dtype == torch.float32, "TRL loads in float32"
    return trainer


def note_phases(turns: Turns) -> None:
    """Tell what TRL times itself, by the names of `_PHASES`."""
    from trl.extras.profiling import ProfilingContext  # type: ignore[import-not-found]

    def take(self: Any, duration: float) -> None:
        phase = _PHASES.get(self.name.rpartition("Trainer.")[2] or self.name)
        if phase is not None:
            turns.note({phase: duration})

    ProfilingContext._log_metrics = take


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--eager", action="store_true", help="vLLM without compilation")
    arguments = parser.parse_args()
    turns = Turns()
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    if arguments.mode == "vllm":
        vllm_on_the_cpu(arguments.eager)
    note_phases(turns)
    make_trainer(arguments.folder, arguments.mode, arguments.batch, turns).train()


if __name__ == "__main__":
    main()
