"""How often a property is tried against a real server: each example is a restore or two, a tenth of a second and more."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

F = TypeVar("F", bound=Callable[..., object])
_THOROUGH = "THOROUGH" in os.environ  # `make slow`


def examples(most: int) -> Callable[[F], F]:
    """`most` of them in `make slow`, a fifth in `make test`."""
    count = most if _THOROUGH else -(-most // 5)
    quiet = settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    return lambda test: pytest.mark.property(quiet(test))
