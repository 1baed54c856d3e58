"""Weights to the engines as one file that all of them read."""

from workers.actors.vllm_adapter import EngineFailed
from workers.placement import ActorDied, DeadlineExceeded
from workers.stages.engine_pool import EnginePool
from workers.stages.engine_roster import Member
from workers.stages.remote_actors import RemoteTrainer
from workers.stages.remote_engine import WEIGHTS_S, Call
from workers.weight_sync import WeightFolder, WeightSource, WeightSyncFailed


class SharedFileSync:
    """`roles.WeightSync`: the trainer writes a file and all engines load it.

    It stays until the next one replaces it, so that an engine which joins between two updates can load it.
    """

    def __init__(self, trainer: RemoteTrainer, engines: EnginePool, folder: WeightFolder) -> None:
        self._trainer, self._engines, self._folder = trainer, engines, folder
        self._current: tuple[WeightSource, int] | None = None
        engines.set_on_join(self.bring_up_to_date)

    def __call__(self, version: int) -> None:
        """See `roles.WeightSync`. An engine that fails is replaced by one that loads the file when it joins."""
        with self._engines.undisturbed():
            path = self._folder.path(version)
            source = WeightSource(path=path, manifest=self._trainer.write_weights(path))
            before, self._current = self._current, (source, version)
            if before is not None and before[0].path != path:
                self._folder.discard(before[0].path)
            calls = [(member, member.engine.begin_update(source, version)) for member in self._engines.members()]
            refused = [error for member, call in calls if (error := self._outcome(member, call))]
            if refused and len(refused) == len(calls):
                raise refused[0]

    def bring_up_to_date(self, member: Member) -> None:
        """Give an engine that joins the weights that the others have; at first that is what it has started with."""
        if self._current is not None:
            source, version = self._current
            _wait(member, member.engine.begin_update(source, version))

    def _outcome(self, member: Member, call: Call) -> WeightSyncFailed | None:
        """What the engine has against the file, if anything; an engine that failed otherwise is no word on it."""
        try:
            _wait(member, call)
        except WeightSyncFailed as error:
            self._engines.retire(member, error)
            return error
        except (ActorDied, EngineFailed, DeadlineExceeded) as error:
            self._engines.retire(member, error)
        return None


def _wait(member: Member, call: Call) -> None:
    member.engine.wait(call, "a weight update", WEIGHTS_S)
