#!/usr/bin/env python3
"""Whether the backend's one table of Apple's classes and methods (src/backend/apple/vz_table.h), and the C function made
of each of its rows (vz_calls.h), agree with the manifest of facts: entry by entry, for both kinds of Mac.

usage: check_table.py [--self-test] SOURCE_ROOT CC...

--self-test: each of a list of mistakes, made in a copy of the sources, must be found.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROWS = r"""
#include "backend/apple/vz_table.h"
#define C(name, arch, major, minor) ROW_BEGIN CLASS name arch major.minor ROW_END
#define M(cls, name, kind, selector, shape, arch, major, minor) \
    ROW_BEGIN METHOD cls name kind selector VZ_SHAPE_##shape | arch major.minor ROW_END
#define P(protocol, name, selector, shape, major, minor) \
    ROW_BEGIN CALLBACK protocol name selector VZ_SHAPE_##shape | major.minor ROW_END
VZ_CLASSES(C) VZ_METHODS(M) VZ_CALLBACKS(P)
"""

C_TYPES = {  # of an encoding's type: what a C prototype calls it
    "@": "id", "#": "Class", ":": "SEL", "i": "int", "I": "uint32_t", "q": "long", "Q": "unsigned long", "d": "double",
    "v": "void", "S": "uint16_t", "C": "uint8_t", "^@": "id *", "r*": "const char *", "r^v": "const void *",
    "r^@": "const id *", "@?": "const struct block *", "^v": "void *", "{CGSize=dd}": "struct vz_size",
}


def tokens(encoding):
    out, i = [], 0
    while i < len(encoding):
        m = re.match(r"[rnNoORV^]*(\{[^}]*\}|@\?|.)", encoding[i:])
        out.append(m[0])
        i += len(m[0])
        while i < len(encoding) and encoding[i].isdigit():
            i += 1
    return out


def c_type(token, letter):
    return "BOOL" if token == letter else C_TYPES.get(token, f"unknown type {token}")


class Check:
    def __init__(self, root, cc):
        self.root, self.cc, self.errors, self.count = root, cc, [], 0
        with open(os.path.join(root, "tests/apple/manifest.json"), encoding="utf-8") as f:
            m = json.load(f)
        self.classes = {c["name"]: c for c in m["foundation"] + m["classes"]}
        self.protocols = {p["name"]: p for p in m["protocols"]}
        self.constants = {k["name"]: k for e in m["enums"] for k in e["constants"]}

    def error(self, text):
        self.errors.append(text)

    def same(self, what, field, have, want):
        self.count += 1
        if have != want:
            self.error(f"{what}: {field} is {have}, the manifest has {want}")

    def preprocess(self, text, arm64):
        flags = ["-D__aarch64__"] if arm64 else []
        with tempfile.NamedTemporaryFile("w", suffix=".c") as f:
            f.write(text)
            f.flush()
            return subprocess.run(self.cc + flags + ["-E", "-P", "-I", os.path.join(self.root, "src"), f.name],
                                  check=True, stdout=subprocess.PIPE, text=True).stdout

    def find(self, cls, kind, selector):
        for m in self.classes[cls]["methods"]:
            if m["selector"] == selector and m["kind"] == ("+" if kind == "C" else "-"):
                return m
        for p in self.classes[cls].get("conforms", []):
            for m in self.protocols.get(p, {"methods": []})["methods"]:
                if m["selector"] == selector:
                    return m
        return None

    def class_row(self, text):
        name, arch, version = text.split(" ", 2)
        c = self.classes.get(name)
        if not c:
            self.error(f"{name}: no such class")
            return
        self.same(name, "macOS", version.replace(" ", ""), c["macos"])
        self.same(name, "arch", arch, "ARM64" if c.get("arm64_only") else "ANY")

    def method_row(self, text, letter, rows):
        m = re.match(r'(\w+) (\w+) ([IC]) "([^"]*)" (.*)\| (\w+) ([\d. ]+)$', text)
        cls, name, kind, selector, encoding, arch, version = m.groups()
        encoding = "".join(re.findall(r'"([^"]*)"', encoding))
        what = f"{cls}_{name}"
        if cls not in self.classes:
            self.error(f"{what}: no such class")
            return
        fact = self.find(cls, kind, selector)
        if not fact:
            self.error(f"{what}: {cls} declares no {'class' if kind == 'C' else 'instance'} method \"{selector}\"")
            return
        arm64_only = fact.get("arm64_only") or self.classes[cls].get("arm64_only")
        self.same(what, "encoding", encoding, fact["encoding"].replace("B", letter))
        self.same(what, "macOS", version.replace(" ", ""), fact["macos"])
        self.same(what, "arch", arch, "ARM64" if arm64_only else "ANY")
        rows[what] = (selector, encoding)

    def callback_row(self, text, letter):
        m = re.match(r'(\w+) (\w+) "([^"]*)" (.*)\| ([\d. ]+)$', text)
        protocol, name, selector, encoding, version = m.groups()
        encoding = "".join(re.findall(r'"([^"]*)"', encoding))
        for fact in self.protocols.get(protocol, {"methods": []})["methods"]:
            if fact["selector"] == selector:
                self.same(f"{protocol}_{name}", "encoding", encoding, fact["encoding"].replace("B", letter))
                self.same(f"{protocol}_{name}", "macOS", version.replace(" ", ""), fact["macos"])
                return
        self.error(f"{protocol}_{name}: {protocol} has no \"{selector}\"")

    def table(self, arm64):
        text, letter, rows = self.preprocess(ROWS, arm64), "B" if arm64 else "c", {}
        for kind, row in re.findall(r"ROW_BEGIN (CLASS|METHOD|CALLBACK)(.*?)ROW_END", text, re.S):
            row = " ".join(row.split())
            if kind == "CLASS":
                self.class_row(row)
            elif kind == "METHOD":
                self.method_row(row, letter, rows)
            else:
                self.callback_row(row, letter)
        return rows

    def calls(self, arm64, rows):
        """static inline R name(id self, T a) { return ((R(*)(id, SEL, T))msg_send())(self, sel_registerName("s"), a); }"""
        text = " ".join(self.preprocess('#include "backend/apple/vz_calls.h"\n', arm64).split())
        letter, seen = "B" if arm64 else "c", set()
        pattern = (r"static inline ([\w ]+?[ *]*)(\w+)\(id self((?:, [^)]*)?)\) \{ (?:return )?"
                   r"\(\(([\w ]+?[ *]*)\(\*\)\(id, SEL((?:, [^)]*)?)\)\)msg_send\(\)\)"
                   r"\( ?self, sel_registerName\(\"([^\"]*)\"\)((?:, \w+)*)\); \}")
        for returns, name, params, cast, cast_params, selector, passed in re.findall(pattern, text):
            if name not in rows:
                self.error(f"{name}: no row of the table")
                continue
            seen.add(name)
            want = [c_type(t, letter) for t in tokens(rows[name][1])]
            want = [want[0]] + want[3:]
            names = [re.search(r"(\w+)$", p)[1] for p in params.split(", ")[1:]]
            types = [re.sub(r"\s*\w+$", "", p).strip() for p in params.split(", ")[1:]]
            self.same(name, "selector", selector, rows[name][0])
            self.same(name, "function", [returns.strip()] + types, want)
            self.same(name, "cast", [cast.strip()] + [p.strip() for p in cast_params.split(", ")[1:]], want)
            self.same(name, "order of arguments", passed.split(", ")[1:], names)
        for name in rows.keys() - seen:
            self.error(f"{name}: no function that could be read")

    def values(self):
        """vz_values.h has names of its own for the numbers of the framework's enumerations."""
        with open(os.path.join(self.root, "src/backend/apple/vz_values.h"), encoding="utf-8") as f:
            text = f.read()
        for name, value in re.findall(r"\b(VZ_\w+) = ([\d <]+)", text):
            number = int(value.split("<<")[0]) << int(value.split("<<")[1]) if "<<" in value else int(value)
            fact = VALUES.get(name)
            if not fact:
                self.error(f"{name}: not known to this check")
            else:
                self.same(name, "value", number, self.constants[fact]["value"])


    def spelled_once(self):
        """No other file of the library has the name of a class or of a method with arguments in a string."""
        names = set(self.classes) | {m["selector"] for c in list(self.classes.values()) + list(self.protocols.values())
                                     for m in c["methods"] if ":" in m["selector"]}
        for folder, _, files in os.walk(os.path.join(self.root, "src")):
            for name in files:
                if name == "vz_table.h" or not name.endswith((".c", ".h")):
                    continue
                with open(os.path.join(folder, name), encoding="utf-8") as f:
                    for text in re.findall(r'"([^"\\\n]*)"', f.read()):
                        self.count += 1
                        if text in names:
                            self.error(f"{name}: spells \"{text}\", which belongs into vz_table.h")


