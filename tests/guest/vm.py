"""Whole guests at a terminal, for tests, soaks and benchmarks: start one, wait for its login, talk to its shell.

A guest runs under a pseudo terminal of ours, as it would on a person's: `Guest` holds the process, what the console
said, and the clock. Only Python's standard library is needed. Every wait has a time limit and says what it waited for.
"""
import fcntl
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get('BUILD') or 'build')
YADO = os.path.join(BUILD, 'yado')
CMDLINE = os.environ.get('CMDLINE') or 'console=hvc0 root=/dev/vda rw'
USER, PASSWORD, HOSTNAME = 'guest', 'yado', 'foobar'
# A slow or busy machine: every limit times this.
SLOW = float(os.environ.get('YADO_TEST_SLOW') or 1)


class GuestError(Exception):
    """A guest did not do what was waited for."""


def image_file(variable, name):
    return os.environ.get(variable) or os.path.join(BUILD, 'image', name)


class Image:
    """Kernel, initrd and disk: the project's own, or those that the environment names (KERNEL, INITRD, DISK)."""

    def __init__(self):
        self.kernel = image_file('KERNEL', 'vmlinuz')
        self.initrd = image_file('INITRD', 'initrd.img')
        self.disk = image_file('DISK', 'disk.img')

    def missing(self):
        return [f for f in (self.kernel, self.initrd, self.disk) if not os.path.exists(f)]


def copy_sparse(source, target):
    """A copy that shares blocks where the file system can, and keeps holes where it cannot."""
    subprocess.run(['cp', '--reflink=auto', '--sparse=always', source, target], check=True)
    os.chmod(target, 0o600)
    return target


def disk_of_tree(tree, path, size):
    """A file system image with what is in a folder; `size` as mke2fs takes it."""
    env = dict(os.environ, PATH=os.environ['PATH'] + ':/usr/sbin:/sbin')
    subprocess.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-d', tree, path, size], env=env, check=True,
                   stdout=subprocess.DEVNULL)
    return path


def write_file(path, text):
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)
    return path


def user_data(name=USER, password=PASSWORD):
    return f"""#cloud-config
users:
  - name: {name}
    plain_text_passwd: {password}
    lock_passwd: false
    shell: /bin/bash
    sudo: "ALL=(ALL) NOPASSWD:ALL"
"""


class Workdir:
    """A scratch folder with a seed's two files and copies of the disk; gone at the end, as is all that it holds."""

    def __init__(self, hostname=HOSTNAME):
        self.tmp = tempfile.TemporaryDirectory(prefix='yado-guest-', dir=os.environ.get('YADO_TEST_TMP'))
        self.path = self.tmp.name
        self.user_data = write_file(self.file('user-data'), os.environ.get('YADO_USER_DATA_TEXT') or user_data())
        self.meta_data = write_file(self.file('meta-data'),
                                    f'instance-id: iid-{os.getpid()}-{time.time_ns()}\nlocal-hostname: {hostname}\n')

    def file(self, name):
        return os.path.join(self.path, name)

    def disk(self, image, name='disk.img'):
        return copy_sparse(image.disk, self.file(name))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.tmp.cleanup()


def yado_argv(image, work, disk, cpus=2, memory='2G', extra=(), cmdline=None):
    return [YADO, 'run', '--cpus', str(cpus), '--memory', memory, '--kernel', image.kernel,
            '--initrd', image.initrd, '--cmdline', cmdline or CMDLINE, '--disk', disk,
            '--user-data', work.user_data, '--meta-data', work.meta_data, *extra]


