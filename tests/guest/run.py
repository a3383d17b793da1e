#!/usr/bin/env python3
"""Runs guest cases: all that are not for use by hand, or those named. Prints a line per case; status 0 when all hold, 1 when one fails, 77 (meson's
"skipped") when the guest image that they need is not there and YADO_GUEST_REQUIRED is not set.

usage: run.py [--list] [CASE]...      BUILD=build  KERNEL= INITRD= DISK= CMDLINE=  YADO_TEST_SLOW=factor
                                      YADO_TEST_ECHO=1 (shows the console)"""
import os
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
# pylint: disable=wrong-import-position
import cases
import console_cases
import direct_cases
import network_cases
import vm
import vsock_cases


def run_case(case):
    print(f'{case.__name__}: {case.__doc__.strip()}', flush=True)
    started = time.monotonic()
    try:
        note = case()
    except (vm.GuestError, AssertionError) as e:
        print(f'FAIL {case.__name__} ({time.monotonic() - started:.1f} s): {e}', flush=True)
        return False
    except Exception: # a defect of the test itself: say where  pylint: disable=broad-except
        print(f'FAIL {case.__name__} ({time.monotonic() - started:.1f} s)', flush=True)
        traceback.print_exc(file=sys.stdout)
        return False
    print(f'ok   {case.__name__} ({time.monotonic() - started:.1f} s){": " + note if note else ""}', flush=True)
    return True


def main():
    need_image = cases.IMAGE + network_cases.IMAGE + vsock_cases.IMAGE + console_cases.IMAGE + direct_cases.IMAGE
    everyday = cases.QUICK + network_cases.QUICK + console_cases.QUICK + need_image
    need_image += network_cases.BY_HAND
    known = {case.__name__: case for case in everyday + network_cases.BY_HAND}
    words = sys.argv[1:]
    if words == ['--list']:
        print('\n'.join(known))
        return 0
    unknown = [w for w in words if w not in known]
    if unknown:
        print(f'run.py: no such case: {", ".join(unknown)}; run.py --list tells', file=sys.stderr)
        return 2
    chosen = [known[w] for w in words] or everyday
    missing = vm.Image().missing()
    if missing and any(case in need_image for case in chosen):
        print(f'{missing[0]} is not there; `make image` makes it')
        return 1 if os.environ.get('YADO_GUEST_REQUIRED') else 77
    failed = [case.__name__ for case in chosen if not run_case(case)]
    print(f'{len(chosen) - len(failed)} passed, {len(failed)} failed')
    return 1 if failed else 0


sys.exit(main())
