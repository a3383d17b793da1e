#!/usr/bin/env python3
"""A /dev/kvm with hardware's semantics where the machine has none: QEMU emulates a CPU with AMD's virtualization (SVM), a
small Linux in it loads kvm_amd, and our programs run on top. Called L1 here; what yado runs in it is L2.

usage: nested.py [--times N] CASE...     (all of them without a name)
       nested.py run -- PROGRAM ARGUMENT...                    a program of this host in L1

Needs qemu-system-x86_64, debugfs, and the guest image (make image): its kernel serves L1 too, its modules come out of its
disk. Nothing is mounted, no root is needed. Status 0: all held, 1: one did not, 77: something needed is missing.
BUILD=build   YADO_TEST_SLOW=factor   YADO_TEST_ECHO=1 (shows consoles)"""
import argparse
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(ROOT, os.environ.get('BUILD') or 'build')
IMAGE = os.environ.get("IMAGE") or next((p for p in (os.path.join(BUILD, "image"), os.path.join(ROOT, "build", "image"))
                                            if os.path.isdir(p)), os.path.join(BUILD, "image"))
SLOW = float(os.environ.get('YADO_TEST_SLOW') or 1)
ECHO = bool(os.environ.get('YADO_TEST_ECHO'))
MODULES = ('kvm-amd', 'virtio_pci', 'virtio_console', 'virtio_blk')
GUEST_MODULES = ('vmw_vsock_virtio_transport',) # for the guest in L1, whose initrd has the others
TOOLS = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
LOADED_LATER = ('libarchive.so.13',) # by dlopen, which ldd knows nothing of (src/seed/archive_lazy.c)


class NestedError(Exception):
    """Something did not happen in time, or not as it should."""


class Missing(Exception):
    """The host lacks something; the test cannot be run."""


# ---- what L1 is made of ----

def cpio(entries):
    """An initramfs archive (newc format: Linux Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = bytearray()
    folders = set()

    def add(name, mode, data):
        path = name.encode() + b'\0'
        fields = (len(out) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out.extend(b'070701' + b''.join(b'%08x' % f for f in fields) + path)
        out.extend(b'\0' * (-len(out) % 4))
        out.extend(data)
        out.extend(b'\0' * (-len(out) % 4))

    for name, mode, data in entries:
        parts = name.split('/')
        for i in range(1, len(parts)):
            folder = '/'.join(parts[:i])
            if folder not in folders:
                folders.add(folder)
                add(folder, stat.S_IFDIR | 0o755, b'')
        add(name, mode, data)
    add('TRAILER!!!', 0, b'')
    return bytes(out)


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def file_entry(name, path):
    return name.lstrip('/'), stat.S_IFREG | (0o755 if os.access(path, os.X_OK) else 0o644), read(path)


def libraries(program):
    """The shared libraries that a program of this host needs, where it looks for them."""
    done = subprocess.run(['ldd', program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return sorted(set(re.findall(r'(/\S+) \(0x', done.stdout.decode())))


def libraries_loaded_later():
    """What yado loads while it runs, and what that needs, by the dynamic linker's own list."""
    cache = subprocess.run(['ldconfig', '-p'], stdout=subprocess.PIPE, env=dict(os.environ, PATH=TOOLS), check=True).stdout.decode()
    found = []
    for name in LOADED_LATER:
        line = re.search(rf'^\s*{re.escape(name)} \(libc6,x86-64.*=> (\S+)$', cache, re.M)
        if not line:
            raise Missing(f'{name} is not installed')
        found += [line.group(1), *libraries(line.group(1))]
    return found


def debugfs(disk, command):
    env = dict(os.environ, PATH=TOOLS)
    return subprocess.run(['debugfs', '-R', command, disk], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env,
                          check=True).stdout


