"""What a client saw, a line for each step, to be compared with what it saw of another engine."""

import json
import sys


def saw(step, value):
    print(json.dumps([step, value], sort_keys=True, separators=(",", ":")), flush=True)


def refused(step, error, call):
    """The call must fail with this class of error; its status is told."""
    try:
        call()
    except error as e:
        saw(step, [type(e).__name__, getattr(e, "status_code", None)])
        return str(e)
    sys.exit(f"{step}: nothing was refused")


def shape(value):
    """Names of fields, and the kinds of their values."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return {type(None): "null", bool: "bool", str: "text", int: "number", float: "number"}[type(value)]
