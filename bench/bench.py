#!/usr/bin/env python3
"""How fast guests are: the host itself, yado's translator, QEMU's (TCG), and KVM where the host has a real one, in one run on
one machine with the same kernel, initrd, disk, vCPUs and memory. Writes bench.md, bench.json, bench.svg and bench.png.

First the starts, engine after engine in turns; the guests of the last turn stay. Then rounds of the rows, in which each row
runs on one engine right after the other, so that a busy minute hurts all of them; the order is turned round every time. The
guests that are not at their turn idle. Rows last a fixed time. Figures are medians.

usage: bench.py
variables: TIMES=3      rounds (at least 3 for figures to quote)
           QUICK=1      one start for each engine, rows of one second instead of two: some ten minutes
           TIME=2       seconds of a row
           ROWS=a,b     only these rows ("list" names them); starts are left out unless named
           ENGINES=a,b  of native, yado, tcg, kvm
           OUT=DIR      default build/bench
           CPUS=2 MEMORY=2G KERNEL= INITRD= DISK= CMDLINE= YADO_OPTIONS="further options of yado run" """
import os
import platform
import re
import shlex
import subprocess
import sys
import time

import engines
import report
import rows
import tools
from tools import vm

QUICK = bool(os.environ.get('QUICK'))
TIMES = int(os.environ.get('TIMES') or 3)
SECONDS = int(os.environ.get('TIME') or (1 if QUICK else 2))
OUT = os.environ.get('OUT') or tools.OUT
PATTERNS = {'login': rb'foobar login: ', 'cloud': rb'Cloud-init v\. [^\r\n]* finished'}
TIMEOUT = 300


class Run:
    """The measurements of one run."""

    def __init__(self, image, names, wanted):
        self.image, self.names, self.wanted = image, names, wanted
        self.results = {}
        self.failures = []
        self.argv = {}
        self.open = {}       # engine: a booted guest, or the host
        self.clock_errors = {}
        self.churned = {}    # engine: bytes of new code that ran while stops were looked for

    def note(self, row, engine, value):
        self.results.setdefault(row, {}).setdefault(engine, []).append(value)
        print(f'{row:8} {engine:6} {report.figure(value)} {rows.BY_NAME[row].unit}', flush=True)

    def fail(self, row, engine, error):
        """A measurement that failed has no figure; it is told, not averaged away."""
        self.failures.append(f'{row}, {engine}: {str(error)[:1500]}')
        print(f'FAILED {self.failures[-1]}', flush=True)

    # ---- starts ----

    def guests(self):
        return [e for e in self.names if e != 'native']

    def start_to_init(self, engine):
        machine = engines.Machine(engine, self.image, serial=True)
        try:
            found = machine.guest.watch({'init': rb'Run /init'}, TIMEOUT)
            self.note('init', engine, found['init'])
        except vm.GuestError as e:
            self.fail('init', engine, e)
        finally:
            machine.close()

    def start(self, engine, keep):
        machine = engines.Machine(engine, self.image)
        self.argv[engine] = shlex.join(machine.argv)
        try:
            found = machine.guest.watch(PATTERNS, TIMEOUT)
            for row in ('login', 'cloud'):
                if row in self.wanted:
                    self.note(row, engine, found[row])
            if keep:
                machine.prepare()
                machine.clock_error()
                self.open[engine] = machine
        except vm.GuestError as e:
            self.fail('login', engine, e)
            keep = False
        finally:
            if not keep:
                machine.close()

    def starts(self):
        rest = [r for r in self.wanted if r not in rows.BOOT]
        boots = any(r in self.wanted for r in ('login', 'cloud'))
        times = 1 if QUICK else TIMES
        for i in range(times):
            last = i == times - 1
            for engine in self.guests():
                if 'init' in self.wanted:
                    self.start_to_init(engine)
            for engine in self.guests():
                if boots or (last and rest):
                    self.start(engine, keep=last and bool(rest))

    # ---- rows ----

    def one(self, row, engine):
        seconds = max(1, round(SECONDS * row.share))
        output = self.open[engine].run(row, row.command.format(s=seconds), TIMEOUT)
        self.note(row.name, engine, row.parse(output))
        churned = re.search(r'code (\d+)', output)
        if row.name == 'stop' and churned:
            self.churned[engine] = int(churned.group(1))

    def idle(self):
        """CPU time of each monitor's process, all at once."""
        seconds = 30
        running = {e: m.guest for e, m in self.open.items() if e != 'native' and m.guest.process.poll() is None}
        before = {e: (g.cpu_seconds(), time.monotonic()) for e, g in running.items()}
        time.sleep(seconds)
        for e, g in running.items():
            cpu, at = before[e]
            if g.process.poll() is not None:
                self.fail('idle', e, g.describe('the guest ended'))
                continue
            self.note('idle', e, (g.cpu_seconds() - cpu) / (time.monotonic() - at) * 100)

    def two(self):
        """Of this round's figures."""
        for engine in self.open:
            one, two = (self.results.get(r, {}).get(engine) for r in ('cpu1', 'cpu2'))
            if one and two and len(one) == len(two):
                self.note('two', engine, two[-1] / one[-1])

    def round(self, number):
        order = list(self.open)
        order = order[number % len(order):] + order[:number % len(order)]
        for row in rows.ROWS:
            if row.name not in self.wanted or not row.command:
                continue
            for engine in order:
                try:
                    self.one(row, engine)
                except (vm.GuestError, ValueError, subprocess.TimeoutExpired) as e:
                    self.fail(row.name, engine, e)
        if 'two' in self.wanted:
            self.two()
        if 'idle' in self.wanted and (number == 0 or not QUICK):
            self.idle()

    def rounds(self):
        if 'native' in self.names and any(rows.BY_NAME[r].command for r in self.wanted):
            self.open['native'] = engines.Native(self.image)
        if not self.open:
            return
        self.open = {e: self.open[e] for e in self.names if e in self.open}
        time.sleep(10 if 'idle' in self.wanted else 0)
        for i in range(TIMES):
            print(f'-- round {i + 1} of {TIMES}, load {os.getloadavg()[0]:.1f}', flush=True)
            self.round(i)
            write(self, finished=i == TIMES - 1)
        for engine, machine in self.open.items():
            try:
                if engine != 'native':
                    self.clock_errors[engine] = machine.clock_error()
            except vm.GuestError as e:
                self.fail('clock', engine, e)

    def close(self):
        for machine in self.open.values():
            machine.close()


