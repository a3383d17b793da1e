"""What the network of a whole guest must show, by real clients on both sides: HTTP, ssh, DNS, ping, apt."""
import hashlib
import http.server
import os
import re
import select
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pvh
import vm

NETVM = os.environ.get('NETVM') or os.path.join(vm.BUILD, 'tests', 'guest', 'netvm')
MAC = '52:54:00:ab:cd:01'
BLOB = 8 << 20
PACKAGE = 'hello' # small, and in no image


def check(condition, text):
    if not condition:
        raise vm.GuestError(text)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def free_port(kind=socket.SOCK_STREAM, address='127.0.0.1'):
    with socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, kind) as s:
        s.bind((address, 0))
        return s.getsockname()[1]


class NetVm(vm.Guest):
    """A guest under netvm (netvm.c), whose network can be changed while it runs."""

    def __init__(self, image, work, nets, cpus=2, memory=2048, fds=(), before=()):
        self.control, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        for fd in fds:
            os.set_inheritable(fd, True)
        self.lines = b''
        self.events = []
        argv = [*before, NETVM, image.kernel, image.initrd, vm.CMDLINE, str(cpus), str(memory), str(theirs.fileno()),
                work.disk(image), vm.make_seed(work, work.file('seed.iso')), '--', *nets]
        super().__init__(argv, pass_fds=(theirs.fileno(), *fds))
        theirs.close()
        check(self.answer(60) == 'ok', self.describe('the machine did not start'))

    def close(self):
        super().close()
        self.control.close()

    def line(self, timeout):
        """The next line of netvm's, None when there is none in time."""
        deadline = time.monotonic() + timeout * vm.SLOW
        while b'\n' not in self.lines:
            self._read(0)
            if not select.select([self.control], [], [], max(0, min(0.2, deadline - time.monotonic())))[0]:
                if time.monotonic() > deadline:
                    return None
                continue
            data = self.control.recv(4096)
            if not data:
                raise vm.GuestError(self.describe('netvm is gone'))
            self.lines += data
        line, self.lines = self.lines.split(b'\n', 1)
        return line.decode()

    def answer(self, timeout=30):
        while True:
            line = self.line(timeout)
            if line is None:
                raise vm.GuestError(self.describe('netvm does not answer'))
            if not line.startswith('event '):
                return line
            self.events.append(line)

    def ask(self, command, timeout=30):
        """'ok', or 'error MESSAGE'."""
        self.control.sendall(command.encode() + b'\n')
        return self.answer(timeout)

    def do(self, command, timeout=30):
        said = self.ask(command, timeout)
        check(said == 'ok', self.describe(f'{command}: {said}'))

    def wait_event(self, pattern, timeout=20):
        deadline = time.monotonic() + timeout * vm.SLOW
        while not any(re.search(pattern, e) for e in self.events):
            line = self.line(1)
            if line:
                self.events.append(line)
            check(time.monotonic() < deadline, self.describe(f'no event like "{pattern}"'))


class HostServer:
    """HTTP on the host: GET gives `blob`, POST takes a body and answers with its digest."""

    def __init__(self, blob, address='127.0.0.1'):
        class Handler(http.server.BaseHTTPRequestHandler):
            def reply(self, body):
                self.send_response(200)
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self): # pylint: disable=invalid-name
                self.reply(blob)

            def do_POST(self): # pylint: disable=invalid-name
                self.reply(sha(self.rfile.read(int(self.headers['Content-Length']))).encode())

            def log_message(self, *_): # pylint: disable=arguments-differ
                pass

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ':' in address else socket.AF_INET

        self.server = Server((address, 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


# ---- a guest with a key ----

def ssh_key(work):
    key = work.file('id')
    subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key], check=True)
    with open(key + '.pub', encoding='utf-8') as f:
        public = f.read().strip()
    vm.write_file(work.user_data, vm.user_data() + f'    ssh_authorized_keys: ["{public}"]\n')
    return key


def ssh_argv(key, port, *command):
    return ['ssh', '-F', 'none', '-i', key, '-p', str(port), '-o', 'StrictHostKeyChecking=no',
            '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR', '-o', 'BatchMode=yes',
            '-o', f'ConnectTimeout={int(30 * vm.SLOW)}', f'{vm.USER}@127.0.0.1', *command]