class Parts:
    """Kernel, modules and first program of L1, kept in BUILD/nested while the guest image stays the same."""

    def __init__(self):
        self.kernel = os.path.join(IMAGE, 'vmlinuz')
        self.initrd = os.path.join(IMAGE, 'initrd.img')
        self.disk = os.path.join(IMAGE, 'disk.img')
        self.yado = os.path.join(BUILD, 'yado')
        self.init = os.path.join(BUILD, 'tests', 'nested', 'l1_init')
        self.folder = os.path.join(BUILD, 'nested')
        for tool in ('qemu-system-x86_64', 'debugfs'):
            if not shutil.which(tool, path=TOOLS):
                raise Missing(f'{tool} is not installed')
        for path in (self.kernel, self.initrd, self.disk, self.yado, self.init):
            if not os.path.exists(path):
                raise Missing(f'{path} is not there (make, make image)')
        self.modules, self.guest_modules = self.modules_get()

    def modules_get(self):
        """Those of L1 and those for its guest, with what they depend on, in the order of loading."""
        stamp = os.path.join(self.folder, f'modules-{int(os.path.getmtime(self.disk))}.json')
        if os.path.exists(stamp):
            return json.loads(read(stamp))
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        version = re.search(rb'(\d+\.\d+\.\d+-\S+)', debugfs(self.disk, 'ls /lib/modules')).group(1).decode()
        base = f'/lib/modules/{version}'
        depends = dict(line.split(':', 1) for line in debugfs(self.disk, f'cat {base}/modules.dep').decode().splitlines())
        lists = []
        for names in MODULES, GUEST_MODULES:
            order = []
            for name in names:
                path = next(p for p in depends if p.endswith(f'/{name}.ko'))
                order += [p for p in [*reversed(depends[path].split()), path] if p not in order]
            for path in order:
                debugfs(self.disk, f'dump {base}/{path} {os.path.join(self.folder, os.path.basename(path))}')
            lists.append([os.path.join(self.folder, os.path.basename(path)) for path in order])
        with open(stamp, 'w', encoding='utf-8') as f:
            json.dump(lists, f)
        return lists

    def initrd_with(self, entries):
        """The guest's own initrd with more files in it; a path."""
        path = os.path.join(self.folder, f'initrd-{os.getpid()}')
        stock = read(self.initrd)
        with open(path, 'wb') as f:
            f.write(stock + b'\0' * (-len(stock) % 4) + cpio(entries))
        return path

    def initramfs(self, programs, files, jobs):
        entries = [file_entry('init', self.init)]
        names = []
        for path in self.modules:
            names.append('/modules.d/' + os.path.basename(path))
            entries.append(file_entry(names[-1], path))
        entries.append(('modules', stat.S_IFREG | 0o644, ('\n'.join(names) + '\n').encode()))
        seen = {}
        for path in programs:
            seen['/' + os.path.basename(path)] = path
            for library in libraries(path) + (libraries_loaded_later() if path == self.yado else []):
                seen[library] = library
        seen.update(files)
        entries += [file_entry(name, path) for name, path in sorted(seen.items())]
        entries.append(('job', stat.S_IFREG | 0o644, ''.join('\t'.join(j) + '\n' for j in jobs).encode()))
        return cpio(entries)


