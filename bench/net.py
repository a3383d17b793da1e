#!/usr/bin/env python3
"""The guest's network through NAT: yado's beside QEMU's user networking under QEMU's translator (TCG). Same kernel,
initrd, disk, seed, vCPU count and memory; both guests run at once, idle but when it is their turn, and take turns in
every measurement. In the guest iperf3, which the host gives it on a disk of its own (with its libraries, so the guest
needs none); on the host an iperf3 server on the loopback. Prints medians as a table and writes them as JSON.

usage: net.py [N]        (default 3 rounds)
variables: KERNEL= INITRD= DISK= CMDLINE= as for `make run`; CPUS=2 MEMORY=1G; NET_SECONDS=4 for each measurement;
           NET_TESTS=names (comma-separated, see TESTS); BENCH_ENGINES=yado,qemu; BENCH_JSON=FILE"""
import json
import os
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'tests', 'guest'))
# pylint: disable=wrong-import-position
import vm

CPUS = int(os.environ.get('CPUS') or 2)
MEMORY = os.environ.get('MEMORY') or '1G'
SECONDS = int(os.environ.get('NET_SECONDS') or 4)
# name, iperf3's words, what it is. -R: the host sends.
TESTS = (
    ('tcp-out', '', 'TCP, guest to host'),
    ('tcp-in', '-R', 'TCP, host to guest'),
    ('tcp4-out', '-P 4', 'TCP, 4 streams, guest to host'),
    ('tcp4-in', '-P 4 -R', 'TCP, 4 streams, host to guest'),
    ('udp-out', '-u -b 0 -l 1400', 'UDP of 1400 bytes, guest to host'),
    ('udp-in', '-u -b 300M -l 1400 -R', 'UDP of 1400 bytes, host to guest, 300 Mbit/s offered'),
)
IPERF = '/mnt/ld.so --library-path /mnt/lib /mnt/iperf3'


def iperf_disk(path):
    """A file system with iperf3, the loader and every library that it needs."""
    tree = path + '.tree'
    os.makedirs(os.path.join(tree, 'lib'))
    iperf = shutil.which('iperf3')
    shutil.copy(iperf, os.path.join(tree, 'iperf3'))
    for line in subprocess.run(['ldd', iperf], capture_output=True, text=True, check=True).stdout.splitlines():
        found = re.search(r'(/\S+) \(0x', line)
        if found and 'ld-linux' in line:
            shutil.copy(found.group(1), os.path.join(tree, 'ld.so'))
        elif found:
            shutil.copy(found.group(1), os.path.join(tree, 'lib'))
    vm.disk_of_tree(tree, path, '64M')
    shutil.rmtree(tree)
    return path


def argv_for(engine, image, work, tools):
    disk = work.disk(image, f'{engine}.img')
    tools = vm.copy_sparse(tools, work.file(f'{engine}-tools.img')) # each locks its own
    if engine == 'yado':
        return vm.yado_argv(image, work, disk, cpus=CPUS, memory=MEMORY, extra=['--disk', tools + ',ro'])
    seed = vm.make_seed(work, work.file('seed.iso'))
    return vm.qemu_argv(image, disk, seed, cpus=CPUS, memory=MEMORY,
                        extra=['-drive', f'file={tools},if=virtio,format=raw,readonly=on'])


