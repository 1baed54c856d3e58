"""One file's options on their way into a specification; none of them goes without a word."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, TypeVar

from service.contract.imports import ImportedSetting, Outcome
from service.foreign_configs.flattening import UnreadableConfig
from service.foreign_configs.rules import NOTHING, NoEquivalent, NotNeeded, Rule, Same

_SECRETS = ("token", "api_key", "password", "secret")
_MAX_CHARACTERS = 300

Converted = TypeVar("Converted", int, float, bool)


class Reading:
    """The options of one file. What is read is told once; what nobody has read is unknown."""

    def __init__(self, file: str, settings: Mapping[str, Any], body: dict[str, Any]) -> None:
        self._file = file
        self._settings = {key: value for key, value in settings.items() if value is not None}
        self._unset = [key for key, value in settings.items() if value is None]
        self._told: set[str] = set()
        self._earlier = deepcopy(body)
        self.body = body
        """Of the specification; shared by the files of one import."""
        self.entries: list[ImportedSetting] = []

    def has(self, key: str) -> bool:
        """Whether the file gives it a value."""
        return key in self._settings

    def keys_under(self, prefix: str) -> list[str]:
        """The options that the file gives below a key."""
        return sorted(key for key in self._settings if key.startswith(prefix))

    def value(self, key: str, default: Any = None) -> Any:
        """As the file has it, or the default."""
        return self._settings.get(key, default)

    def number(self, key: str, default: float) -> float:
        """YAML reads `1e-5` as text; the other systems take it for a number."""
        return self._converted(key, default, as_number)

    def whole(self, key: str, default: int) -> int:
        """A whole number, also where it is written 3.0."""
        return self._converted(key, default, as_whole)

    def flag(self, key: str, default: bool) -> bool:
        """True or false, as YAML or as text."""
        return self._converted(key, default, as_flag)

    def _converted(self, key: str, default: Any, convert: Callable[[Any], Converted]) -> Converted:
        try:
            return convert(self.value(key, default))
        except ValueError as error:
            raise UnreadableConfig(f"{self._file}: {key}: {error}") from error

    def put(self, field: str, value: Any) -> None:
        """Set a field of the specification by its dotted name."""
        *parents, last = field.split(".")
        node = self.body
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value

    def take(
        self, key: str, field: str, becomes: Any, *, default: Any = None, reason: str = "", remedy: str = ""
    ) -> None:
        """Set a field because of an option that the file gives, or whose default counts.

        Stages share the model: what another file has said of it stands.
        """
        earlier = _at(self._earlier, field) if field.startswith("model.") and field != "model.max_model_len" else None
        if earlier is not None and earlier != becomes:
            if self.has(key):
                why = f"the stages share {field}, and it is {earlier} by the other file"
                self.tell(key, "no_equivalent", field=field, becomes=earlier, reason=why, remedy="choose one for both")
            return
        self.put(field, becomes)
        outcome: Outcome = "taken" if self.has(key) else "default"
        self.tell(key, outcome, field=field, becomes=becomes, default=default, reason=reason, remedy=remedy)

    def tell(
        self,
        key: str,
        outcome: Outcome,
        *,
        default: Any = None,
        field: str | None = None,
        becomes: Any = None,
        reason: str = "",
        remedy: str = "",
    ) -> None:
        """Say what became of an option."""
        self._told.add(key)
        value = self.value(key, default)
        self.entries.append(
            ImportedSetting(
                file=self._file,
                key=key,
                value="***" if _is_secret(key) and value else _shortened(value),
                outcome=outcome,
                field=field,
                becomes=becomes,
                reason=reason,
                remedy=remedy,
            )
        )

    def read(self, key: str, field: str, how: str) -> None:
        """Say of an option that it went into a field together with others; nothing if the file does not give it."""
        if self.has(key) and key not in self._told:
            found = _at(self.body, field)
            if found is None:
                self.tell(key, "not_needed", reason=how)
            else:
                self.tell(key, "taken", field=field, becomes=found, reason=how)

    def apply(self, rules: Iterable[Rule]) -> None:
        """Apply a table; options that were told of already are passed over."""
        for rule in rules:
            for key in self._keys_of(rule):
                self._apply(rule, key)

    def finish(self) -> None:
        """Tell of all that no table knows, and of what is given as null."""
        for key in sorted(self._settings.keys() - self._told):
            if key.rsplit(".", 1)[-1] == "_target_":
                self.tell(key, "not_needed", reason="what the other system's own class is called")
                continue
            reason = "no option of this name is known"
            remedy = "see `sedray schema` for what a specification holds, and leave it out if it is a slip of the pen"
            self.tell(key, "unknown", reason=reason, remedy=remedy)
        for key in self._unset:
            if key not in self._told:
                self.tell(key, "not_needed", reason="given as null: not set")

    def _keys_of(self, rule: Rule) -> list[str]:
        if rule.key.endswith(".*"):
            return [key for key in self._settings if key.startswith(rule.key[:-1]) and key not in self._told]
        return [] if rule.key in self._told else [rule.key]

    def _apply(self, rule: Rule, key: str) -> None:
        match rule:
            case Same():
                if self.has(key) or rule.default is not NOTHING:
                    given = self.value(key, rule.default)
                    self._take_converted(rule, key, given)
            case NotNeeded() if self.has(key):
                self.tell(key, "not_needed", reason=rule.reason)
            case NoEquivalent():
                given = self.value(key, rule.harmless[0] if rule.harmless else None)
                if any(_equal(given, one) for one in rule.harmless):
                    if self.has(key):
                        self.tell(key, "not_needed", reason="what happens here too")
                elif self.has(key):
                    self.tell(key, "no_equivalent", reason=rule.reason, remedy=rule.remedy)

    def _take_converted(self, rule: Same, key: str, given: Any) -> None:
        try:
            self.take(key, rule.field, rule.convert(given), default=given, reason=rule.note)
        except (ValueError, TypeError, KeyError) as error:
            remedy = f"set {rule.field} yourself"
            self.tell(key, "no_equivalent", default=given, field=rule.field, reason=str(error), remedy=remedy)


def as_number(value: Any) -> float:
    """A number, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no number")
    try:
        return value if isinstance(value, int | float) else float(value)
    except ValueError:
        raise ValueError(f"{value!r} is no number") from None


def as_whole(value: Any) -> int:
    """A whole number, or ValueError."""
    number = as_number(value)
    if number != int(number):
        raise ValueError(f"{value!r} is no whole number")
    return int(number)


def as_flag(value: Any) -> bool:
    """True or false, or ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
        return value.lower() in ("true", "yes")
    raise ValueError(f"{value!r} is neither true nor false")


def _equal(given: Any, harmless: Any) -> bool:
    if isinstance(harmless, bool) or isinstance(given, bool):
        return isinstance(given, bool) and given == harmless
    try:
        return as_number(given) == as_number(harmless)
    except ValueError:
        return bool(given == harmless)


def _is_secret(key: str) -> bool:
    name = key.rsplit(".", 1)[-1].lower()
    return any(name.endswith(one) for one in _SECRETS)


def _shortened(value: Any) -> Any:
    return value[:_MAX_CHARACTERS] + "…" if isinstance(value, str) and len(value) > _MAX_CHARACTERS else value


def _at(body: Mapping[str, Any], field: str) -> Any:
    node: Any = body
    for part in field.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
