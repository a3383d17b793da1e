"""What the guests and the host are given to run: the benchmarks' guest image (the project's own with a compiler and more in
it), a disk with programs and data, and the image's files as a tree for the host itself. All of it is made here once, under
build/bench/, from packages and from this folder; nothing is fetched by a guest."""
import os
import random
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'tests', 'guest'))
# pylint: disable=wrong-import-position
import vm

OUT = os.path.join(vm.BUILD, 'bench')
IMAGE = os.path.join(OUT, 'image')
ROOT = os.path.join(OUT, 'root')      # the image's files
TOOLS = os.path.join(OUT, 'tools')    # what $B is
DISK = os.path.join(OUT, 'tools.img')
PACKAGES = 'gcc,libc6-dev,openssl,sqlite3,xz-utils,perl,python3'
UNIT = 'src/engine/translator/mmu.c'  # the "real C file"
SBIN = dict(os.environ, PATH=os.environ['PATH'] + ':/usr/sbin:/sbin')


class Failed(Exception):
    """Something could not be made; one line says what."""


def run(argv, **more):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **more)
    if done.returncode:
        raise Failed(f'{" ".join(argv[:6])}: status {done.returncode}: {done.stdout.strip()[-600:]}')
    return done.stdout


def image():
    """The image; the environment's KERNEL, INITRD and DISK win, as everywhere. Such a disk must have the programs."""
    for variable, name in (('KERNEL', 'vmlinuz'), ('INITRD', 'initrd.img'), ('DISK', 'disk.img')):
        os.environ.setdefault(variable, os.path.join(IMAGE, name))
        os.environ[variable] = os.environ[variable] or os.path.join(IMAGE, name)
    if os.environ['DISK'].startswith(IMAGE):
        done = subprocess.run([os.path.join(vm.ROOT, 'tools', 'make-image'), IMAGE],
                              env=dict(os.environ, EXTRA_PACKAGES=PACKAGES), check=False)
        if done.returncode:
            raise Failed('tools/make-image could not make the benchmarks\' image')
    found = vm.Image()
    if found.missing():
        raise Failed(f'{found.missing()[0]} is not there')
    return found


def root(disk):
    """The files of the image's disk as a tree, for the host itself; made anew when the disk changes."""
    stamp = os.path.join(OUT, 'root.stamp')
    about = os.stat(disk)
    want = f'{os.path.realpath(disk)} {about.st_size} {about.st_mtime_ns}'
    if os.path.exists(stamp) and open(stamp, encoding='utf-8').read() == want:
        return ROOT
    shutil.rmtree(ROOT, ignore_errors=True)
    os.makedirs(ROOT)
    run(['debugfs', '-R', f'rdump / {ROOT}', disk], env=SBIN)
    if not os.path.exists(os.path.join(ROOT, 'bin', 'sh')):
        raise Failed(f'debugfs could not take the files out of {disk}')
    vm.write_file(stamp, want)
    return ROOT


# ---- data: the same on every machine ----

def text(words, seed):
    """Lines of made-up words, common ones often, as in prose."""
    rnd = random.Random(seed)
    letters = 'etaoinshrdlucmfwypvbgkqjxz'
    weight = [1 / (i + 2) for i in range(26)]
    lexicon = [''.join(rnd.choices(letters, weight, k=rnd.randint(2, 11))) for _ in range(5000)]
    often = [1 / (i + 1) for i in range(5000)]
    chosen = rnd.choices(lexicon, often, k=words)
    return '\n'.join(' '.join(chosen[i:i + 12]) for i in range(0, words, 12)) + '\n'


def numbered_lines(count, seed):
    rnd = random.Random(seed)
    return ''.join(f'{rnd.randrange(10**9):09d} {rnd.randrange(10**6):x} line\n' for _ in range(count))


def sql():
    """One transaction of single inserts with an index, then selects by key, by range, joined and grouped."""
    rnd = random.Random(3)
    out = ['create table item(id integer primary key, owner integer, name text, price real);',
           'create index item_owner on item(owner);',
           'create table owner(id integer primary key, name text);', 'begin;']
    out += [f"insert into owner values({i}, 'owner {rnd.randrange(10**6)}');" for i in range(200)]
    out += [f"insert into item values({i}, {rnd.randrange(200)}, 'item {rnd.randrange(10**9)}', {rnd.random() * 100:.2f});"
            for i in range(8000)]
    out.append('commit;')
    out += [f'select name, price from item where id = {rnd.randrange(8000)};' for _ in range(1500)]
    out += [f'select count(*), sum(price) from item where owner = {rnd.randrange(200)};' for _ in range(500)]
    out += ['select owner.name, count(*), avg(price) from item join owner on owner.id = item.owner '
            'group by owner.id order by 3 desc limit 10;',
            "select count(*) from item where name like '%77%';"]
    return '\n'.join(out) + '\n'


def preprocessed():
    """A C file of the project, after the preprocessor, so that the guest needs no headers."""
    return run(['cc', '-E', '-P', '-std=gnu11', '-D_GNU_SOURCE', '-Isrc', '-Iinclude', UNIT], cwd=vm.ROOT)


# ---- the disk ----

def sources():
    folder = os.path.join(HERE, 'guest')
    return [os.path.join(folder, n) for n in sorted(os.listdir(folder))] + [os.path.abspath(__file__),
                                                                           os.path.join(vm.ROOT, UNIT)]


def make_tools(tree):
    for name in ('probe', 'churn'):
        run(['cc', '-O2', '-static', '-pthread', '-Wall', '-Wextra', '-o', os.path.join(tree, name),
             os.path.join(HERE, 'guest', name + '.c')])
    for name in ('work.py', 'work.pl'):
        shutil.copy(os.path.join(HERE, 'guest', name), tree)
    prose = text(400000, 1)
    for name, content in (('text', prose[:2000000]), ('text.short', prose[:250000]),
                          ('text.lines', numbered_lines(60000, 2)), ('work.sql', sql()), ('unit.i', preprocessed())):
        vm.write_file(os.path.join(tree, name), content)


def tools():
    """The tree that $B is on the host, and the disk with the same, which guests mount."""
    if os.path.exists(DISK) and all(os.path.getmtime(s) < os.path.getmtime(DISK) for s in sources()):
        return DISK
    with tempfile.TemporaryDirectory(dir=OUT) as work:
        os.chmod(work, 0o755)
        tree = os.path.join(work, 'tools')
        os.mkdir(tree)
        make_tools(tree)
        vm.disk_of_tree(tree, os.path.join(work, 'disk'), '32M')
        shutil.rmtree(TOOLS, ignore_errors=True)
        os.rename(tree, TOOLS)
        os.rename(os.path.join(work, 'disk'), DISK)
    return DISK
