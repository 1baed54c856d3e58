"""Tests of migrations change tables: each has a database of its own."""

import pytest


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """In place of the one that tests share."""
    return own_database_url
