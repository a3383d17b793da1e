#!/usr/bin/env python3
"""yado's translator against QEMU's (TCG), side by side on this machine: same kernel, initrd, disk (a fresh copy for each
run), command line, seed, vCPU count and memory. The two take turns, so that a busy hour hurts both. Prints what was
run, each measurement, medians and the ratio, and writes them as JSON.

usage: bench.py login|sysbench [N]        (default 3 runs each)
variables: KERNEL= INITRD= DISK= CMDLINE= as for `make run`; CPUS=2 MEMORY=2G; BENCH_JSON=FILE
           (default build/bench-login.json, build/bench-sysbench.json)"""
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'tests', 'guest'))
# pylint: disable=wrong-import-position
import vm

CPUS = int(os.environ.get('CPUS') or 2)
MEMORY = os.environ.get('MEMORY') or '2G'
SYSBENCH = f'sysbench cpu --time=10 --threads={os.environ.get("SYSBENCH_THREADS") or 1} run'


def argv_for(engine, image, work, disk):
    if engine == 'yado':
        return vm.yado_argv(image, work, disk, cpus=CPUS, memory=MEMORY)
    return vm.qemu_argv(image, disk, vm.make_seed(work, work.file('seed.iso')), cpus=CPUS, memory=MEMORY)


def run_once(engine, image, what, say_command):
    """One guest from start to poweroff; returns the measurement and its unit."""
    with vm.Workdir() as work:
        argv = argv_for(engine, image, work, work.disk(image))
        if say_command:
            print(f'{engine}: {shlex.join(argv)}', flush=True)
        with vm.Guest(argv) as guest:
            login = guest.wait_login(timeout=600, hostname=vm.HOSTNAME)
            result = login
            if what == 'sysbench':
                guest.login(timeout=300)
                guest.run_status('cloud-init status --wait', 600) # the machine is quiet from here on
                output = guest.run(SYSBENCH, 300)
                result = float(re.search(r'events per second:\s*([\d.]+)', output).group(1))
            else:
                guest.login(timeout=300)
            guest.poweroff(300)
    return result


def native_sysbench():
    """The same on the host itself, when it has sysbench: how far there is to go."""
    if not shutil.which('sysbench'):
        return None
    out = subprocess.run(shlex.split(SYSBENCH), capture_output=True, text=True, check=False).stdout
    match = re.search(r'events per second:\s*([\d.]+)', out)
    return float(match.group(1)) if match else None


def version_of(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ['?'])[0]


def cpu_model():
    with open('/proc/cpuinfo', encoding='utf-8') as f:
        match = re.search(r'model name\s*:\s*(.*)', f.read())
    return match.group(1) if match else platform.processor()


def report(what, results, unit):
    """Prints the table; returns the figures for JSON."""
    medians = {engine: statistics.median(values) for engine, values in results.items() if values}
    for engine, values in results.items():
        if not values:
            print(f'{engine:5} no run ended well')
            continue
        print(f'{engine:5} median {medians[engine]:9.1f} {unit}   of ' + ', '.join(f'{v:.1f}' for v in values))
    figures = {'runs': results, 'median': medians, 'unit': unit}
    if 'qemu' in medians and 'yado' in medians:
        ratio = medians['qemu'] / medians['yado'] if what == 'login' else medians['yado'] / medians['qemu']
        figures['times_faster_than_qemu_tcg'] = ratio
        print(f'yado is {ratio:.2f} times as fast as QEMU TCG')
    return figures


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else ''
    if what not in ('login', 'sysbench'):
        print(__doc__, file=sys.stderr)
        return 2
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    image = vm.Image()
    if image.missing():
        print(f'{image.missing()[0]} is not there; `make image` makes it', file=sys.stderr)
        return 1
    engines = ['yado']
    if shutil.which('qemu-system-x86_64'):
        engines.append('qemu')
    else:
        print('qemu-system-x86_64 is not installed: yado alone (apt install qemu-system-x86)')
    unit = 's to login' if what == 'login' else 'events/s'
    print(f'{cpu_model()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; '
          + (version_of(['qemu-system-x86_64', '--version']) if 'qemu' in engines else ''))
    if what == 'sysbench':
        print(f'in the guest: {SYSBENCH}')
    results = {engine: [] for engine in engines}
    failures = []
    for i in range(repeats):
        for engine in engines:
            try:
                results[engine].append(run_once(engine, image, what, i == 0))
                print(f'run {i + 1}, {engine}: {results[engine][-1]:.1f} {unit}', flush=True)
            except vm.GuestError as e: # a run that failed has no time; it is told, not averaged away
                failures.append(f'run {i + 1}, {engine}: {e}')
                print(f'FAILED {failures[-1]}', flush=True)
    figures = report(what, results, unit)
    figures['failures'] = failures
    if what == 'sysbench':
        figures['native'] = native_sysbench()
        if figures['native']:
            print(f'this machine itself: {figures["native"]:.1f} events/s')
    figures.update({'what': what, 'cpus': CPUS, 'memory': MEMORY, 'cmdline': vm.CMDLINE, 'kernel': image.kernel,
                    'cpu_model': cpu_model(), 'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
                    'qemu': version_of(['qemu-system-x86_64', '--version']) if 'qemu' in engines else None})
    path = os.environ.get('BENCH_JSON') or os.path.join(vm.BUILD, f'bench-{what}.json')
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(figures, f, indent=2)
    print(f'written to {path}')
    if failures:
        print(f'{len(failures)} of {repeats * len(engines)} runs failed')
    return 1 if failures else 0


sys.exit(main())
