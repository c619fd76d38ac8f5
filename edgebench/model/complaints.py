"""What ONNX Runtime says of a network it cannot run, in our words: operator, node, reason.

Its messages begin with codes, paths of our temporary folders and lines of its source; the node comes last.
"""

from __future__ import annotations

import re

# "Fail: [ONNXRuntimeError] : 1 : FAIL : " and "Load model from PATH failed:"
_CODE = re.compile(r"(?:^\w+: )?\[ONNXRuntimeError\] : -?\d+ : \w+ : ")
_LOADING = re.compile(r"^(?:Load|Deserialize|Open)\w* (?:model )?(?:from )?.{1,1000}? failed: ?", re.DOTALL)
# "/onnxruntime_src/.../pool_attributes.h:236 int64_t onnxruntime::PoolAttributes::OutputSize(...) const "
_SOURCE = re.compile(r"\S*onnxruntime\S*\.(?:cc|h|cpp):\d+ (?:[^()]*\([^()]*\)(?: const)? )?")
_RUNNING = re.compile(
    r"^Non-zero status code returned while running (\S+) node\. Name:'(.*?)' Status Message: "
)
_LOADED = re.compile(r"^Node ?\((.*?)\) Op ?\((\S*?)\) (?:\[\w+\] )?")
_INVALID = re.compile(
    r'^This is an invalid model\. (?:Error: )?(?:In Node, \("(.*?)", (\S+), .*? , Error )?', re.DOTALL
)


def in_plain_words(text: str) -> str:
    """`Conv "conv1": the reason` for what ONNX Runtime says; texts of another form stay as they are."""
    said, known = _CODE.subn("", text.strip())
    if not known:
        return text
    said = _LOADING.sub("", said)
    for form, swapped in ((_RUNNING, False), (_LOADED, True), (_INVALID, True)):
        found = form.match(said)
        if found is not None:
            first, second = found.groups()
            operator, node = (second, first) if swapped else (first, second)
            who = f"{operator} " if operator else ""
            who += f'"{node}"' if node else ""
            said = f"{who.strip()}: {said[found.end() :]}" if who else said[found.end() :]
            break
    return _CODE.sub("", _SOURCE.sub("", said)).strip() or text