def ssh(key, port, command, data=None, timeout=60):
    done = subprocess.run(ssh_argv(key, port, command), input=data, stdin=subprocess.DEVNULL if data is None else None,
                          capture_output=True, timeout=timeout * vm.SLOW, check=False)
    check(done.returncode == 0, f'ssh: status {done.returncode}: {done.stderr.decode(errors="replace")}')
    return done.stdout


def fetch(url, timeout=60):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout * vm.SLOW) as answer:
        return answer.read()


GUEST_TOOL = r'''
import hashlib, socket, sys, urllib.request
what, *words = sys.argv[1:]
if what == "get":
    data = urllib.request.urlopen(words[0], timeout=60).read()
    print(len(data), hashlib.sha256(data).hexdigest())
elif what == "post":
    data = open(words[1], "rb").read()
    print(urllib.request.urlopen(words[0], data=data, timeout=60).read().decode())
elif what == "udp-echo":
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", int(words[0])))
    while True:
        data, peer = s.recvfrom(65536)
        s.sendto(data[::-1], peer)
'''


def guest_prepare(guest):
    """Log in, wait until cloud-init is done, put the tool there."""
    guest.wait_login(hostname=vm.HOSTNAME)
    guest.login()
    guest.value('cloud-init status --wait', 240)
    guest.run("cat > tool.py << 'END'\n" + GUEST_TOOL.strip() + '\nEND\ntrue')


# ---- the checks, one boot for all ----

def check_addresses(guest):
    """DHCP, router advertisement, the MAC address that was asked for; the gateway answers to both pings."""
    card = guest.value(f"grep -l {MAC} /sys/class/net/*/address | cut -d/ -f5")
    check(card, 'no card of the guest has the MAC address that was asked for')
    have = guest.run(f'ip -o addr show dev {card}')
    check('inet 10.0.2.15/24' in have, f'no address by DHCP: {have}')
    guest.run(f'for i in $(seq 30); do ip -6 -o addr show dev {card} scope global | grep -q fd79:6164:6f: && '
              'break; sleep 1; done; ip -6 route show default | grep -q via', 60)
    for target in ('10.0.2.2', 'fd79:6164:6f::2', 'fe80::2%' + card):
        out = guest.run(f'sudo ping -c 3 -i 0.3 -W 5 {target}', 60)
        check(' 0% packet loss' in out, f'ping {target}: {out}')
    return card


def check_http(guest, blob, server):
    """The host's server by the gateway's address, IPv4 and IPv6, down and up, byte for byte."""
    want = f'{len(blob)} {sha(blob)}'
    got = guest.value(f'python3 tool.py get http://10.0.2.2:{server.port}/', 90)
    check(got == want, f'the guest got other bytes by HTTP: {got}')
    guest.run(f'dd if=/dev/urandom of=up bs=1M count={BLOB >> 20} 2>&1')
    mine = guest.value('sha256sum < up | cut -d" " -f1', 60)
    got = guest.value(f'python3 tool.py post http://10.0.2.2:{server.port}/ up', 90)
    check(got == mine, f'the host got other bytes by HTTP: {got}, not {mine}')
    with HostServer(blob, '::1') as server6:
        got = guest.value(f'python3 tool.py get "http://[fd79:6164:6f::2]:{server6.port}/"', 90)
    check(got == want, f'the guest got other bytes by HTTP over IPv6: {got}')
    return mine


def check_dns(guest):
    """A name that the host's resolver knows is the same in the guest. Returns what was checked."""
    hosts = [urllib.parse.urlsplit(uri).hostname for uri, _, _ in host_archives()]
    for name in (h for h in hosts if h and not re.fullmatch(r'[\d.:]+|localhost', h)):
        try:
            want = {a[4][0] for a in socket.getaddrinfo(name, 80, socket.AF_INET)}
        except OSError:
            continue
        check('10.0.2.3' in guest.value('cat /etc/resolv.conf'), 'DHCP did not give the name server')
        got = set(guest.run(f'getent ahostsv4 {name} | cut -d" " -f1', 60).split())
        check(got & want, f'{name} is {want} here and {got} in the guest')
        return 'DNS'
    return 'no DNS (this host resolves no name)'


