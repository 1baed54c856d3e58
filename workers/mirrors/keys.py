"""The key that a mirror may show its server: a specification names it, and operators allow it for one server."""

from collections.abc import Mapping

from service.contract.mirrors import MirrorSpec, MlflowMirror, WandbMirror, origin_of


class KeyRefused(Exception):
    """The mirror cannot have the key that it names."""


def key_for(mirror: MirrorSpec, allowed: Mapping[str, str], environment: Mapping[str, str]) -> str | None:
    """The key, or None for a mirror that needs none.

    `allowed` is the operators' list: name of a variable to address of the server that may see it. Without the address
    whoever writes a specification could have a key sent wherever he likes. Raises KeyRefused.
    """
    name, address = _wanted(mirror)
    if name is None:
        return None
    if name not in allowed:
        raise KeyRefused(
            f"{name} is not among the keys that mirrors may use; operators allow it by SEDRAY_MIRROR_KEYS "
            "(docs/ecosystem.md)"
        )
    if not origin_of(address) or origin_of(address) != origin_of(allowed[name]):
        raise KeyRefused(f"{name} may be shown to {allowed[name]} only, and the mirror is at {address}")
    key = environment.get(name, "")
    if not key:
        raise KeyRefused(f"the workers' environment has no {name}; set it where Ray's nodes start")
    return key


def _wanted(mirror: MirrorSpec) -> tuple[str | None, str]:
    match mirror:
        case MlflowMirror():
            return mirror.token_env, mirror.tracking_uri or ""
        case WandbMirror(mode="online"):
            return mirror.api_key_env, mirror.base_url
        case _:
            return None, ""
