"""What runs the rows: the host itself, in a change of root to the image's files; and guests of yado's translator, of QEMU's
(TCG), and of KVM. Each boots a fresh copy of the same disk with the same kernel, initrd, seed, vCPU count and memory, a NAT
inside the monitor's process for network, and its console at a pseudo terminal."""
import os
import re
import shlex
import shutil
import signal
import subprocess
import time

import tools
from tools import vm

CPUS = int(os.environ.get('CPUS') or 2)
MEMORY = os.environ.get('MEMORY') or '2G'
TEXT = {'native': 'the host itself', 'yado': 'yado, translator', 'tcg': 'QEMU TCG', 'kvm': 'yado, KVM'}
QEMU = 'qemu-system-x86_64'


def kvm_state():
    """What `yado doctor` says of KVM: '' when it is the real thing, else why not."""
    said = subprocess.run([vm.YADO, 'doctor'], capture_output=True, text=True, check=False).stdout
    found = re.search(r'^engine kvm: (.*)$(?:\n +why: +(.*))?', said, re.M)
    if not found:
        return '`yado doctor` does not speak of it'
    return '' if found.group(1).strip() == 'usable' else found.group(2) or found.group(1)


def choose(wanted):
    """(names of engines to measure, {name: why it is left out}); without a wish all that this host has."""
    missing = {}
    if os.geteuid():
        missing['native'] = 'it needs root, for a change of root to the image\'s files'
    if not shutil.which(QEMU):
        missing['tcg'] = f'{QEMU} is not installed (apt install qemu-system-x86)'
    if 'kvm' in wanted or not wanted:
        why = kvm_state()
        if why:
            missing['kvm'] = why
    names = [e for e in TEXT if not wanted or e in wanted]
    return [e for e in names if e not in missing], {e: missing[e] for e in names if e in missing}


class Native:
    """Rows on the host itself: the image's programs, the host's kernel."""

    # In a mount namespace of its own: the image's tree with /dev, /proc, /sys, a tmpfs at /tmp and the tools at /mnt.
    PREPARE = ('set -e; r=$1; mount --rbind /dev "$r/dev"; mount --rbind /proc "$r/proc"; mount --rbind /sys "$r/sys"; '
               'mount -t tmpfs tmpfs "$r/tmp"; chmod 1777 "$r/tmp"; mount --bind "$2" "$r/mnt"; shift 2; '
               'exec chroot --userspec=1000:1000 "$r" /usr/bin/env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8 '
               'HOME=/tmp B=/mnt "$@"')

    def __init__(self, image):
        self.root = tools.root(image.disk)

    def run(self, row, command, timeout):
        del row
        argv = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', self.PREPARE, 'sh', self.root, tools.TOOLS,
                'sh', '-c', 'cd /tmp; ' + command]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=timeout, check=False, errors='replace')
        if done.returncode:
            raise vm.GuestError(f'`{command}` on the host ended with status {done.returncode}: {done.stdout[-600:]}')
        return done.stdout

    def close(self):
        pass


class Machine:
    """A guest of one engine, booted."""

    def __init__(self, engine, image, serial=False):
        self.engine = engine
        self.work = vm.Workdir()
        try:
            self.argv = self._argv(image, serial)
            self.guest = vm.Guest(self.argv)
        except BaseException:
            self.work.tmp.cleanup()
            raise

    def _argv(self, image, serial):
        disk = self.work.disk(image)
        own = vm.copy_sparse(tools.DISK, self.work.file('tools.img')) # each locks its own
        # Debian's hvc0 comes with a module; what the kernel says before that, only a serial port tells as it is said.
        cmdline = vm.CMDLINE.replace('console=hvc0', 'console=hvc0 console=ttyS0') if serial else None
        if self.engine == 'tcg':
            return vm.qemu_argv(image, disk, vm.make_seed(self.work, self.work.file('seed.iso')), cpus=CPUS, memory=MEMORY,
                                extra=['-drive', f'file={own},if=virtio,format=raw,readonly=on'], cmdline=cmdline,
                                serial=serial)
        kind = {'yado': 'translator', 'kvm': 'kvm'}[self.engine]
        return vm.yado_argv(image, self.work, disk, cpus=CPUS, memory=MEMORY, cmdline=cmdline,
                            extra=['--engine', kind, '--disk', own + ',ro'] + shlex.split(os.environ.get('YADO_OPTIONS') or ''))

    def prepare(self):
        """To a quiet shell in an empty tmpfs, the tools at /mnt."""
        self.guest.login(timeout=600)
        self.guest.run_status('cloud-init status --wait', 900)
        self.guest.mount_disk_with('probe')
        self.guest.run('sudo dmesg -n 1; sudo mount -t tmpfs tmpfs /tmp && sudo chmod 1777 /tmp && cd /tmp', 120)
        self.guest.run('export B=/mnt HOME=/tmp LANG=C.UTF-8', 60)

    def clock_error(self):
        """By how much the guest's clock ran off the host's since the last call, as a part of the time that passed."""
        before = time.monotonic()
        guest = float(self.guest.value('cut -d" " -f1 /proc/uptime'))
        host = (before + time.monotonic()) / 2
        last, self.clock = getattr(self, 'clock', None), (guest, host)
        return (guest - last[0]) / (host - last[1]) - 1 if last else 0.0

    def run(self, row, command, timeout):
        if row.root:
            command = f'sudo env B=/mnt sh -c {shlex.quote(command)}'
        return self.guest.run(command, timeout)

    def close(self):
        self.guest.signal(signal.SIGKILL)
        self.guest.close()
        self.work.tmp.cleanup()