class L1:
    """A running middle machine. Use as a context manager: it never outlives the block.

    Its clock is the host's. One that counts instructions (-icount) would keep the load of the host away from time limits in it,
    but QEMU 7.2 cannot be had with both that and SVM: VMRUN leaves the vector of an interrupt that it delivers behind as the
    pending exception, and when the count ends before the next exit from the guest, the interrupt is delivered a second time,
    with interrupts off. Sooner or later that is a timer's, inside the scheduler's lock, and the guest hangs. With either clock its
    VMRUN forgets the interrupt shadow that the VMCB holds: what waits in L2 with STI and HLT may get the interrupt before the HLT,
    and code behind the HLT must not be what goes on."""

    def __init__(self, parts, programs, jobs, files=None, disk=None, memory=1536):
        self.tmp = tempfile.TemporaryDirectory(prefix='yado-nested-')
        initrd = os.path.join(self.tmp.name, 'initrd')
        with open(initrd, 'wb') as f:
            f.write(parts.initramfs(programs, files or {}, jobs))
        self.console_path = os.path.join(self.tmp.name, 'console')
        self.job, job_there = socket.socketpair()
        self.control, control_there = socket.socketpair()
        argv = ['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-M', 'q35',
                '-accel', 'tcg,thread=multi', '-cpu', 'max',
                '-m', f'{memory}M', '-kernel', parts.kernel, '-initrd', initrd,
                '-append', 'console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off no_timer_check',
                '-serial', f'file:{self.console_path}', '-device', 'virtio-serial-pci,disable-legacy=on']
        for n, (name, there) in enumerate((('job', job_there), ('control', control_there)), 1):
            argv += ['-chardev', f'socket,id={name},fd={there.fileno()}', '-device', f'virtserialport,chardev={name},nr={n}']
        if disk:
            argv += ['-drive', f'file={disk},format=raw,if=none,id=d,snapshot=on',
                     '-device', 'virtio-blk-pci,drive=d,disable-legacy=on']
        self.output = b''    # not yet consumed by expect()
        self.all = b''
        self.reports = b''
        self.started = time.monotonic()
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        pass_fds=(job_there.fileno(), control_there.fileno()))
        job_there.close()
        control_there.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.job.close()
        self.control.close()
        self.tmp.cleanup()

    def describe(self, text):
        console = read(self.console_path).decode(errors='replace') if os.path.exists(self.console_path) else ''
        return f'{text}\n--- end of the output\n{self.all[-3000:].decode(errors="replace")}\n--- end of L1\'s console\n' \
               f'{console[-6000:]}'

    def _read(self, timeout):
        ready, _, _ = select.select([self.job, self.control], [], [], timeout)
        got = False
        for s in ready:
            data = s.recv(65536)
            got = got or bool(data)
            if s is self.job:
                self.output += data
                self.all += data
                if ECHO:
                    sys.stdout.buffer.write(data)
                    sys.stdout.flush()
            else:
                self.reports += data
        return got

    def _wait(self, check, timeout, what):
        deadline = time.monotonic() + timeout * SLOW
        while True:
            found = check()
            if found:
                return found
            if time.monotonic() > deadline:
                self.control.sendall(b'S')
                time.sleep(3)
                raise NestedError(self.describe(f'time out ({timeout * SLOW:.0f} s) waiting for {what}'))
            if not self._read(0.2) and self.process.poll() is not None and not check():
                raise NestedError(self.describe(f'L1 ended while waiting for {what}'))

    def expect(self, pattern, timeout, what=None):
        """Waits for a regular expression in the output; consumes up to its end; returns the match."""
        expression = re.compile(pattern, re.S)
        match = self._wait(lambda: expression.search(self.output), timeout, what or pattern)
        self.output = self.output[match.end():]
        return match

    def send(self, text):
        self.job.sendall(text.encode())

    def wait_start(self, timeout=120):
        self._wait(lambda: b'start\n' in self.reports, timeout, 'L1 to come up')
        return time.monotonic() - self.started

    def wait_statuses(self, n, timeout):
        """The exit statuses of the first n jobs."""
        def statuses():
            found = re.findall(rb'exit (\d+)\n', self.reports)
            return [int(s) for s in found] if len(found) >= n else None
        return self._wait(statuses, timeout, f'job {n} to end')

    def terminate_job(self):
        self.control.sendall(b'T')


# ---- cases ----

def check(condition, text):
    if not condition:
        raise NestedError(text)


def yado_job(*extra, cpus=1, cmdline='console=hvc0', memory='512M'):
    return ['/yado', 'run', '--engine', 'kvm', '--cpus', str(cpus), '--memory', memory, '--kernel', '/vmlinuz',
            '--initrd', '/initrd.img', '--cmdline', cmdline, *extra]


def kernel_files(parts):
    return {'/vmlinuz': parts.kernel, '/initrd.img': parts.initrd}


def boot_to_init(parts, cpus):
    # Without a root disk the initrd ends in its shell. There is no console before it has loaded a driver for one, so
    # the kernel's own words are asked for afterwards.
    with L1(parts, [parts.yado], [yado_job(cpus=cpus)], kernel_files(parts)) as l1:
        l1_up = l1.wait_start()
        began = time.monotonic()
        l1.expect(rb'\(initramfs\) ', 150, 'the shell of the initrd')
        l1.send('dmesg; echo told=$((6*7))\n')
        text = l1.expect(rb'(.*)told=42', 60, 'the kernel log').group(1).decode(errors='replace')
        at = re.search(r'\[ *([\d.]+)\] Run /init as init process', text)
        check(at, l1.describe('the kernel did not run /init'))
        check('Hypervisor detected: KVM' in text, l1.describe('the guest does not know that it runs on KVM'))
        # A kernel with one CPU says this too.
        check(re.search(rf'Brought up 1 node, {cpus} CPU', text), l1.describe(f'not {cpus} CPUs'))
        return f'L1 up after {l1_up:.1f} s; /init at {at.group(1)} s of the guest\'s clock, its shell ' \
               f'{time.monotonic() - began:.1f} s after yado started'


def case_init(parts):
    """The stock kernel and initrd reach "Run /init" under --engine kvm, one vCPU."""
    return boot_to_init(parts, 1)