MISTAKES = [  # file, what is there, what is put there, what must be said
    ("vz_table.h", 'isDirectory:", o_oB, ANY, 11, 0)', 'isDirectory:", o_oo, ANY, 11, 0)', "encoding"),
    ("vz_table.h", "C(VZEFIBootLoader, ANY, 13, 0)", "C(VZEFIBootLoader, ANY, 12, 0)", "macOS"),
    ("vz_table.h", "C(VZLinuxRosettaDirectoryShare, ARM64, 13, 0)", "C(VZLinuxRosettaDirectoryShare, ANY, 13, 0)",
     "arch"),
    ("vz_table.h", '"setMACAddress:"', '"setMacAddress:"', "declares no instance method"),
    ("vz_table.h", '#define VZ_SHAPE_v_q "v24@0:8q16"', '#define VZ_SHAPE_v_q "v24@0:8Q16"', "encoding"),
    ("vz_table.h", '#define VZ_BOOL "B"', '#define VZ_BOOL "c"', "encoding"),
    ("vz_table.h", '"guestDidStopVirtualMachine:"', '"guestDidStop:"', "has no"),
    ("vz_calls.h", "((id(*)(id, SEL, long, long))msg_send())", "((id(*)(id, SEL, int, long))msg_send())", "cast"),
    ("vz_calls.h", "a, b, c, d, e)", "a, b, d, c, e)", "order of arguments"),
    ("vz_calls.h", "static inline void fn(id self, uint32_t a) ", "static inline void fn(id self, int a) ", "function"),
    ("vz_values.h", "VZ_ERROR_SAVE = 11", "VZ_ERROR_SAVE = 12", "value"),
    ("boot.c", "/* Boot loaders", 'static const char *const x = "initWithKernelURL:";\n/* Boot loaders', "spells"),
]


