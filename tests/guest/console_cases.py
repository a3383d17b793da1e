"""What consoles with several ports must show in a whole guest: names, bytes both ways with hashes compared, sockets whose
clients come and go, readers that stop, and terminals whose windows change."""
import fcntl
import hashlib
import os
import re
import socket
import struct
import termios
import threading
import time

import cases
import pvh
import vm

TRANSFER = 4 << 20
PORT_A, PORT_B, PORT_LOG = 'org.yado.a', 'org.yado.b', 'log'


def check(condition, text):
    if not condition:
        raise vm.GuestError(text)


def wait(condition, what, seconds=20):
    started = time.monotonic()
    while not condition():
        check(time.monotonic() - started < seconds * vm.SLOW, f'not within {seconds * vm.SLOW:.0f} s: {what}')
        time.sleep(0.05)


def client(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(120 * vm.SLOW)
    s.connect(path)
    return s


def receive_all(sock, want):
    got = hashlib.sha256()
    while want:
        data = sock.recv(min(want, 1 << 16))
        check(data, f'the port ended {want} bytes early')
        got.update(data)
        want -= len(data)
    return got.hexdigest()


class Transfer(threading.Thread):
    """Receives or sends on a thread of its own; result() is the hash."""

    def __init__(self, sock, data=None):
        super().__init__(daemon=True)
        self.sock, self.data, self.digest, self.error = sock, data, None, None
        self.start()

    def run(self):
        try:
            if self.data is None:
                self.digest = receive_all(self.sock, TRANSFER)
            else:
                self.sock.sendall(self.data)
                self.digest = hashlib.sha256(self.data).hexdigest()
        except (OSError, vm.GuestError) as e:
            self.error = e

    def result(self):
        self.join(240 * vm.SLOW)
        check(not self.is_alive() and not self.error, f'a transfer did not end: {self.error}')
        return self.digest


def device(name):
    return f'/dev/virtio-ports/{name}'


def both_ways(guest, a, b):
    """4 MiB out of one port and, at the same time, into another."""
    guest.run(f'sudo dd if=/dev/urandom of=/out bs=1M count={TRANSFER >> 20} 2>&1', 60)
    out, into = Transfer(a), Transfer(b, os.urandom(TRANSFER))
    guest.run(f'sudo sh -c "cat /out > {device(PORT_A)} & head -c {TRANSFER} {device(PORT_B)} > /in; wait"', 240)
    sums = [guest.value(f'sudo sha256sum < {file}', 60).split()[0] for file in ('/out', '/in')]
    check(out.result() == sums[0], f'what came out of a port has hash {out.digest}, what went in {sums[0]}')
    check(into.result() == sums[1], f'what was sent has hash {into.digest}, what the guest read {sums[1]}')


def clients_come_and_go(guest, path, first):
    """A program of the guest reads the end when the client goes, and talks with the next one."""
    guest.run(f'(sudo sh -c "cat {device(PORT_A)} > /heard; echo over >> /heard" > /dev/null 2>&1 &)')
    first.sendall(b'first words\n')
    guest.run('for i in $(seq 100); do grep -q first /heard && break; sleep 0.1; done')
    first.close()
    guest.run('for i in $(seq 100); do grep -q over /heard && break; sleep 0.1; done')
    check(guest.value('cat /heard') == 'first words\nover', 'the guest did not read the words and the end')
    second = client(path)
    guest.run(f'sudo sh -c "echo to the second > {device(PORT_A)}"')
    check(second.recv(100) == b'to the second\n', 'the second client did not get its line')
    return second


def reader_stops(guest, stopped, other, path):
    """Output as fast as it can go to a client that does not read: it waits, other ports go on; when the client goes, the
    guest's program is not held for ever, and the next client gets what is written then."""
    guest.run(f'(sudo sh -c "dd if=/dev/zero of={device(PORT_A)} bs=64k count=200" > /tmp/dd 2>&1 &)')
    time.sleep(2)
    guest.run(f'sudo sh -c "echo still here > {device(PORT_B)}"')
    check(other.recv(100) == b'still here\n', 'another port does not go on')
    check(guest.value('cat /tmp/dd') == '', 'output to a reader that does not read went somewhere')
    stopped.close()
    third = client(path) # what was not taken before is gone; the rest comes here
    zeros = 0
    while not guest.value('cat /tmp/dd'):
        zeros += len(third.recv(1 << 16))
    third.settimeout(2)
    try:
        while data := third.recv(1 << 16):
            zeros += len(data)
    except TimeoutError:
        pass
    check(0 < zeros <= 200 << 16, f'{zeros} bytes after a change of hands')
    third.settimeout(120 * vm.SLOW)
    return third


def window(fd, columns, rows):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))


def has_size(guest, terminal, columns, rows):
    size, want = f'sudo stty -F {terminal} size', f'{rows} {columns}'
    guest.run(f'for i in $(seq 100); do [ "$({size})" = "{want}" ] && break; sleep 0.1; done; {size}; '
              f'[ "$({size})" = "{want}" ]', 60)