def case_init2(parts):
    """The same with two vCPUs, both of which come up."""
    return boot_to_init(parts, 2)


def login_machine(parts, cpus=2, cloud_init=True):
    """yado with the stock kernel, its initrd and the image's disk. cloud-init takes as long as all the rest of the boot."""
    seed, cmdline = ['--user-data', '/user-data'], 'console=hvc0 root=/dev/vda rw quiet'
    if not cloud_init:
        seed, cmdline = [], cmdline + ' cloud-init=disabled'
    job = yado_job('--disk', '/dev/vda', *seed, cpus=cpus, memory='768M', cmdline=cmdline)
    user_data = os.path.join(parts.folder, 'user-data')
    with open(user_data, 'w', encoding='utf-8') as f:
        f.write('#cloud-config\nusers:\n  - name: guest\n    plain_text_passwd: yado\n    lock_passwd: false\n'
                '    shell: /bin/bash\n    sudo: "ALL=(ALL) NOPASSWD:ALL"\n')
    return L1(parts, [parts.yado], [job], dict(kernel_files(parts), **{'/user-data': user_data}), disk=parts.disk,
              memory=2048)


def wait_login(l1):
    l1_up = l1.wait_start()
    began = time.monotonic()
    l1.expect(rb'login: ', 900, 'the login prompt')
    return f'L1 up after {l1_up:.1f} s, L2 at its login prompt {time.monotonic() - began:.1f} s after yado started'


def case_login(parts):
    """A whole Debian with its disk comes to the login prompt on two vCPUs; poweroff at its shell ends yado with 0."""
    with login_machine(parts) as l1:
        note = wait_login(l1)
        deadline = time.monotonic() + 240 * SLOW
        while True:
            l1.send('guest\n')
            l1.expect(rb'assword: ', 120, 'the password prompt')
            l1.send('yado\n')
            if l1.expect(rb'Login incorrect|\$ ', 120, 'a shell').group(0) != b'Login incorrect':
                break
            check(time.monotonic() < deadline, 'the login is refused')
            l1.expect(rb'login: ', 120, 'the prompt again')
        l1.send('echo cpus=$(nproc) clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)\n')
        found = l1.expect(rb'cpus=(\d+) clock=(\S+)', 120, 'the number of CPUs')
        check(found.group(1) == b'2', f'the guest sees {found.group(1).decode()} CPUs, not 2')
        l1.send('sudo poweroff\n')
        status = l1.wait_statuses(1, 300)[0]
        check(status == 0, l1.describe(f'yado ended with status {status} after poweroff'))
        return f'{note}; clock source {found.group(2).decode()}'


def case_stop(parts):
    """A Debian at its login prompt on two vCPUs, without cloud-init: the power button (SIGTERM to yado) shuts it down in
    good order."""
    with login_machine(parts, cloud_init=False) as l1:
        note = wait_login(l1)
        l1.terminate_job()
        status = l1.wait_statuses(1, 300)[0] # 143 if it had to be cut off
        check(status == 0, l1.describe(f'yado ended with status {status}'))
        return note


def case_vsock(parts):
    """Sockets of the stock kernel under --engine kvm: a refusal, then 50 connections by 5 threads to a Unix socket of the host,
    what arrives compared by hashes on both sides."""
    talk = os.path.join(BUILD, 'tests', 'guest', 'talk')
    if not os.path.exists(talk):
        raise Missing(f'{talk} is not built')
    names = [f'modules/{n}-{os.path.basename(path)}' for n, path in enumerate(parts.guest_modules)]
    initrd = parts.initrd_with([file_entry('talk', talk), *map(file_entry, names, parts.guest_modules)])
    job = ['/talk', 'beside', 'unix:/host.sock', *yado_job('--vsock', '7000=/host.sock', cpus=2)]
    try:
        with L1(parts, [parts.yado, talk], [job], {'/vmlinuz': parts.kernel, '/initrd.img': initrd}) as l1:
            l1.expect(rb'\(initramfs\) ', 300, 'the shell of the initrd')
            l1.send('for m in /modules/*; do insmod $m; done; /talk refused vsock:2:7001; echo refused=$?; '
                    '/talk ask vsock:2:7000 50 5; echo asked=$?\n')
            check(l1.expect(rb'refused=(\d+)', 120, 'a refusal').group(1) == b'0', l1.describe('it was not refused'))
            told = l1.expect(rb'talk: (\d+ connections[^\r\n]*).*asked=(\d+)', 300, 'the connections')
            check(told.group(2) == b'0', l1.describe('connections failed'))
            return told.group(1).decode()
    finally:
        os.unlink(initrd)


