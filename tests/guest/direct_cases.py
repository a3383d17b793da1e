"""Guest cases of user code that runs directly."""
import base64
import os
import re
import signal
import subprocess
import sys
import time

import vm
from cases import check, check_ended_well

# Runs for some seconds, on all CPUs: arithmetic, allocation, forks that copy on write, signals, threads, files; code made here
# that asks for CPUID between long loops; and the vDSO for which CPU it is on. Prints what must be the same everywhere.
PROGRAM = r'''
import ctypes, hashlib, mmap, os, signal, sys, threading, time, zlib
def primes(n):
    s = bytearray(b'\1') * n
    for i in range(2, int(n ** .5) + 1):
        if s[i]: s[i*i::i] = bytes(len(range(i*i, n, i)))
    return sum(s) - 2
def mix(seed, n):
    x, out = seed, {}
    for i in range(n):
        x = (x * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        out[x >> 44] = out.get(x >> 44, 0) + (x & 255) / 7.0
    return '%.6f %d' % (sum(out.values()), len(out))
def child(seed, kept):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        kept[seed % len(kept)] = seed & 255
        data = b''.join(hashlib.sha256(bytes(kept) + bytes([i])).digest() for i in range(250))
        os.write(w, hashlib.md5(zlib.compress(data * 20, 6)).hexdigest().encode() + mix(seed, 60000).encode())
        os._exit(0)
    os.close(w)
    out = os.read(r, 200); os.close(r)
    assert os.waitpid(pid, 0)[1] == 0
    return out.decode()
def cpuid_differs(n):
    code = bytes.fromhex('534989f84531c9b80100000031c90fa24189cab800001000ffc875fcb801'
                         '00000031c90fa24439d1740349ffc149ffc875e14c89c85bc3')
    m = mmap.mmap(-1, 4096, prot=7)
    m.write(code)
    f = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))
    return f(n)
def cpus_differ(n):
    libc, cpu, bad = ctypes.CDLL(None), ctypes.c_uint(), 0
    may = os.sched_getaffinity(0)
    for k in sorted(may) * 2:
        os.sched_setaffinity(0, {k})
        for i in range(n):
            libc.getcpu(ctypes.byref(cpu), None)
            bad += cpu.value != k or time.monotonic() < 0 or not sum(range(300))
    os.sched_setaffinity(0, may)
    return bad
ticks = []
signal.signal(signal.SIGALRM, lambda *a: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, .01, .01)
kept = bytearray(os.urandom(1) * 0 + bytes(range(256)) * 64)
print(primes(3000000), mix(7, 400000))
print([child(i * 77777, kept) for i in range(12)])
got = []
ts = [threading.Thread(target=lambda k=k: got.append((k, mix(k, 100000)))) for k in range(4)]
[t.start() for t in ts]; [t.join() for t in ts]
print(sorted(got))
print('cpuid', cpuid_differs(2000))
print('cpus', cpus_differ(4000))
signal.setitimer(signal.ITIMER_REAL, 0)
print('ticks', len(ticks) > 50)
'''


def direct():
    """User code that runs directly computes what it does elsewhere, with forks, signals and threads, and sees the guest's
    CPUID; programs of many system calls and much memory go on; counters say that it did run directly."""
    image = vm.Image()
    # Where the host's own CPUID is what its programs see, that line is not the same for nothing.
    here = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True).stdout.split('\n')
    with vm.Workdir() as work:
        disk = work.disk(image)
        with vm.Guest(vm.yado_argv(image, work, disk, extra=['--counters'])) as guest:
            seconds = guest.wait_login()
            guest.login()
            guest.run_status('cloud-init status --wait', 300) # which writes to the console
            text = base64.b64encode(PROGRAM.encode()).decode()
            guest.run(': > p.b64')
            for i in range(0, len(text), 800):
                guest.run(f'printf %s {text[i:i + 800]} >> p.b64')
            guest.run('base64 -d p.b64 > p.py')
            there = guest.run('python3 p.py & python3 p.py > second; wait; cat second', 300).split('\n')
            wanted = [line for line in here if line]
            lines = [line.strip() for line in there if line.strip()]
            lines = [line for line in lines if not re.match(r'\[\d+\]', line)]
            check(lines == wanted * 2, f'the guest computed\n{lines}\nand the host\n{wanted}')
            guest.run('dd if=/dev/urandom bs=1M count=8 2>/dev/null | tee a | gzip -1 | gzip -d | cmp - a', 120)
            guest.run('find /usr/share -type f | head -3000 | xargs cat | sort | md5sum', 120)
            check_ended_well(guest, guest.poweroff(), disk)
            counters = dict(re.findall(r'(\w+) +(\d+)', guest.errors()))
    check(int(counters.get('direct_us', 0)) > 500000, f'little or nothing ran directly: {counters}')
    return f'login after {seconds:.1f} s, {int(counters["direct_us"]) / 1e6:.1f} s of direct runs'


def held_processes(pid):
    """{pid: ticks of CPU time} of the processes that run user code for the process."""
    found = {}
    for entry in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{entry}/stat', encoding='ascii', errors='replace') as f:
                name, rest = f.read().rsplit(')', 1)
        except OSError: # it has ended
            continue
        fields = rest.split()
        if name.split('(', 1)[1].startswith('yadouser') and fields[1] == str(pid):
            found[int(entry)] = int(fields[11]) + int(fields[12])
    return found


def direct_killed():
    """When somebody kills a process in which user code runs, the machine ends with a line that says so: what the program was
    at is not known any more."""
    image = vm.Image()
    with vm.Workdir() as work:
        disk = work.disk(image)
        with vm.Guest(vm.yado_argv(image, work, disk)) as guest:
            guest.wait_login()
            guest.login()
            guest.run('cloud-init status --wait > /dev/null; python3 -c "while True: pass" & sleep 3', 300)
            before = held_processes(guest.process.pid)
            time.sleep(1)
            after = held_processes(guest.process.pid)
            busiest = max(after, key=lambda pid: after[pid] - before.get(pid, 0), default=None)
            check(busiest and after[busiest] - before.get(busiest, 0) > 30, f'nothing runs directly: {before} {after}')
            os.kill(busiest, signal.SIGKILL)
            status = guest.process.wait(30)
            check(status == 1, guest.describe(f'the command ended with status {status}'))
            check('killed a process' in guest.errors(), guest.describe('it does not say why'))
            check(not held_processes(guest.process.pid), 'some of its processes are left')
    return f'{after[busiest] - before.get(busiest, 0)} ticks of a second ran directly'


IMAGE = [direct, direct_killed]
