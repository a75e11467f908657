"""The error catalogue: every class is complete, and its codes and fields are sound."""

from __future__ import annotations

import pickle
import re

import pytest

from hyperbox.api.errors import ExitCode, GrpcStatus, HyperBoxError, catalogue


@pytest.mark.parametrize("error", catalogue().values(), ids=catalogue())
def test_each_error_is_complete(error: type[HyperBoxError]):
    assert re.fullmatch(r"HB-[A-Z]+-\d{3}", error.code)
    assert isinstance(error.exit_code, ExitCode)
    assert isinstance(error.grpc_status, GrpcStatus)
    assert error.http_status >= 400
    assert error.__doc__
    assert error.remedy.endswith((".", "`"))
    assert "\n" not in error.template
    made = error(**dict.fromkeys(error.fields, "x"))
    assert "{" not in made.message
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is error
    assert again.values == made.values


def test_wrong_fields_are_refused_at_once():
    error = next(e for e in catalogue().values() if e.fields)
    with pytest.raises(TypeError):
        error(nothing="x")


def test_a_code_cannot_be_taken_twice():
    taken = next(iter(catalogue()))
    with pytest.raises(TypeError, match="twice"):
        type("Again", (HyperBoxError,), {"code": taken, "template": "x", "remedy": "y."})
