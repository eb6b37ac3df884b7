#!/usr/bin/env python3
"""Checks that everything public in include/hostkv.hpp is explained, and that nothing of hostkv.h is left out.

    header_docs.py [HEADER.hpp [EXPORTS]]

Explained is a type, function, member or constant with a comment on the line above; operators that stand directly below
an explained operator share its comment. Members of namespace detail and private ones need none. Each function of the C
interface (client-ffi/abi/exports.txt) must be called in the header. Says what is missing and exits with 1.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def undocumented(text):
    """(line number, line) of each public declaration without a comment."""
    # For each open brace: "scope" for namespaces, "public" or "private" for types, "body" for all else.
    scopes = []
    missing = []
    begins_statement = True
    is_explained = False
    in_group = False
    for number, raw in enumerate(text.splitlines(), 1):
        code = re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])\'', '""', raw)
        code, _, comment = code.partition("//")
        code = code.strip()
        if not code:
            is_explained = bool(comment) if begins_statement else is_explained
            in_group = in_group and bool(comment)
            continue
        if code.startswith("#"):
            continue
        if code in ("public:", "private:"):
            scopes[-1] = code[:-1]
            is_explained = in_group = False
            continue
        visible = not any(scope in ("private", "body") for scope in scopes)
        if begins_statement and visible and not code.startswith(("}", "namespace", "inline namespace")):
            shares = in_group and "operator" in code
            if not is_explained and not shares:
                missing.append((number, raw.strip()))
            in_group = (is_explained and "operator" in code) or shares
        for position, character in enumerate(code):
            if character == "{":
                head = code[:position]
                if "namespace detail" in head:
                    scopes.append("private")
                elif "namespace" in head:
                    scopes.append("scope")
                elif re.match(r"(template <.*> )?(class|struct|enum class)\b(?!.*\()", code):
                    scopes.append("private" if code.startswith("class") else "public")
                else:
                    scopes.append("body")
            elif character == "}":
                scopes.pop()
        ended = code.endswith((";", "}", ",", ":", "{"))
        # A list of arguments goes on behind a comma; an enumerator has no parenthesis.
        if code.endswith(",") and ("(" in code or ")" in code or not scopes or scopes[-1] == "body"):
            ended = False
        begins_statement = ended
        if ended:
            is_explained = False
    return missing


def main():
    header = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "include/hostkv.hpp"
    exports = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "client-ffi/abi/exports.txt"
    text = header.read_text(encoding="utf-8")
    faults = [f"{header.name}:{number}: not explained: {line}" for number, line in undocumented(text)]
    code = re.sub(r"//.*", "", text)
    functions = exports.read_text(encoding="utf-8").split()
    faults += [f"{header.name} calls {name} nowhere" for name in functions if not re.search(rf"\b{name}\(", code)]
    for fault in faults:
        print(fault)
    if not functions:
        print(f"{exports} lists no function")
    sys.exit(1 if faults or not functions else 0)


if __name__ == "__main__":
    main()