def windows_change(guest, terminal):
    """The guest's terminals have the sizes of ours: that of the command, and that of a pty."""
    window(guest.slave, 123, 45) # the kernel tells the command by SIGWINCH
    has_size(guest, '/dev/hvc0', 123, 45)
    guest.run('(sudo sh -c "exec sleep 1000 < /dev/hvc1" > /dev/null 2>&1 &) ; sleep 1') # as a getty would have it open
    for columns, rows in (101, 31), (90, 25):
        window(terminal, columns, rows)
        has_size(guest, '/dev/hvc1', columns, rows)
    guest.run('sudo sh -c "stty -F /dev/hvc1 -onlcr; echo to the pty > /dev/hvc1"')
    check(os.read(terminal, 100) == b'to the pty\n', 'a line to the second terminal did not come')


def console_ports():
    """--console: names by udev, 4 MiB both ways with hashes, clients that come, go and stop reading, window sizes."""
    image = vm.Image()
    with vm.Workdir() as work:
        disk, path_a, path_b, log = work.disk(image), work.file('a.sock'), work.file('b.sock'), work.file('log')
        with open(log, 'w', encoding='ascii') as f:
            f.write('kept\n')
        extra = ['--console', f'name={PORT_A},socket:{path_a}', '--console', f'name={PORT_B},socket:{path_b}',
                 '--console', f'name={PORT_LOG},append:{log}', '--console', 'hvc,pty', '--console', 'name=idle,none']
        with vm.Guest(vm.yado_argv(image, work, disk, extra=extra)) as guest:
            guest.wait_login(hostname=vm.HOSTNAME)
            a, b = client(path_a), client(path_b)
            guest.login()
            names = guest.value('ls /dev/virtio-ports').split()
            check(sorted(names) == sorted([PORT_A, PORT_B, PORT_LOG, 'idle']), f'the guest has ports {names}')
            both_ways(guest, a, b)
            second = clients_come_and_go(guest, path_a, a)
            third = reader_stops(guest, second, b, path_a)
            guest.run(f'sudo sh -c "echo line > {device(PORT_LOG)}"')
            wait(lambda: open(log, encoding='ascii').read() == 'kept\nline\n', 'the line in the file')
            pty = re.search(r'port 3 is (\S+)', guest.errors())
            check(pty, 'the command does not say where the pty is')
            terminal = os.open(pty[1], os.O_RDWR | os.O_NOCTTY)
            windows_change(guest, terminal)
            os.close(terminal)
            check(guest.poweroff() == 0, guest.describe(f'status {guest.status}'))
            third.close()
            b.close()
        check(not os.path.exists(path_a), f'{path_a} is still there')


def console_bad_input():
    """Ports that cannot be had get one clear line that names the thing, status 1 or 2, and nothing is left behind."""
    problems = []
    with vm.Workdir() as work:
        kernel, text, folder = work.file('tiny.elf'), work.file('text'), work.file('dir')
        with open(kernel, 'wb') as f:
            f.write(pvh.kernel(pvh.HALT))
        vm.write_file(text, 'no socket')
        os.mkdir(folder)
        rows = [
            ('no such kind', ['--console', 'name=a,morse'], 2, ['morse', 'socket:PATH']),
            ('no kind', ['--console', 'name=a'], 2, ['name=a']),
            ('name with a slash', ['--console', 'name=a/b,none'], 2, ['consoles[0].ports[0].name', '/']),
            ('name empty', ['--console', 'name=,none'], 2, ['consoles[0].ports[0].name', 'empty']),
            ('name too long', ['--console', f'name={"n" * 64},none'], 2, ['consoles[0].ports[0].name', '63']),
            ('name twice', ['--console', 'name=a,none', '--console', 'name=a,none'], 2, ['ports[1].name', 'ports[0]']),
            ('terminal twice', ['--serial', 'stdio', '--console', 'stdio'], 2, ['stdio']),
            ('descriptor not open', ['--console', 'fd:97'], 1, ['97']),
            ('file in no folder', ['--console', f'file:{folder}/no/log'], 1, ['ports[0].attachment', 'no/log']),
            ('file a folder', ['--console', f'append:{folder}'], 1, ['ports[0].attachment', 'directory']),
            ('socket a file', ['--console', f'socket:{text}'], 1, ['ports[0].attachment', 'text']),
            ('socket too long', ['--serial', 'socket:' + 's' * 108], 2, ['serial_ports[0].attachment', '107']),
            ('socket twice', ['--console', f'socket:{folder}/s', '--serial', f'socket:{folder}/s'], 2, ['dir/s']),
        ]
        before = sorted(os.listdir(work.path))
        for name, words, status, said in rows:
            argv = [vm.YADO, 'run', '--cpus', '1', '--memory', '64M', '--kernel', kernel, '--timeout', '5', *words]
            try:
                cases.check_refused(name, argv, status, said)
            except vm.GuestError as e:
                problems.append(str(e))
        left = [n for n in sorted(os.listdir(work.path)) + os.listdir(folder) if n not in before]
        check(not problems and not left, f'{len(problems)} of {len(rows)} cases, left behind {left}:\n' +
              '\n'.join(problems))
    return f'{len(rows)} kinds'


QUICK = [console_bad_input]
IMAGE = [console_ports]
