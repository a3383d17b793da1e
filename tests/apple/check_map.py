#!/usr/bin/env python3
"""Whether docs/api-map.md is true: it has every class and protocol of the manifest with its version, the messages that
the backend's table has for it, a reason for what is not sent, and functions that the public headers declare; and every
item of the parity test.

usage: check_map.py [--write] SOURCE_ROOT CC...

--write: first brings the column of what is sent up to date with the table.
"""

import glob
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check_table  # noqa: E402


def sent_by_class(check):
    sent = {}
    text = check.preprocess(check_table.ROWS, True)
    for kind, row in re.findall(r"ROW_BEGIN (METHOD|CALLBACK)(.*?)ROW_END", text, re.S):
        words = " ".join(row.split())
        sent.setdefault(words.split()[0], []).append(re.search(r'"([^"]*)"', words)[1])
    return sent


def row_errors(entry, row, sent):
    """What is wrong with the row of one class."""
    name, methods = entry["name"], [m["selector"] for m in entry["methods"]]
    version, ours, own, listed, why = row
    want = entry["macos"] + (", Apple silicon" if entry.get("arm64_only") else "")
    have = sorted(sent.get(name, []))
    said = sorted(methods) if listed == "all" else sorted(re.findall(r"`([^`]*)`", listed))
    if version != want:
        yield f"{name}: macOS {version}, not {want}"
    if said != have:
        yield f"{name}: sent: {said}, the table has {have}"
    if not why and (not ours or set(methods) - set(have)):
        yield f"{name}: no reason for what is not sent"
    if bool(ours) != bool(own):
        yield f"{name}: whether the own engines have it is not said"
    if have and not ours and why != "not offered yet":
        yield f"{name}: is used, and nothing of this library is named"


ROW = re.compile(r"^(\| `(VZ\w+)` \|[^|]*\|[^|]*\|[^|]*\|)([^|]*)(\|[^|]*\|)$", re.M)


def column_written(text, entries, sent):
    """The text with the column of what is sent as the table has it."""
    methods = {e["name"]: [m["selector"] for m in e["methods"]] for e in entries}

    def row(m):
        have = sent.get(m[2], [])
        listed = "all" if have and set(have) == set(methods[m[2]]) else ", ".join(f"`{s}`" for s in have)
        return f"{m[1]} {listed} {m[4]}"

    return ROW.sub(row, text)


def main():
    arguments = sys.argv[1:]
    writes = arguments[:1] == ["--write"]
    root, cc = arguments[writes], arguments[writes + 1:]
    check = check_table.Check(root, cc)
    sent, errors = sent_by_class(check), []
    path = os.path.join(root, "docs/api-map.md")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    entries = [c for c in check.classes.values() if c["name"].startswith("VZ")] + list(check.protocols.values())
    if writes:
        text = column_written(text, entries, sent)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
    rows = {r[0]: r[1:] for r in re.findall(
        r"^\| `(VZ\w+)` \| ([^|]*?) ?\| ?([^|]*?) ?\| ?([^|]*?) ?\| ?([^|]*?) ?\| ?([^|]*?) ?\|$", text, re.M)}
    for e in entries:
        if e["name"] in rows:
            errors += row_errors(e, rows.pop(e["name"]), sent)
        else:
            errors.append(f"{e['name']}: has no row")
    errors += [f"{name}: no such class" for name in rows]
    declared = "".join(open(h, encoding="utf-8").read() for h in glob.glob(os.path.join(root, "include/yado/*.h")))
    for name in sorted(set(re.findall(r"\b(?:yado|YADO)_\w*[a-zA-Z0-9]\b(?!_?\.\.\.)", text))):
        if not re.search(rf"\b{name}\b", declared):
            errors.append(f"{name}: is not in the public headers")
    with open(os.path.join(root, "tests/apple/test_parity.c"), encoding="utf-8") as f:
        items = re.findall(r'^ *\{ "([^"]+)", ?$|^ *\{ "([^"]+)", "', f.read(), re.M)
    for item in [a or b for a, b in items]:
        if f"| `{item}` |" not in text:
            errors.append(f"parity: {item} has no row")
    for e in errors:
        print(e)
    print(f"{len(entries)} classes, {len(items)} items, {len(errors)} errors")
    return 1 if errors or len(items) < 50 else 0


if __name__ == "__main__":
    sys.exit(main())