def qemu_argv(image, disk, seed, cpus=2, memory='2G', extra=(), cmdline=None, serial=False):
    """The same guest under QEMU's translator (TCG), for comparison; its network too goes through a NAT in the process.
    `serial`: ttyS0 writes to the same terminal as hvc0."""
    mux, ttys0 = (',mux=on', ['-serial', 'chardev:c0']) if serial else ('', [])
    return ['qemu-system-x86_64', '-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', str(cpus),
            '-m', memory, '-kernel', image.kernel, '-initrd', image.initrd, '-append', cmdline or CMDLINE,
            '-display', 'none', '-nodefaults', '-no-user-config', '-monitor', 'none',
            '-chardev', f'stdio,id=c0,signal=off{mux}', *ttys0, '-device', 'virtio-serial-pci', '-device', 'virtconsole,chardev=c0',
            '-drive', f'file={disk},if=virtio,format=raw', '-device', 'virtio-rng-pci',
            '-drive', f'file={seed},if=virtio,format=raw,readonly=on',
            '-netdev', 'user,id=n0', '-device', 'virtio-net-pci,netdev=n0', *extra]


class Guest:
    """A running guest. Use as a context manager: the process never outlives the block."""

    def __init__(self, argv, env=None, rows=40, cols=200, pass_fds=()):
        self.argv = argv
        self.buffer = b''    # console output not yet consumed by expect()
        self.console = b''   # all of it
        self.marks = 0
        self.status = None
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack('HHHH', rows, cols, 0, 0))
        self.tty_before = termios.tcgetattr(self.slave)
        self.stderr_file = tempfile.TemporaryFile()
        self.started = time.monotonic()
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(argv, stdin=self.slave, stdout=self.slave, stderr=self.stderr_file, env=env,
                                        start_new_session=True, preexec_fn=self._own_terminal, pass_fds=pass_fds)
        os.set_blocking(self.master, False)

    def _own_terminal(self):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._read(0)
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)
        self.master = self.slave = -1
        self.stderr_file.close()

    # ---- what the console says ----

    def _read(self, timeout):
        """Takes what is there, waiting at most timeout seconds for something. True if there was any."""
        if self.master < 0 or not select.select([self.master], [], [], max(0, timeout))[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except (BlockingIOError, OSError):
            return False
        self.buffer += data
        self.console += data
        if os.environ.get('YADO_TEST_ECHO'):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return bool(data)

    def errors(self):
        """What the process said on its standard error."""
        self.stderr_file.seek(0)
        return self.stderr_file.read().decode(errors='replace')

    def describe(self, what):
        tail = self.console[-3000:].decode(errors='replace')
        state = self.process.poll()
        running = 'still running' if state is None else f'ended with status {state}'
        return (f'{what}\n  after {time.monotonic() - self.started:.1f} s; the process is {running}\n'
                f'  standard error: {self.errors().strip() or "(nothing)"}\n--- end of the console ---\n{tail}\n---')

    def expect(self, pattern, timeout, what=None):
        """Waits for a regular expression (bytes) on the console; consumes up to its end; returns the match."""
        expression = re.compile(pattern, re.S)
        deadline = time.monotonic() + timeout * SLOW
        while True:
            match = expression.search(self.buffer)
            if match:
                self.buffer = self.buffer[match.end():]
                return match
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestError(self.describe(f'time out ({timeout * SLOW:.0f} s) waiting for {what or pattern}'))
            got = self._read(min(left, 0.5))
            if not got and self.process.poll() is not None:
                while self._read(0):
                    pass
                if not expression.search(self.buffer):
                    raise GuestError(self.describe(f'the process ended while waiting for {what or pattern}'))

    def watch(self, patterns, timeout):
        """Waits until each of {name: regular expression} has been on the console, in whatever order and wherever it overlaps;
        returns {name: seconds since start}. Consumes nothing."""
        found = {}
        missing = {name: re.compile(pattern, re.S) for name, pattern in patterns.items()}
        deadline = time.monotonic() + timeout * SLOW
        while True:
            now = time.monotonic()
            for name in [n for n, expression in missing.items() if expression.search(self.console)]:
                found[name] = now - self.started
                del missing[name]
            if not missing:
                return found
            if now > deadline or (self.process.poll() is not None and not self._read(0)):
                raise GuestError(self.describe(f'never saw {", ".join(missing)} in {timeout * SLOW:.0f} s'))
            self._read(min(0.5, deadline - now))

    def send(self, text):
        data = text.encode() if isinstance(text, str) else text
        while data:
            select.select([], [self.master], [], 10)
            try:
                data = data[os.write(self.master, data):]
            except BlockingIOError:
                pass

    # ---- a person at the console ----

    def wait_login(self, timeout=300, hostname=None):
        """Waits for the login prompt; returns the seconds since start."""
        name = re.escape(hostname).encode() if hostname else rb'\S+'
        self.expect(name + rb' login: ?', timeout, 'the login prompt')
        return time.monotonic() - self.started

    def login(self, user=USER, password=PASSWORD, timeout=90):
        """Logs in at the prompt and makes the shell quiet and wide for run(). cloud-init may set the password only
        moments after the prompt appears, so a refusal is tried again until the time is over."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            self.send(user + '\n')
            self.expect(rb'[Pp]assword: ?', timeout, 'the password prompt')
            self.send(password + '\n')
            match = self.expect(rb'Login incorrect|[$#] ?$|[$#] \x1b', timeout, 'a shell prompt')
            if match.group(0) != b'Login incorrect':
                break
            if time.monotonic() > deadline:
                raise GuestError(self.describe('the login was refused'))
            self.expect(rb'login: ?', timeout, 'the login prompt again')
        self.send("export PS1= PS2= TERM=dumb; stty -echo cols 2000; bind 'set enable-bracketed-paste off'\n")
        self.run('true', timeout=60)

    def run(self, command, timeout=60, check=True):
        """Runs one shell command in the guest; returns its output. With check, a status other than 0 is an error."""
        output, status = self.run_status(command, timeout)
        if check and status != 0:
            raise GuestError(self.describe(f'`{command}` in the guest ended with status {status}: {output}'))
        return output

    def run_status(self, command, timeout=60):
        self.marks += 1
        # The mark is put together by the shell, so that an echo of the command cannot be taken for its end. All on one
        # line: sudo would swallow what is typed ahead.
        self.send(f"{{ {command}; }} < /dev/null; printf '\\n<%s:%d:%d>\\n' end {self.marks} $?\n")
        # Not "(.*?)" in front of it: a search that fails would take time by the square of what was printed.
        end = self.expect(rb'<end:%d:(\d+)>' % self.marks, timeout, f'the end of `{command}`')
        return end.string[:end.start()].decode(errors='replace').replace('\r', '').strip(), int(end.group(1))

    def value(self, command, timeout=60):
        """The one-line output of a command, picked out of what else the console may say meanwhile."""
        self.marks += 1
        self.send(f"printf '\\n<%s:%d:%s:%s>\\n' value {self.marks} \"$({command})\" eulav\n")
        match = self.expect(rb'<value:%d:(.*?):eulav>' % self.marks, timeout, f'the value of `{command}`')
        return match.group(1).decode(errors='replace').replace('\r', '').strip()

    def poweroff(self, timeout=120):
        """`poweroff` at the shell; returns the process's exit status."""
        self.send('sudo poweroff\n')
        return self.wait_exit(timeout)

    def mount_disk_with(self, name, timeout=120):
        """Mounts, read-only at /mnt, whichever disk has a file `name` in its root folder."""
        self.run('for d in /dev/vd?; do sudo mount -o ro $d /mnt 2>/dev/null && '
                 f'{{ [ -e /mnt/{name} ] && break; sudo umount /mnt; }}; done; [ -e /mnt/{name} ]', timeout)

    def cpu_seconds(self):
        """CPU time that the process has taken, user and system."""
        with open(f'/proc/{self.process.pid}/stat', encoding='ascii') as f:
            fields = f.read().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def cpu_waits(self):
        """For each thread of the process the seconds in which it was ready to run and something else had the CPU."""
        folder, waits = f'/proc/{self.process.pid}/task', {}
        for thread in os.listdir(folder):
            try:
                with open(f'{folder}/{thread}/schedstat', encoding='ascii') as f:
                    waits[thread] = int(f.read().split()[1]) / 1e9
            except (FileNotFoundError, ProcessLookupError):
                pass # it has ended
        return waits

    def kept_waiting(self, before):
        """Seconds that the process's threads have waited for a CPU since cpu_waits() said `before`: nothing that goes from
        thread to thread was delayed longer. A time limit of the guest's does not count them."""
        return sum(waited - before.get(thread, 0) for thread, waited in self.cpu_waits().items())

    # ---- the process ----

    def wait_exit(self, timeout):
        deadline = time.monotonic() + timeout * SLOW
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise GuestError(self.describe(f'time out ({timeout * SLOW:.0f} s) waiting for the process to end'))
            self._read(0.2)
        while self._read(0):
            pass
        self.status = self.process.returncode
        return self.status

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def terminal_restored(self):
        return termios.tcgetattr(self.slave) == self.tty_before

    def _memory(self):
        """(all, RAM): bytes of memory of the process, and those of them that are the guest's RAM. RAM is the mapping that
        neither children nor core files get (VmFlags dc and dd), but for a vCPU's tables of 4 MiB. Where it is a file, the host may hold more of it than is
        mapped at the moment, which counts as RAM too."""
        total = ram = pss = size = 0
        seen = False
        with open(f'/proc/{self.process.pid}/smaps', encoding='utf-8', errors='replace') as smaps:
            for line in smaps:
                if line.startswith('Size:'):
                    size = int(line.split()[1])
                elif line.startswith('Pss:'):
                    pss = int(line.split()[1]) * 1024
                    total += pss
                elif line.startswith('VmFlags:') and size > 4096 and {'dc', 'dd', 'wr'} <= set(line.split()):
                    ram += pss
                    seen = True
        if not seen:
            raise GuestError('the process has no mapping that looks like guest RAM')
        unmapped = max(0, self._ram_file() - ram)
        return total + unmapped, ram + unmapped

    def _ram_file(self):
        """Bytes that the host has given the file that RAM is in; 0 if there is none."""
        folder = f'/proc/{self.process.pid}/fd'
        for fd in os.listdir(folder):
            try:
                if re.fullmatch(r'/(memfd:)?yado-ram \(deleted\)', os.readlink(f'{folder}/{fd}')):
                    return os.stat(f'{folder}/{fd}').st_blocks * 512
            except FileNotFoundError:
                pass # it has been closed
        return 0

    def memory_beside_guest(self):
        """Bytes of memory that the process uses beside the guest's RAM."""
        total, ram = self._memory()
        return total - ram

    def memory_of_guest(self):
        """Bytes of memory that the host gives the guest's RAM at present."""
        return self._memory()[1]


class Controlled(Guest):
    """A guest of tests/guest/vmctl.c, which does as it is told while it runs."""

    def __init__(self, image, work, disks, cpus=2, memory_mib=2048, forward_port=0):
        self.path = work.file('control')
        self.control = None
        super().__init__([os.path.join(BUILD, 'tests', 'guest', 'vmctl'), self.path, image.kernel, image.initrd, CMDLINE,
                          str(cpus), str(memory_mib), str(forward_port), *disks])

    def close(self):
        if self.control:
            self.control.close()
        super().close()

    def tell(self, command, timeout=60):
        """Sends a command and waits until it is done."""
        if not self.control:
            self.control = socket.socket(socket.AF_UNIX)
            self.control.connect(self.path)
        self.control.settimeout(timeout * SLOW)
        self.control.sendall(command.encode() + b'\n')
        answer = b''
        while not answer.endswith(b'\n'):
            more = self.control.recv(1000)
            if not more:
                raise GuestError(self.describe(f'the machine went away at `{command}`'))
            answer += more
        if answer != b'ok\n':
            raise GuestError(f'`{command}`: {answer.decode().strip()}')


def make_seed(work, path):
    """A seed image file from the work folder's user-data and meta-data, by yado itself."""
    subprocess.run([YADO, 'seed', '--user-data', work.user_data, '--meta-data', work.meta_data, '-o', path],
                   check=True)
    return path


def fsck(disk):
    """(clean, output) of e2fsck -fn."""
    env = dict(os.environ, PATH=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')
    done = subprocess.run(['e2fsck', '-fn', disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                          check=False)
    return done.returncode == 0, done.stdout.decode(errors='replace')