def host_archives():
    """(URI, suite, component) of each Debian archive that this host's apt uses."""
    try:
        out = subprocess.run(['apt-get', 'indextargets', '--format', '$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)',
                              'Created-By: Packages'], capture_output=True, text=True, check=False).stdout
    except OSError:
        return []
    rows = [line.split('|') for line in out.splitlines()]
    return sorted({tuple(r[1:]) for r in rows if len(r) == 4 and r[0] == 'Debian'}, key=lambda r: len(r[1]))


def check_apt(guest):
    """apt in the guest installs a package from where the host gets its own. Returns what was checked."""
    if guest.value('. /etc/os-release; echo $ID') != 'debian':
        return 'no apt'
    suite = guest.value('. /etc/os-release; echo $VERSION_CODENAME')
    archives = [a for a in host_archives() if a[1] == suite and a[2] == 'main']
    if not archives:
        return f'no apt (this host has no archive of {suite})'
    try:
        fetch(f'{archives[0][0].rstrip("/")}/dists/{suite}/InRelease', 15)
    except (OSError, urllib.error.URLError) as e:
        return f'no apt (this host does not reach its archive: {e})'
    guest.run('sudo rm -rf /etc/apt/sources.list /etc/apt/sources.list.d; '
              f'echo "deb {archives[0][0]} {suite} main" | sudo tee /etc/apt/sources.list')
    guest.run('sudo apt-get -o Acquire::Languages=none -o Acquire::Check-Date=false update', 240)
    guest.run(f'sudo DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {PACKAGE}', 240)
    out = guest.value(PACKAGE)
    check('Hello' in out, f'the package that was installed does not run: {out}')
    return 'apt'


def check_forwards(guest, key, web_port, up_digest):
    """Back into the guest: a forward given at the start, others added and removed while it runs, TCP and UDP, IPv4
    and IPv6, and ssh."""
    guest.run('(python3 -m http.server --bind :: 8000 > /dev/null 2>&1 &); '
              '(python3 tool.py udp-echo 9000 > /dev/null 2>&1 &); '
              'for i in $(seq 50); do ss -ltn 2>/dev/null | grep -q :8000 && break; sleep 0.2; done')
    check(sha(fetch(f'http://127.0.0.1:{web_port}/up')) == up_digest, 'other bytes through the forward of the start')

    ssh_port, echo_port, six = free_port(), free_port(socket.SOCK_DGRAM), free_port(address='::1')
    guest.do(f'forward 0 tcp:{ssh_port}:22')
    guest.do(f'forward 0 udp:127.0.0.1:{echo_port}:9000')
    guest.do(f'forward 0 tcp:[::1]:{six}:8000')
    check(sha(fetch(f'http://[::1]:{six}/up')) == up_digest, 'other bytes through the IPv6 forward')
    check(ssh(key, ssh_port, 'hostname').decode().strip() == vm.HOSTNAME, 'ssh reached another host')
    data = os.urandom(4 << 20)
    check(ssh(key, ssh_port, 'sha256sum', data).decode().split()[0] == sha(data), 'ssh carried other bytes')
    check(sha(ssh(key, ssh_port, 'cat up')) == up_digest, 'ssh brought other bytes')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(('127.0.0.1', echo_port))
        s.settimeout(10 * vm.SLOW)
        for size in (1, 1000, 9000):
            data = os.urandom(size)
            s.send(data)
            check(s.recv(65536) == data[::-1], f'a datagram of {size} bytes came back otherwise')
    check_forward_errors(guest, ssh_port, web_port)
    return ssh_port


