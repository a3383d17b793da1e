#!/usr/bin/env python3
"""Runs a multiboot test kernel on yado, or on QEMU as the oracle, and looks at what it says.

usage: run.py [--shadow] KERNEL     runs it on the translator; passes if the kernel says that all is well
       run.py --spins KERNEL        how often a CPU that waits in the ways of spin.c is put to sleep
       run.py --oracle KERNEL...    runs each on both and shows the lines that differ (by hand; needs QEMU)

A kernel prints "ok ..." and "NOT ok ..." lines on COM1 and ends itself through port 0xf4 with 0x10 for success, so the
process's status is 0x21. Its options stand in KERNELS."""
import difflib
import os
import shutil
import subprocess
import sys
import tempfile

SUCCESS = 0x10 << 1 | 1
LIMIT = 100  # seconds
CMDLINE = 'one two'
# How spin.c is to wait, and how often that puts a vCPU to sleep: from, to. The long waits are of 0.3 s or so in all. Each
# sleep is of 50 us at least, so many more than 30,000 cannot have been slept.
SPINS = {'long': (50, 30000), 'short': (0, 0), 'user': (0, 0)}
# CPUs, and whether it wants a module and a command line.
KERNELS = {
    'boot': (2, True),
    'legacy': (1, False),
    'task': (1, False),
    'mmio': (1, False),
    'ipi': (4, False),
    'events': (1, False),
    'paging': (1, False),
    'pcid': (1, False),
    'across': (1, False),
    'apic': (4, False),
    'features': (1, False),
    'compat': (1, False),
    'litmus': (4, False),
    'spin': (2, False),
    'room': (1, False),
}
YADO_OPTIONS = {'room': ['--code-cache', '2M']}


def options(kernel):
    name = os.path.splitext(os.path.basename(kernel))[0]
    return KERNELS.get(name, (1, False))


def run(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT, check=False)


def on_yado(kernel, module, more=()):
    cpus, wants = options(kernel)
    yado = os.path.join(os.environ.get('BUILD', 'build'), 'yado')
    command = [yado, 'run', '--engine', 'translator', '--cpus', str(cpus), '--memory', '64M', '--net', 'none',
               '--serial', 'stdio', '--debug-exit', '--timeout', str(LIMIT - 10), '--kernel', kernel,
               *YADO_OPTIONS.get(os.path.splitext(os.path.basename(kernel))[0], []), *more]
    return run(command + (['--initrd', module, '--cmdline', CMDLINE] if wants else []))


def on_qemu(kernel, module):
    cpus, wants = options(kernel)
    with open(kernel, 'rb') as elf:
        is64 = elf.read(5)[4] == 2
    if is64:  # QEMU refuses such files
        plain = os.path.join(os.path.dirname(module), 'kernel')
        subprocess.run(['objcopy', '-O', 'elf32-i386', kernel, plain], check=True)
        kernel = plain
    command = ['qemu-system-x86_64', '-nodefaults', '-device', 'pc-testdev', '-device',
               'isa-debug-exit,iobase=0xf4,iosize=0x4', '-serial', 'stdio', '-display', 'none', '-machine', 'accel=tcg',
               '-cpu', 'max', '-smp', str(cpus), '-m', '64', '-no-reboot', '-kernel', kernel]
    return run(command + (['-initrd', module, '-append', CMDLINE] if wants else []))


def oracle(kernels, module):
    if not shutil.which('qemu-system-x86_64'):
        sys.exit('there is no qemu-system-x86_64')
    for kernel in kernels:
        ours, theirs = (f(kernel, module) for f in (on_yado, on_qemu))
        print(f'== {kernel}: status {ours.returncode}, QEMU {theirs.returncode}')
        print('\n'.join(difflib.unified_diff(theirs.stdout.decode(errors='replace').splitlines(),
                                             ours.stdout.decode(errors='replace').splitlines(),
                                             'QEMU', 'yado', lineterm='', n=0)))


def shadow(kernel, module):
    """Every block that can be is run twice and must be the same."""
    done = on_yado(kernel, module, ['--shadow', '--counters', '--trace', 'cpu'])
    text = done.stderr.decode(errors='replace')
    print(text)
    counters = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    if done.returncode != SUCCESS or int(counters['shadow_different']) or int(counters['shadow_compared']) < 1000:
        sys.exit(f'status {done.returncode}')


def spins(kernel):
    for mode, (least, most) in SPINS.items():
        done = on_yado(kernel, None, ['--counters', '--cmdline', mode])
        text = done.stdout.decode(errors='replace')
        slept = next(int(line.split()[1]) for line in done.stderr.decode(errors='replace').splitlines() if line.startswith('spins '))
        print(f'{mode}: {slept} sleeps\n{text}')
        if done.returncode != SUCCESS or not least <= slept <= most:
            sys.exit(f'{mode}: status {done.returncode}, {slept} sleeps')


def main():
    with tempfile.TemporaryDirectory() as folder:
        module = os.path.join(folder, 'module')
        with open(module, 'wb') as out:
            out.write(b'hello\n')
        if sys.argv[1] == '--oracle':
            return oracle(sys.argv[2:], module)
        if sys.argv[1] == '--shadow':
            return shadow(sys.argv[2], module)
        if sys.argv[1] == '--spins':
            return spins(sys.argv[2])
        done = on_yado(sys.argv[1], module)
        text = done.stdout.decode(errors='replace')
        print(text)
        if 'NOT ok' in text or 'ok ' not in text or done.returncode != SUCCESS:
            sys.exit(f'status {done.returncode}')


main()