def run_test_programs(parts, relatives, timeout, names=(), text_to=None):
    programs = [os.path.join(BUILD, r) for r in relatives]
    for program in programs:
        if not os.path.exists(program):
            raise Missing(f'{program} is not built')
    with L1(parts, programs, [['/' + os.path.basename(p), *names] for p in programs]) as l1:
        statuses = l1.wait_statuses(len(programs), timeout)
        text = l1.all.decode(errors='replace')
        if text_to is not None:
            text_to.append(text)
        for relative, status in zip(relatives, statuses):
            check(status == 0, l1.describe(f'{relative} ended with status {status}'))
        counts = re.findall(r'\[  PASSED  \] (\d+) test', text)
        check(counts, l1.describe('no result is told'))
        notes = re.findall(r'# (\w+) on kvm: known limit', text)
        return f'{"+".join(counts)} tests passed' + (f'; known limits of this KVM: {" ".join(notes)}' if notes else '')


def case_engine(parts):
    """The engine's own tests (tests/kvm) hold on a KVM with hardware's semantics."""
    return run_test_programs(parts, ['tests/kvm/test_kvm', 'tests/kvm/test_kvm_virtio', 'tests/kvm/test_kvm_faults'], 300)


def case_cpu(parts):
    """The CPU cases (tests/cpu) hold on it; those that it cannot have among others, each in a machine of its own."""
    note = run_test_programs(parts, ['tests/cpu/test_cpu'], 900, text_to=(told := []))
    alone = re.findall(r'# (\w+) on kvm: to be run alone', told[0])
    check(alone, 'no case is to be run alone')
    return '; '.join([note, *(f'{name} alone: {run_test_programs(parts, ["tests/cpu/test_cpu"], 120, [name])}' for name in alone)])


def case_probe(parts):
    """yado doctor takes this KVM, and --engine auto is it."""
    with L1(parts, [parts.yado], [['/yado', 'doctor']]) as l1:
        l1.wait_statuses(1, 120)
        text = l1.all.decode(errors='replace')
        check(re.search(r'engine kvm: usable\r?\n', text) and '--engine auto: kvm' in text, l1.describe('KVM is not chosen'))


CASES = {name[5:]: f for name, f in sorted(globals().items()) if name.startswith('case_')}


# ---- the command ----

def cpu_seconds():
    """Of the machines that ended: what a case takes when nobody else uses the host."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_case(parts, name):
    began, began_cpu = time.monotonic(), cpu_seconds()
    try:
        note = CASES[name](parts)
    except (NestedError, OSError, subprocess.CalledProcessError) as e:
        print(f'FAIL {name} ({time.monotonic() - began:.1f} s): {e}', flush=True)
        return False
    print(f'ok   {name} ({time.monotonic() - began:.1f} s, CPU {cpu_seconds() - began_cpu:.1f} s){": " + note if note else ""}',
          flush=True)
    return True


def run_program(parts, argv):
    with L1(parts, [argv[0]], [['/' + os.path.basename(argv[0]), *argv[1:]]]) as l1:
        status = l1.wait_statuses(1, 600)[0]
        sys.stdout.buffer.write(l1.all)
        return status


def end_on_sigterm():
    """As an exception, so that no machine stays behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main():
    end_on_sigterm()
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--times', type=int, default=1)
    options.add_argument('words', nargs=argparse.REMAINDER)
    given = options.parse_args()
    words = given.words or sorted(CASES)
    try:
        parts = Parts()
        if words[0] == 'run':
            return run_program(parts, [w for w in words[1:] if w != '--'])
        unknown = [w for w in words if w not in CASES]
        if unknown:
            print(f'nested.py: no such case: {", ".join(unknown)}; there are {", ".join(CASES)}', file=sys.stderr)
            return 2
        results = [run_case(parts, word) for word in words for _ in range(given.times)]
    except NestedError as e: # of "run"
        print(f'nested.py: {e}', file=sys.stderr)
        return 1
    except Missing as e:
        print(f'skipped: {e}')
        return 77
    print(f'{sum(results)} passed, {len(results) - sum(results)} failed')
    return 0 if all(results) else 1


if __name__ == '__main__':
    sys.exit(main())
