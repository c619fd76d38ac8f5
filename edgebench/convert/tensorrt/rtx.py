"""A program of its own: `python rtx.py MODEL.onnx` says in one line of JSON what TensorRT RTX's parser says.

It needs neither GPU nor driver, and nothing of edgebench. {"supported": bool, "errors": [{node, operator,
description}]}. A crash of the parser ends this process alone.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

MAX_ERRORS = 200
MAX_TEXT = 2000


def main() -> None:
    """Parse the model named on the command line; the answer goes to the real stdout, all else to stderr."""
    answer_to = os.dup(1)
    os.dup2(2, 1)
    os.write(answer_to, json.dumps(_ask(Path(sys.argv[1]).read_bytes())).encode() + b"\n")


def _ask(data: bytes) -> dict[str, Any]:
    import tensorrt_rtx_bindings as rtx

    logger = rtx.Logger(rtx.Logger.ERROR)
    network = rtx.Builder(logger).create_network(0)
    parser = rtx.OnnxParser(network, logger)
    supported = bool(parser.supports_model_v2(data))
    errors = [parser.get_error(place) for place in range(min(parser.num_errors, MAX_ERRORS))]
    return {
        "supported": supported,
        "errors": [
            {
                "node": error.node_name()[:MAX_TEXT],
                "operator": error.node_operator()[:MAX_TEXT],
                "description": error.desc()[:MAX_TEXT],
            }
            for error in errors
        ],
    }


if __name__ == "__main__":
    main()
