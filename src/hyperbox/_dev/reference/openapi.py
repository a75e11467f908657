"""The OpenAPI document of the control socket, made from the declarations, whatever serves them."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from hyperbox import __version__
from hyperbox.api.messages import Problem
from hyperbox.api.operations import OPERATIONS, Operation

_REF = "#/components/schemas/{model}"


def document() -> dict[str, Any]:
    """Build the whole document."""
    models: set[tuple[type[BaseModel], JsonSchemaMode]] = {(Problem, "serialization")}
    for operation in OPERATIONS:
        models |= {(operation.request, "validation"), (operation.response, "serialization")}
    ordered = sorted(models, key=lambda pair: (pair[0].__name__, pair[1]))
    refs, definitions = models_json_schema(ordered, ref_template=_REF)
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HyperBox control socket",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": dict(sorted(definitions["$defs"].items()))},
    }


def text() -> str:
    """Give the document as it is committed."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _operation(operation: Operation[Any, Any], refs: Any) -> dict[str, Any]:
    request = operation.request.model_json_schema(ref_template=_REF)
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "200": _answer("Success.", refs[operation.response, "serialization"]),
            **_problems(operation, refs[Problem, "serialization"]),
        },
    }
    if operation.description:
        entry["description"] = operation.description
    if operation.method == "POST":
        entry["requestBody"] = {
            "required": bool(request.get("required")),
            "content": {"application/json": {"schema": refs[operation.request, "validation"]}},
        }
    elif request.get("properties"):
        entry["parameters"] = [
            {"name": name, "in": "query", "required": name in request.get("required", ()), "schema": schema}
            for name, schema in request["properties"].items()
        ]
    return entry


def _answer(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(operation: Operation[Any, Any], schema: Any) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for error in operation.all_errors:
        by_status.setdefault(error.http_status, []).append(error.code)
    return {str(status): _answer(", ".join(sorted(codes)), schema) for status, codes in sorted(by_status.items())}