# ---- what was measured where ----

def first_line(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ['?'])[0]


def cpu_model():
    with open('/proc/cpuinfo', encoding='utf-8') as f:
        found = re.search(r'model name\s*:\s*(.*)', f.read())
    return found.group(1) if found else platform.processor()


STARTED = time.time()
LOAD = os.getloadavg()[0]


def about(run, missing, finished):
    revision = first_line(['git', '-C', vm.ROOT, 'describe', '--always', '--dirty'])
    out = [time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(STARTED)) + f', {time.time() - STARTED:.0f} s'
           + ('' if finished else ' so far, not finished') + f'; yado {revision}'
           + (f'; {first_line([engines.QEMU, "--version"])}' if 'tcg' in run.names else ''),
           f'{cpu_model()}, {os.cpu_count()} CPUs, Linux {platform.release()}; load average {LOAD:.1f} at the start, '
           f'{os.getloadavg()[0]:.1f} at the end',
           f'{TIMES} rounds, {SECONDS} s a row' + (', one start each' if QUICK else f', {TIMES} starts each')
           + f'; guests: {engines.CPUS} vCPUs, {engines.MEMORY}, {vm.CMDLINE}; network through a NAT in the monitor, DHCP',
           'native: the same programs from the same image by change of root, as an ordinary user, in a tmpfs, on the host\'s '
           'kernel', 'while one is measured, the guests of the others idle']
    out += [f'{e}: `{argv}`' for e, argv in run.argv.items()]
    out += [f'{e} left out: {why}' for e, why in missing.items()]
    if run.churned:
        out.append('new code that ran while stops were looked for, MB: '
                   + ', '.join(f'{e} {size / 1e6:.0f}' for e, size in run.churned.items()))
    out += [f'{e}: the guest\'s clock ran {error * 100:+.2f} % off the host\'s' for e, error in run.clock_errors.items()]
    return out


MISSING = {}


def write(run, finished):
    os.makedirs(OUT, exist_ok=True)
    text = report.write(OUT, run.results, run.names, about(run, MISSING, finished), run.failures)
    report.chart(run.results, run.names, OUT, 'yado: guest speed')
    return text


def words(variable):
    return [w for w in re.split(r'[,\s]+', os.environ.get(variable) or '') if w]


def choices():
    """(engines, rows) or a message."""
    wanted = words('ENGINES')
    strange = [e for e in wanted if e not in engines.TEXT] or [r for r in words('ROWS') if r not in rows.BY_NAME]
    if strange:
        return f'unknown: {strange[0]}; engines: {" ".join(engines.TEXT)}; rows: {" ".join(rows.BY_NAME)}'
    names, missing = engines.choose(wanted)
    MISSING.update(missing)
    for engine in missing:
        print(f'{engine}: left out: {missing[engine]}')
    if not names:
        return 'no engine is left'
    chosen = words('ROWS') or list(rows.BY_NAME)
    if 'two' in chosen:
        chosen += [r for r in ('cpu1', 'cpu2') if r not in chosen]
    return names, chosen


def main():
    if sys.argv[1:]:
        print(__doc__)
        return 0 if sys.argv[1:] in (['--help'], ['-h']) else 2
    if words('ROWS') == ['list']:
        for row in rows.ROWS:
            print(f'{row.name:8} {row.text}' + (f': {row.command}' if row.command else ''))
        return 0
    chosen = choices()
    if isinstance(chosen, str):
        print(f'bench: {chosen}', file=sys.stderr)
        return 2
    run = None
    try:
        os.makedirs(tools.OUT, exist_ok=True)
        image = tools.image()
        tools.tools()
        run = Run(image, *chosen)
        run.starts()
        run.rounds()
    except tools.Failed as e:
        print(f'bench: {e}', file=sys.stderr)
        return 1
    finally:
        if run:
            run.close()
    print('\n' + write(run, finished=True))
    print(f'written to {OUT}/bench.md, bench.json, bench.svg, bench.png')
    return 1 if run.failures else 0


if __name__ == '__main__':
    sys.exit(main())
