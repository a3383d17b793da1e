"""A mixture of what Python programs do, for bench/bench.py: arithmetic on objects, containers, strings, calls, JSON and
regular expressions. usage: work.py SECONDS; prints "rate ROUNDS-PER-SECOND" after one round that does not count."""
import json
import re
import sys
import time


class Body:
    def __init__(self, at):
        self.at, self.speed = float(at), 0.0

    def pull(self, other):
        distance = other.at - self.at
        self.speed += distance / (abs(distance) ** 3 + 1.0)


def bodies(count, steps):
    system = [Body(i * 1.5) for i in range(count)]
    for _ in range(steps):
        for a in system:
            for b in system:
                if a is not b:
                    a.pull(b)
        for a in system:
            a.at += a.speed * 0.01
    return sum(b.at for b in system)


def words(count):
    seen = {}
    state = 12345
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        word = f'w{state % 997:x}'
        seen[word] = seen.get(word, 0) + 1
    return sorted(seen.items(), key=lambda item: (-item[1], item[0]))


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def one_round():
    table = words(2000)
    text = json.dumps([{'word': w, 'count': c, 'tags': [w[:2], w[-1:]]} for w, c in table])
    back = json.loads(text)
    found = re.findall(r'"word": "(w[0-9a-f]*7)"', text)
    return bodies(6, 30) + fib(15) + len(back) + len(found)


def main():
    seconds = float(sys.argv[1])
    expected = one_round()
    count, start = 0, time.monotonic()
    while count == 0 or time.monotonic() - start < seconds:
        if one_round() != expected:
            sys.exit('a round differs from the first')
        count += 1
    print(f'rate {count / (time.monotonic() - start):.3f}')


main()
