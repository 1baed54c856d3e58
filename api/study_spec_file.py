"""A study's specification as a file that can be submitted again."""

import yaml

from service.contract.studies import StudySpec


def study_spec_yaml(study_id: str, spec: StudySpec, num_amendments: int) -> str:
    """YAML without what is left at its default; the head says where it comes from."""
    amended = f", with {num_amendments} amendments" if num_amendments else ", as submitted"
    body = spec.model_dump(mode="json", exclude_defaults=True)
    return f"# study {study_id}{amended}\n" + yaml.safe_dump(body, sort_keys=False, allow_unicode=True)
