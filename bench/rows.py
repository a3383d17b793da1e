"""What is measured: the rows of the table, what makes their figures, and the bars that they are held against.

A Row of the suite is a shell command that runs alike in a guest and on the host itself, by the image's own programs, as an
ordinary user, in an empty tmpfs, with what `tools.py` makes at $B; and the place of the figure in what it prints. {s} is
how many seconds it may take. Rates: more is better."""
import dataclasses
import re

RUNS = '$B/probe runs {s} '


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    text: str
    unit: str
    command: str = ''          # '': not a command; bench.py knows how
    pattern: str = r'rate ([\d.]+)'
    better: str = 'more'
    suite: bool = False        # counts in the geometric means
    root: bool = False         # in a guest: through sudo
    share: float = 1.0         # of the seconds of a row
    scale: float = 1.0         # of the figure printed to the unit

    def parse(self, output):
        found = re.search(self.pattern, output, re.M)
        if not found:
            raise ValueError(f'{self.name}: no figure in what it printed: {output[-300:].strip()!r}')
        return float(found.group(1)) * self.scale


def suite(name, text, unit, command, pattern=r'rate ([\d.]+)', **more):
    return Row(name, text, unit, command, pattern, suite=True, **more)


def speed(what):
    """openssl speed by the clock on the wall; -mr prints bytes per second."""
    return f'openssl speed -elapsed -mr -seconds {{s}} -bytes 16384 -evp {what} 2>&1'


SYSBENCH_CPU = 'sysbench cpu --time={s} --threads=%d run'
EVENTS = r'events per second:\s*([\d.]+)'
STRESS = 'stress-ng --%s 1 --timeout {s}s --metrics-brief 2>&1'
BOGO = r'metrc:.* %s +\d+ +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+)'

ROWS = (
    Row('init', 'start to "Run /init"', 's', better='less'),
    Row('login', 'start to the login prompt', 's', better='less'),
    Row('cloud', 'start to "Cloud-init ... finished"', 's', better='less'),
    Row('cpu1', 'sysbench cpu, 1 thread', 'events/s', SYSBENCH_CPU % 1, EVENTS),
    Row('cpu2', 'sysbench cpu, 2 threads', 'events/s', SYSBENCH_CPU % 2, EVENTS),
    Row('two', 'two busy vCPUs against one', 'times'),
    suite('memory', 'sysbench memory', 'MiB/s', 'sysbench memory --time={s} run', r'\(([\d.]+) MiB/sec\)'),
    suite('threads', 'sysbench threads, 2 threads', 'events/s',
          "sysbench threads --threads=2 --time={s} run | awk '/total time:/ {{ t = $3 + 0 }} "
          "/number of events:/ {{ print \"rate\", $5 / t }}'"),
    suite('mutex', 'sysbench mutex, 2 threads', '1/s',
          "sysbench mutex --threads=2 --mutex-locks=20000 run | awk '/total time:/ {{ print \"rate\", 1 / $3 }}'"),
    suite('sha256', 'openssl speed sha256', 'MB/s', speed('sha256'), r'^\+F:.*:([\d.]+)\s*$', scale=1e-6),
    suite('aesgcm', 'openssl speed aes-128-gcm', 'MB/s', speed('aes-128-gcm'), r'^\+F:.*:([\d.]+)\s*$', scale=1e-6),
    suite('rsa', 'openssl speed rsa2048, signatures', '1/s', 'openssl speed -elapsed -mr -seconds {s} rsa2048 2>&1',
          r'^\+F2:\d+:2048:([\d.]+)', share=0.5),
    suite('python', 'Python 3, a mixture', 'rounds/s', 'python3 $B/work.py {s}'),
    suite('gcc', 'gcc -O2 of a file of yado', 'runs/s', RUNS + '/dev/null gcc -O2 -w -c $B/unit.i -o unit.o'),
    suite('sqlite', 'sqlite insert and select', 'runs/s', RUNS + '$B/work.sql sqlite3 :memory:'),
    suite('gzip', 'gzip', 'runs/s', RUNS + '$B/text gzip -c'),
    suite('xz', 'xz', 'runs/s', RUNS + '$B/text.short xz -c'),
    suite('sort', 'sort', 'runs/s', RUNS + '$B/text.lines sort'),
    suite('perl', 'perl, words of a text', 'runs/s', RUNS + '$B/text perl $B/work.pl'),
    suite('fork', 'stress-ng fork', 'ops/s', STRESS % 'fork', BOGO % 'fork'),
    suite('exec', 'stress-ng exec', 'ops/s', STRESS % 'exec', BOGO % 'exec'),
    suite('switch', 'stress-ng switch', 'ops/s', STRESS % 'switch', BOGO % 'switch'),
    suite('pipe', 'pipe ping-pong on one CPU', 'trips/s', '$B/probe pipe {s}'),
    suite('syscall', 'getppid()', 'calls/s', '$B/probe syscall {s}'),
    suite('fault', 'page faults, fresh memory', 'faults/s', '$B/probe fault {s}'),
    Row('idle', 'idle guest: a host CPU', '%', better='less'),
    Row('stop', 'longest stop while code churns', 'ms', '$B/churn {s} 64000000', r'busy ([\d.]+)', better='less', root=True),
)
BY_NAME = {row.name: row for row in ROWS}
BOOT = ('init', 'login', 'cloud')


@dataclasses.dataclass(frozen=True)
class Bar:
    text: str
    value: float               # NaN: not measured
    at_least: float = None     # exactly one of the two
    at_most: float = None
    aim: float = None
    note: str = ''

    def verdict(self):
        if self.value != self.value:
            return 'not measured'
        good = self.value >= self.at_least if self.at_least is not None else self.value <= self.at_most
        if good and self.aim is not None:
            return 'pass, aim reached' if self.value >= self.aim else 'pass, aim missed'
        return 'pass' if good else 'MISS'