def check_forward_errors(guest, ssh_port, web_port):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = guest.ask(f'forward 0 tcp:{port}:80')
    check(said.startswith('error') and str(port) in said and 'use' in said, f'a port in use: {said}')
    said = guest.ask(f'forward 0 tcp:{ssh_port}:22')
    check(said.startswith('error') and str(ssh_port) in said, f'a forward that exists: {said}')
    said = guest.ask(f'unforward 0 tcp:{free_port()}:22')
    check(said.startswith('error') and 'none' in said, f'removing a forward that is not there: {said}')
    said = guest.ask('forward 7 tcp:1:1')
    check(said.startswith('error') and 'network[7]' in said, f'a forward of no device: {said}')
    # One that goes: connections that exist stay, there are no new ones.
    with socket.create_connection(('127.0.0.1', web_port), 10) as old:
        old.sendall(b'GET /up HTTP/1.1\r\nHost: x\r\n') # not finished
        time.sleep(0.5)
        guest.do(f'unforward 0 tcp:{web_port}:8000')
        try:
            socket.create_connection(('127.0.0.1', web_port), 10).close()
            raise vm.GuestError('a forward that was removed still listens')
        except ConnectionRefusedError:
            pass
        old.sendall(b'Connection: close\r\n\r\n')
        old.settimeout(20 * vm.SLOW)
        check(old.recv(100).startswith(b'HTTP/'), 'a connection of a removed forward does not go on')


def check_swap(guest, card, ours, ssh_port, key):
    """Unplugged, plugged into a socket whose other side goes, plugged into another NAT: the guest goes along."""
    def carrier(want):
        guest.run(f'for i in $(seq 50); do [ "$(cat /sys/class/net/{card}/carrier)" = {want} ] && break; '
                  f'sleep 0.1; done; [ "$(cat /sys/class/net/{card}/carrier)" = {want} ]', 30)

    guest.do('attach 0 none')
    carrier(0)
    guest.do(f'attach 0 fd={ours[1]}')
    os.close(ours[1])
    carrier(1)
    os.close(ours[0])
    guest.run(f'ping -c 3 -W 1 ff02::1%{card}; true') # the end of a datagram socket is told to a sender only
    guest.wait_event(r'^event 0 .*gone')
    carrier(0)
    guest.do(f'attach 0 nat,forward=tcp:{ssh_port}:22')
    carrier(1)
    check(ssh(key, ssh_port, 'hostname').decode().strip() == vm.HOSTNAME, 'no ssh after the attachment was changed')
    guest.do('pause')
    guest.do('resume')
    check(' 0% packet loss' in guest.run('sudo ping -c 3 -i 0.3 -W 5 10.0.2.2', 60), 'no ping after a pause')


def network():
    """NAT in a booted guest: addresses, pings, HTTP out and in, ssh, UDP, DNS, apt; forwards and the attachment changed
    while it runs, and the loss of one told."""
    image, blob = vm.Image(), os.urandom(BLOB)
    pair = [s.detach() for s in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)]
    with vm.Workdir() as work, HostServer(blob) as server:
        key, web_port = ssh_key(work), free_port()
        # netvm gets a copy of each: ours of its end is closed, so that the end of the other is seen.
        with NetVm(image, work, [f'nat,mac={MAC},forward=tcp:{web_port}:8000'], fds=pair[1:]) as guest:
            guest_prepare(guest)
            card = check_addresses(guest)
            up_digest = check_http(guest, blob, server)
            ssh_port = check_forwards(guest, key, web_port, up_digest)
            notes = [check_dns(guest), check_apt(guest)]
            check_swap(guest, card, pair, ssh_port, key)
            check(guest.poweroff() == 0, guest.describe(f'status {guest.status}'))
    return ', '.join(notes)


# ---- bad input ----