class Server:
    """iperf3 -s on the loopback."""

    def __init__(self):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.port = s.getsockname()[1]
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(['iperf3', '-s', '-B', '127.0.0.1', '-p', str(self.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()


def prepare(guest):
    guest.wait_login(timeout=900, hostname=vm.HOSTNAME)
    guest.login(timeout=300)
    guest.run_status('cloud-init status --wait', 900)
    guest.mount_disk_with('iperf3')
    guest.run('for i in $(seq 60); do ip -4 addr | grep -q 10.0.2.15 && break; sleep 1; done', 120)


def measure(guest, port, words):
    """(Mbit/s that arrived, percent lost or None, seconds of CPU of the whole virtual machine per second)"""
    before, started = guest.cpu_seconds(), time.monotonic()
    out = guest.run(f'{IPERF} -c 10.0.2.2 -p {port} -t {SECONDS} -J {words}', 120)
    cpu = (guest.cpu_seconds() - before) / (time.monotonic() - started)
    end = json.loads(out[out.index('{'):])['end']
    if 'sum_received' in end and not end.get('sum', {}).get('packets'):
        return end['sum_received']['bits_per_second'] / 1e6, None, cpu
    total = end.get('sum_received', end['sum'])
    lost = end['sum'].get('lost_percent') or 0
    rate = total['bits_per_second'] / 1e6
    if 'sum_received' not in end or not total.get('packets'):
        rate = end['sum']['bits_per_second'] / 1e6 * (1 - lost / 100)
    return rate, lost, cpu


def rounds(guests, port, tests, count):
    """{test: {engine: [(rate, lost, cpu)]}}; a measurement that fails is told and left out."""
    results = {name: {engine: [] for engine in guests} for name, _, _ in tests}
    failures = []
    for i in range(count):
        for name, words, _ in tests:
            for engine, guest in guests.items():
                try:
                    got = measure(guest, port, words)
                except (vm.GuestError, ValueError, KeyError) as e:
                    failures.append(f'{name}, {engine}, round {i + 1}: {str(e)[:2000]}')
                    print(f'FAILED {failures[-1]}', flush=True)
                    continue
                results[name][engine].append(got)
                lost = '' if got[1] is None else f', {got[1]:.1f} % lost'
                print(f'round {i + 1}, {name}, {engine}: {got[0]:.0f} Mbit/s{lost}, {got[2]:.2f} CPUs', flush=True)
    return results, failures


def median(values, at):
    values = [v[at] for v in values if v[at] is not None]
    return statistics.median(values) if values else None


def table(results, tests, engines):
    figures = {}
    print(f'\n{"Mbit/s, medians":52}' + ''.join(f'{e:>12}' for e in engines) + f'{"yado/qemu":>12}')
    for name, _, text in tests:
        rates = {e: median(results[name][e], 0) for e in engines}
        figures[name] = {e: {'mbit_per_s': rates[e], 'lost_percent': median(results[name][e], 1),
                             'cpus': median(results[name][e], 2), 'runs': results[name][e]} for e in engines}
        row = f'{text:52}' + ''.join(f'{rates[e]:12.0f}' if rates[e] is not None else f'{"-":>12}' for e in engines)
        if rates.get('yado') and rates.get('qemu'):
            figures[name]['ratio'] = rates['yado'] / rates['qemu']
            row += f'{figures[name]["ratio"]:12.2f}'
        print(row)
    return figures


def main():
    if len(sys.argv) > 2 or not all(w.isdecimal() and int(w) for w in sys.argv[1:]):
        print(__doc__)
        return 0 if sys.argv[1:] in (['--help'], ['-h']) else 2
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    image = vm.Image()
    engines = (os.environ.get('BENCH_ENGINES') or 'yado,qemu').split(',')
    wanted = (os.environ.get('NET_TESTS') or ','.join(t[0] for t in TESTS)).split(',')
    tests = [t for t in TESTS if t[0] in wanted]
    for needed in ['iperf3'] + (['qemu-system-x86_64'] if 'qemu' in engines else []):
        if not shutil.which(needed):
            print(f'{needed} is not installed', file=sys.stderr)
            return 1
    if image.missing():
        print(f'{image.missing()[0]} is not there; `make image` makes it', file=sys.stderr)
        return 1
    guests = {}
    with vm.Workdir() as work, Server() as server:
        tools = iperf_disk(work.file('tools.img'))
        try:
            for engine in engines:
                argv = argv_for(engine, image, work, tools)
                print(f'{engine}: {shlex.join(argv)}', flush=True)
                guests[engine] = vm.Guest(argv)
                prepare(guests[engine])
            print(f'{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; {SECONDS} s each, {count} rounds')
            results, failures = rounds(guests, server.port, tests, count)
        finally:
            for guest in guests.values():
                guest.signal(signal.SIGKILL)
                guest.close()
    figures = {'tests': table(results, tests, engines), 'failures': failures, 'cpus': CPUS, 'memory': MEMORY,
               'seconds': SECONDS, 'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}
    path = os.environ.get('BENCH_JSON') or os.path.join(vm.BUILD, 'bench-net.json')
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(figures, f, indent=2)
    print(f'written to {path}')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
