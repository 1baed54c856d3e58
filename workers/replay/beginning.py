"""Where a replay begins: with the newest whole checkpoint before the step, or with the policy that RL began with.

checkpoints/rl/step-c, c < STEP        weights, optimizer, reference
checkpoints/sft                        what SFT ended with, in the trainer's own precision and with its adapters
models/sft                             the same where it was trained in float32 without adapters
model.path                             without SFT
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec

from service.contract.spec import ExperimentSpec, ModelSpec
from service.contract.stages import SftSpec
from workers.checkpoints import MANIFEST, DamagedCheckpoint, checkpoint_name, is_local, load_checkpoint, load_latest


class CannotReplay(Exception):
    """Something that the replay needs is not in the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What the trainer loads before it trains a step again."""

    step: int
    """The last step that is done with it; 0 where RL begins."""
    model: ModelSpec
    checkpoint_root: str
    """A folder with the checkpoint of that step alone, or with none."""
    weights: tuple[str, int] | None = None
    """Root and step of the SFT checkpoint whose weights replace the model's."""
    passed_over: tuple[str, ...] = ()
    """Why newer checkpoints were not taken."""


def find_beginning(output_dir: str, spec: ExperimentSpec, step: int, scratch: Path) -> Beginning:
    """Look for it, and bring into `scratch` what the trainer cannot read where it lies. Raises CannotReplay."""
    root = scratch / "checkpoints"
    root.mkdir()
    damaged: list[str] = []
    for done in _checkpoints_before(f"{output_dir}/checkpoints/rl", step):
        name = checkpoint_name(done)
        try:
            _bring(f"{output_dir}/checkpoints/rl/{name}", root / name)
            load_checkpoint(str(root), name)
        except DamagedCheckpoint as error:
            damaged.append(f"checkpoint {name} is not whole: {error}")
            (root / name).rename(scratch / name)
            continue
        return Beginning(step=done, model=spec.model, checkpoint_root=str(root), passed_over=tuple(damaged))
    if spec.sft is None:
        return Beginning(step=0, model=spec.model, checkpoint_root=str(root), passed_over=tuple(damaged))
    return _after_sft(output_dir, spec.model, spec.sft, root, damaged)


def _after_sft(output_dir: str, model: ModelSpec, sft: SftSpec, root: Path, damaged: list[str]) -> Beginning:
    sft_root = f"{output_dir}/checkpoints/sft"
    for done in _ends_of_sft(sft_root, sft):
        try:
            load_checkpoint(sft_root, checkpoint_name(done))
        except DamagedCheckpoint as error:
            damaged.append(f"checkpoint {checkpoint_name(done)} of SFT is not whole: {error}")
            continue
        return Beginning(
            step=0, model=model, checkpoint_root=str(root), weights=(sft_root, done), passed_over=tuple(damaged)
        )
    if model.lora is None and model.dtype == "float32":
        exported = model.model_copy(update={"path": _model_folder(f"{output_dir}/models/sft", root.parent / "model")})
        return Beginning(step=0, model=exported, checkpoint_root=str(root), passed_over=tuple(damaged))
    raise CannotReplay(
        "; ".join(
            (
                *damaged,
                f"no checkpoint of RL lies before the step, {sft_root} does not hold the one with which SFT ended, and "
                "the model that SFT exported is not what RL began with: with adapters or in bfloat16 it is merged or "
                "rounded; replay a step after the first checkpoint that is kept",
            )
        )
    )


def _checkpoints_before(root: str, step: int) -> Iterator[int]:
    """Steps of the checkpoints that have a manifest, newest first."""
    filesystem, path = fsspec.core.url_to_fs(root)
    filesystem.invalidate_cache()
    for done in range(step - 1, 0, -1):
        if filesystem.exists(f"{path}/{checkpoint_name(done)}/{MANIFEST}"):
            yield done


def _ends_of_sft(root: str, sft: SftSpec) -> Iterator[int]:
    """Steps of the checkpoints with which the stage may have ended, as the trainer chooses: the first whole one."""
    newest = load_latest(root).checkpoint
    if newest is None or newest.facts["step"] != newest.facts["num_steps"]:
        return
    if sft.export == "last":
        yield newest.facts["step"]
    else:
        yield from (step for step, _ in newest.facts["best_checkpoints"])


def _model_folder(url: str, target: Path) -> str:
    filesystem, path = fsspec.core.url_to_fs(url)
    if not filesystem.isdir(path):
        raise CannotReplay(f"{url} is not there, and the replay begins with it")
    if is_local(url):
        return str(path)
    filesystem.get(f"{path}/", f"{target}/", recursive=True)
    return str(target)


def _bring(url: str, target: Path) -> None:
    """A folder of its own for a checkpoint: a stage takes up at the newest one that it finds beside each other."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if not is_local(url):
        filesystem.get(f"{path}/", f"{target}/", recursive=True)
        return
    target.mkdir()
    for file in Path(path).iterdir():
        (target / file.name).symlink_to(file.resolve())