def network_bad_input():
    """Networks that cannot be had get one clear line that names the thing, and status 1 or 2."""
    problems = []
    with vm.Workdir() as work, socket.socket() as taken, socket.socket() as loose:
        kernel = work.file('tiny.elf')
        with open(kernel, 'wb') as f:
            f.write(pvh.kernel(pvh.HALT))
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port, loose_fd = taken.getsockname()[1], loose.fileno()
        twice = free_port()
        rows = [
            ('no such kind', ['bridge'], 2, ['bridge', 'nat']),
            ('bad MAC', ['nat,mac=52:54:00'], 2, ['52:54:00', 'mac']),
            ('multicast MAC', ['nat,mac=01:00:5e:00:00:01'], 2, ['01:00:5e:00:00:01', 'unicast']),
            ('same MAC twice', [f'nat,mac={MAC}', f'nat,mac={MAC}'], 2, [MAC, 'network[0]']),
            ('port in use', [f'nat,forward=tcp:{port}:80'], 1, [str(port), 'use']),
            ('port forwarded twice', [f'nat,forward=tcp:{twice}:80,forward=tcp:{twice}:81'], 2, [str(twice)]),
            ('port not a number', ['nat,forward=tcp:http:80'], 2, ['http']),
            ('port of no protocol', ['nat,forward=sctp:80:80'], 2, ['sctp']),
            ('address not one', ['nat,forward=tcp:localhorst:80:80'], 2, ['localhorst']),
            ('address not ours', ['nat,forward=tcp:192.0.2.77:8080:80'], 1, ['192.0.2.77']),
            ('forward of a tap', ['tap=tap0,forward=tcp:80:80'], 2, ['forward']),
            ('name too long', ['tap=abcdefghijklmnopqrs'], 2, ['abcdefghijklmnopqrs']),
            ('tap without a name', ['tap='], 2, ['tap=']),
            ('descriptor not open', ['fd=97'], 2, ['97']),
            ('descriptor not a socket', ['fd=0'], 2, ['socket']),
            ('descriptor not connected', [f'fd={loose_fd}'], 2, ['connected']),
            ('descriptor not a number', ['fd=seven'], 2, ['seven']),
            ('MTU too small', ['fd=0,mtu=100'], 2, ['100']),
            ('MTU of a NAT', ['nat,mtu=9000'], 2, ['mtu']),
            ('none and another', ['none', 'nat'], 2, ['none']),
        ]
        if os.geteuid() != 0:
            rows.append(('tap missing', ['tap=yadonone'], 1, ['yadonone', 'ip tuntap']))
        for name, nets, status, words in rows:
            argv = [vm.YADO, 'run', '--cpus', '1', '--memory', '64M', '--kernel', kernel, '--timeout', '5']
            for net in nets:
                argv += ['--net', net]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * vm.SLOW,
                                  check=False, pass_fds=(loose_fd,))
            said = done.stderr.decode(errors='replace').strip()
            if done.returncode != status or len(said.splitlines()) != 1 or \
                    any(w.lower() not in said.lower() for w in words):
                problems.append(f'{name}: status {done.returncode} (wanted {status}), said: {said or "(nothing)"}; '
                                f'wanted one line with {words}')
    check(not problems, f'{len(problems)} of {len(rows)} cases:\n' + '\n'.join(problems))
    return f'{len(rows)} kinds'


# ---- by hand: real peers (needs root, passt and QEMU) ----

def run_tool(*argv):
    subprocess.run(argv, check=True, capture_output=True)


class NameSpace:
    """A network namespace with a tap in it, which is 10.9.0.1."""

    def __init__(self):
        self.name, self.tap = f'yadotest{os.getpid()}', 'yado0'
        run_tool('ip', 'netns', 'add', self.name)
        for words in ('link set lo up', f'tuntap add dev {self.tap} mode tap', f'link set {self.tap} up',
                      f'addr add 10.9.0.1/24 dev {self.tap}'):
            run_tool('ip', '-n', self.name, *words.split())

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        run_tool('ip', 'netns', 'del', self.name)