def self_test(root, cc):
    found = made = 0
    for name, old, new, said in MISTAKES:
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(os.path.join(root, "src"), os.path.join(copy, "src"))
            os.makedirs(os.path.join(copy, "tests/apple"))
            shutil.copy(os.path.join(root, "tests/apple/manifest.json"), os.path.join(copy, "tests/apple"))
            path = os.path.join(copy, "src/backend/apple", name)
            with open(path, encoding="utf-8") as f:
                text = " ".join(f.read().split(" ")) if name != "vz_calls.h" else joined(f.read())
            if old not in text:
                print(f"{name}: has no {old!r} to make a mistake of")
                continue
            made += 1
            with open(path, "w", encoding="utf-8") as f:
                f.write(text.replace(old, new, 1))
            errors = errors_of(copy, cc)[0]
            if any(said in e for e in errors):
                found += 1
            else:
                print(f"{name}: {new!r} was not found: {errors[:3]}")
    print(f"{found} of {made} mistakes found")
    return 0 if found == made and made >= 8 else 1


def joined(text):
    """Macros on one line each, with one blank between words, as the list of mistakes writes them."""
    return re.sub(r"[ \t]+", " ", text.replace("\\\n", " "))


VALUES = {
    "VZ_ERROR_INTERNAL": "VZErrorInternal",
    "VZ_ERROR_INVALID_CONFIGURATION": "VZErrorInvalidVirtualMachineConfiguration",
    "VZ_ERROR_INVALID_STATE": "VZErrorInvalidVirtualMachineState",
    "VZ_ERROR_INVALID_STATE_TRANSITION": "VZErrorInvalidVirtualMachineStateTransition",
    "VZ_ERROR_INVALID_DISK_IMAGE": "VZErrorInvalidDiskImage",
    "VZ_ERROR_LIMIT_EXCEEDED": "VZErrorVirtualMachineLimitExceeded", "VZ_ERROR_NETWORK": "VZErrorNetworkError",
    "VZ_ERROR_OUT_OF_DISK_SPACE": "VZErrorOutOfDiskSpace",
    "VZ_ERROR_OPERATION_CANCELLED": "VZErrorOperationCancelled", "VZ_ERROR_NOT_SUPPORTED": "VZErrorNotSupported",
    "VZ_ERROR_SAVE": "VZErrorSave", "VZ_ERROR_RESTORE": "VZErrorRestore",
    "VZ_ERROR_NBD_NEGOTIATION_FAILED": "VZErrorNetworkBlockDeviceNegotiationFailed",
    "VZ_ERROR_NBD_DISCONNECTED": "VZErrorNetworkBlockDeviceDisconnected",
    "VZ_ERROR_USB_CONTROLLER_NOT_FOUND": "VZErrorUSBControllerNotFound",
    "VZ_ERROR_DEVICE_ALREADY_ATTACHED": "VZErrorDeviceAlreadyAttached",
    "VZ_ERROR_DEVICE_INITIALIZATION_FAILURE": "VZErrorDeviceInitializationFailure",
    "VZ_ERROR_DEVICE_NOT_FOUND": "VZErrorDeviceNotFound",
    "VZ_CACHE_AUTOMATIC": "VZDiskImageCachingModeAutomatic", "VZ_CACHE_UNCACHED": "VZDiskImageCachingModeUncached",
    "VZ_CACHE_CACHED": "VZDiskImageCachingModeCached",
    "VZ_IMAGE_SYNC_FULL": "VZDiskImageSynchronizationModeFull",
    "VZ_IMAGE_SYNC_FSYNC": "VZDiskImageSynchronizationModeFsync",
    "VZ_IMAGE_SYNC_NONE": "VZDiskImageSynchronizationModeNone",
    "VZ_DISK_SYNC_FULL": "VZDiskSynchronizationModeFull", "VZ_DISK_SYNC_NONE": "VZDiskSynchronizationModeNone",
    "VZ_EFI_STORE_ALLOW_OVERWRITE": "VZEFIVariableStoreInitializationOptionAllowOverwrite",
    "VZ_ROSETTA_NOT_SUPPORTED": "VZLinuxRosettaAvailabilityNotSupported",
    "VZ_ROSETTA_NOT_INSTALLED": "VZLinuxRosettaAvailabilityNotInstalled",
    "VZ_ROSETTA_INSTALLED": "VZLinuxRosettaAvailabilityInstalled",
}


def errors_of(root, cc):
    check = Check(root, cc)
    for arm64 in (False, True):
        rows = check.table(arm64)
        check.calls(arm64, rows)
    check.values()
    check.spelled_once()
    return check.errors, len(rows), check.count


def main():
    arguments = sys.argv[1:]
    wants_self_test = arguments[:1] == ["--self-test"]
    if wants_self_test:
        arguments = arguments[1:]
    if len(arguments) < 2:
        raise SystemExit(__doc__)
    if wants_self_test:
        return self_test(arguments[0], arguments[1:])
    errors, rows, count = errors_of(arguments[0], arguments[1:])
    for e in errors:
        print(e)
    print(f"{rows} methods, {count} comparisons, {len(errors)} errors")
    return 1 if errors or rows < 100 else 0


if __name__ == "__main__":
    sys.exit(main())
