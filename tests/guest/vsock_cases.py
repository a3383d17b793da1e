"""What sockets between guest and host must show in a whole guest: many connections of mixed sizes, hashes compared on
both sides (talk.c), half-closes, ports where nobody listens, listeners that go."""
import os
import select
import socket
import subprocess

import vm

TALK = os.environ.get('TALK') or os.path.join(vm.BUILD, 'tests', 'guest', 'talk')
VSOCK_VM = os.environ.get('VSOCK_VM') or os.path.join(vm.BUILD, 'tests', 'guest', 'vsock_vm')


def check(condition, text):
    if not condition:
        raise vm.GuestError(text)


def tool_disk(work):
    """A disk whose bytes are the static program, for the guest to copy out."""
    path = work.file('talk.img')
    with open(TALK, 'rb') as source, open(path, 'wb') as f:
        data = source.read()
        f.write(data + bytes(-len(data) % 4096))
    return path


def tool_install(guest, device):
    guest.run(f'sudo dd if={device} of=/tmp/talk bs=64k 2>&1 && sudo chmod 755 /tmp/talk', 60)


def guest_serve(guest, port):
    """Leaves `talk serve` running in the guest; returns its process id."""
    pid = guest.value(f'/tmp/talk serve vsock:4294967295:{port} > /tmp/serve.out 2>&1 & echo $!')
    guest.run('for i in $(seq 100); do grep -q serving /tmp/serve.out && break; sleep 0.1; done; cat /tmp/serve.out',
              60)
    return pid


def guest_talk(guest, words, timeout=120):
    output, status = guest.run_status(f'/tmp/talk {words} 2>&1', timeout)
    check(status == 0, guest.describe(f'`talk {words}` in the guest: status {status}: {output}'))
    return next((line for line in output.splitlines() if line.startswith('talk:')), '')


def host_talk(words, timeout=120):
    done = subprocess.run([TALK, *words.split()], capture_output=True, text=True, timeout=timeout * vm.SLOW, check=False)
    check(done.returncode == 0, f'`talk {words}` on the host: status {done.returncode}: {done.stdout}{done.stderr}')
    return done.stdout.strip()


class HostServer:
    """`talk serve` at a Unix socket of the host, whose queue of connections is so short that the device has to wait."""

    def __init__(self, path):
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen([TALK, 'serve', 'unix:' + path, '4'], stdout=subprocess.PIPE)
        check(self.process.stdout.readline() == b'serving\n', 'talk does not serve')

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()


def first_byte(path):
    """What a program reads that connects to a Unix socket: b'' is the end."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20 * vm.SLOW)
        s.connect(path)
        try:
            return s.recv(1)
        except ConnectionResetError:
            return b''


def vsock():
    """--vsock both ways: hundreds of connections with hashes compared, half-closes, refusals, sockets that go."""
    image = vm.Image()
    with vm.Workdir() as work:
        disk = work.disk(image)
        host, guest_path = work.file('host.sock'), work.file('guest.sock')
        extra = ['--disk', tool_disk(work) + ',ro', '--vsock', '7000=' + host, '--vsock', 'guest:7001=' + guest_path]
        with HostServer(host) as server, vm.Guest(vm.yado_argv(image, work, disk, extra=extra)) as guest:
            guest.wait_login(hostname=vm.HOSTNAME)
            check(first_byte(guest_path) == b'', 'a port of the guest where nobody listens is not at its end')
            guest.login()
            tool_install(guest, '/dev/vdb')
            up = guest_talk(guest, 'ask vsock:2:7000 400 20 1')
            guest_talk(guest, 'ask vsock:2:7000 100 100 500 together')
            guest_talk(guest, 'refused vsock:2:7001')
            serving = guest_serve(guest, 7001)
            down = host_talk(f'ask unix:{guest_path} 400 20 100000')
            guest.run(f'kill {serving}')
            check(first_byte(guest_path) == b'', 'after its listener went, a port of the guest is not at its end')
            server.stop()
            guest_talk(guest, 'refused vsock:2:7000')
            check(guest.poweroff() == 0, guest.describe(f'status {guest.status}'))
        check(not os.path.exists(guest_path), f'{guest_path} is still there')
    return f'{up[6:]}; {down[6:]}'


def vsock_api():
    """The same by the public API: accept callbacks, connects with their errors, a listener removed while it runs."""
    image = vm.Image()
    ours, theirs = socket.socketpair()
    with vm.Workdir() as work:
        argv = [VSOCK_VM, image.kernel, image.initrd, vm.CMDLINE, '2', '2048', str(theirs.fileno()), work.disk(image),
                vm.make_seed(work, work.file('seed.iso')), tool_disk(work)]
        with ours, theirs, vm.Guest(argv, pass_fds=(theirs.fileno(),)) as guest:
            guest.wait_login(hostname=vm.HOSTNAME)
            guest.login()
            tool_install(guest, '/dev/vdc')
            up = guest_talk(guest, 'ask vsock:2:7000 300 20 1')
            guest_talk(guest, 'refused vsock:2:7003')
            guest_talk(guest, 'refused vsock:2:7005')
            guest_serve(guest, 7001)
            guest.run('python3 -c "import socket; socket.socket(socket.AF_VSOCK).connect((2, 7004))"')
            check(select.select([ours], [], [], 120 * vm.SLOW)[0], guest.describe('no report of the connects'))
            code, failed, moved = ours.recv(200).split()
            check(code == b'12', f'a connect to a port where nobody listens ended with code {code}, not REFUSED')
            check(failed == b'0', guest.describe(f'{failed} of 300 connects failed'))
            guest.run('python3 -c "import socket; socket.socket(socket.AF_VSOCK).connect((2, 7002))"')
            guest_talk(guest, 'refused vsock:2:7000')
            check(guest.poweroff() == 0, guest.describe(f'status {guest.status}'))
    return f'{up[6:]}; 300 connects, {int(moved)} bytes'


IMAGE = [vsock, vsock_api]
