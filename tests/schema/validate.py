"""Holds documents against a schema: both as JSON, on the standard input; one verdict a line."""

import json
import sys

from jsonschema import Draft202012Validator

asked = json.load(sys.stdin)
Draft202012Validator.check_schema(asked["schema"])
validator = Draft202012Validator(asked["schema"])
for document in asked["documents"]:
    error = next(iter(validator.iter_errors(document)), None)
    print(json.dumps(None if error is None else f"{error.json_path}: {error.message[:300]}"))