class Peer:
    """A program with one end of a socket pair; `fd` is the other, for netvm."""

    def __init__(self, kind, argv):
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        if kind == socket.SOCK_DGRAM:
            for s in (ours, theirs):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen([a.replace('@FD', str(theirs.fileno())) for a in argv],
                                        pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        theirs.close()
        self.fd = ours.detach()

    def end(self):
        self.process.kill()
        self.process.wait()


def qemu_switch(netdev):
    """QEMU without a machine: a hub between a socket and its own user networking."""
    return ['qemu-system-x86_64', '-M', 'none', '-nodefaults', '-display', 'none', '-monitor', 'none',
            '-netdev', netdev, '-netdev', 'user,id=u', '-netdev', 'hubport,id=h1,hubid=0,netdev=s',
            '-netdev', 'hubport,id=h2,hubid=0,netdev=u']


def renew(guest, card):
    """A lease from whoever is there now."""
    guest.run(f'sudo sh -c "dhclient -x {card}; pkill dhclient; ip addr flush dev {card} scope global; '
              f'rm -f /var/lib/dhcp/*; dhclient -1 {card}"', 120)
    return guest.value('ip -4 route show default | cut -d" " -f3')


def transfer(guest, url, blob):
    """Both ways, byte for byte."""
    got = guest.value(f'python3 tool.py get {url}', 120)
    check(got == f'{len(blob)} {sha(blob)}', f'other bytes from {url}: {got}')
    got = guest.value(f'python3 tool.py post {url} up', 120)
    check(got == guest.value('sha256sum < up | cut -d" " -f1', 60), f'other bytes to {url}: {got}')


def network_peers():
    """By hand, as root: passt and QEMU at the other end of sockets, and a tap; swapped in one running guest."""
    image, blob = vm.Image(), os.urandom(BLOB)
    peers = [Peer(socket.SOCK_STREAM, ['passt', '-f', '-q', '-F', '@FD']),
             Peer(socket.SOCK_STREAM, qemu_switch('stream,id=s,server=off,addr.type=fd,addr.str=@FD')),
             Peer(socket.SOCK_DGRAM, qemu_switch('dgram,id=s,local.type=fd,local.str=@FD'))]
    notes = []
    try:
        with vm.Workdir() as work, HostServer(blob) as server, NameSpace() as ns:
            with NetVm(image, work, [f'nat,mac={MAC}'], fds=[p.fd for p in peers],
                       before=['ip', 'netns', 'exec', ns.name]) as guest:
                guest_prepare(guest)
                card = check_addresses(guest)
                guest.run(f'dd if=/dev/urandom of=up bs=1M count={BLOB >> 20} 2>&1')
                for name, peer in zip(('passt', 'QEMU stream', 'QEMU dgram'), peers):
                    guest.do(f'attach 0 fd={peer.fd}')
                    gateway = renew(guest, card)
                    transfer(guest, f'http://{gateway}:{server.port}/', blob)
                    guest.events.clear()
                    if peer is not peers[2]: # a datagram socket whose other side is gone tells the sender only
                        peer.end()
                        guest.wait_event(r'^event 0 .*gone')
                    notes.append(f'{name} (gateway {gateway})')
                guest.do(f'attach 0 tap={ns.tap}')
                guest.run(f'sudo sh -c "dhclient -x; pkill dhclient; ip addr flush dev {card}; '
                          f'ip addr add 10.9.0.2/24 dev {card}"')
                check_tap(guest, work, ns, blob)
                run_tool('ip', '-n', ns.name, 'link', 'del', ns.tap)
                guest.wait_event(r'^event 0 .*tap')
                notes.append('tap')
                said = guest.ask('attach 0 tap=a-name-that-is-too-long')
                check(said.startswith('error') and 'a-name-that-is-too-long' in said, f'a bad tap: {said}')
                check(guest.poweroff() == 0, guest.describe(f'status {guest.status}'))
    finally:
        for peer in peers:
            peer.end()
            os.close(peer.fd)
    return ', '.join(notes)


def check_tap(guest, work, ns, blob):
    """Through the host's kernel, with its segmentation and checksums left to each other."""
    with open(work.file('blob'), 'wb') as f:
        f.write(blob)
    guest.run('(python3 -m http.server --bind 10.9.0.2 8000 > /dev/null 2>&1 &); sleep 3')
    with subprocess.Popen(['ip', 'netns', 'exec', ns.name, 'python3', '-m', 'http.server', '--bind', '10.9.0.1', '8000',
                           '--directory', work.path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            time.sleep(2)
            got = guest.value('python3 tool.py get http://10.9.0.1:8000/blob', 120)
            check(got == f'{len(blob)} {sha(blob)}', f'other bytes over the tap: {got}')
            back = subprocess.run(['ip', 'netns', 'exec', ns.name, 'python3', '-c', GUEST_TOOL, 'get',
                                   'http://10.9.0.2:8000/up'], capture_output=True, text=True, check=True).stdout
            want = guest.value('sha256sum < up | cut -d" " -f1', 60)
            check(back.split()[1] == want, f'other bytes back over the tap: {back}')
        finally:
            server.kill()


QUICK = [network_bad_input]
IMAGE = [network]
BY_HAND = [network_peers]
