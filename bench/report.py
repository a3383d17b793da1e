"""From measurements to medians, ratios, means and bars; to Markdown, JSON and a chart (gnuplot). Nothing here runs a guest:
results are {row: {engine: [figure of each round]}}."""
import json
import math
import os
import shutil
import statistics
import subprocess

from rows import ROWS, Bar

NAN = float('nan')
SHORT = {'native': 'native', 'yado': 'yado', 'tcg': 'QEMU TCG', 'kvm': 'KVM'}


def median(results, row, engine):
    values = results.get(row, {}).get(engine)
    return statistics.median(values) if values else NAN


def ratio(results, row, of, to):
    """How many times as fast `of` is as `to`; NaN when one is missing."""
    a, b = median(results, row.name, of), median(results, row.name, to)
    if a != a or b != b or not a or not b:
        return NAN
    return a / b if row.better == 'more' else b / a


def spread(results, row, engine='native'):
    """(largest - smallest) / median of the rounds: how much of a difference is noise."""
    values = results.get(row, {}).get(engine) or []
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else NAN


def suite_ratios(results, of, to):
    """[(ratio, row)] of the suite's rows that both have, slowest first."""
    found = [(ratio(results, row, of, to), row) for row in ROWS if row.suite]
    return sorted(((r, row) for r, row in found if r == r), key=lambda pair: pair[0])


def mean(results, of, to):
    """Geometric mean of the suite. Beside native no row counts as more than 1: programs that yield the CPU (sysbench threads,
    stress-ng fork) lose it to whatever else a busy host does, which a guest's programs do not see."""
    most = 1.0 if to == 'native' else math.inf
    ratios = [min(r, most) for r, _ in suite_ratios(results, of, to)]
    return math.exp(sum(math.log(r) for r in ratios) / len(ratios)) if ratios else NAN


def bars(results, of='yado'):
    rows = {row.name: row for row in ROWS}
    worst = suite_ratios(results, of, 'tcg')
    every = sum(row.suite for row in ROWS)
    counts = {to: f'{len(suite_ratios(results, of, to))} of {every} rows' for to in ('native', 'tcg')}
    out = [Bar(rows[n].text + ', of native', ratio(results, rows[n], of, 'native'), at_least=0.95) for n in ('cpu1', 'cpu2')]
    out += [Bar(rows[n].text + ', times as fast as TCG', ratio(results, rows[n], of, 'tcg'), at_least=4, aim=6)
            for n in ('init', 'login', 'cloud')]
    out += [Bar('suite, geometric mean, of native', mean(results, of, 'native'), at_least=0.5, aim=0.65, note=counts['native']),
            Bar('suite, geometric mean, times as fast as TCG', mean(results, of, 'tcg'), at_least=8, note=counts['tcg']),
            Bar('suite, worst row, times as fast as TCG', worst[0][0] if worst else NAN, at_least=2,
                note=worst[0][1].text if worst else ''),
            Bar(rows['two'].text, median(results, 'two', of), at_least=1.9,
                note=f'native {figure(median(results, "two", "native"))}'),
            Bar(rows['idle'].text + ', %', median(results, 'idle', of), at_most=1),
            Bar(rows['stop'].text + ', ms', median(results, 'stop', of), at_most=50,
                note=f'native {figure(median(results, "stop", "native"))}')]
    return out


# ---- text ----

def figure(value):
    if value != value:
        return '–'
    if value == 0 or abs(value) >= 1000:
        return f'{value:.0f}'
    return f'{value:.{max(0, 2 - int(math.floor(math.log10(abs(value)))))}f}'


def table(results, engines):
    """Markdown: medians of each row; how fast yado is beside the others; how far the native rounds lie apart."""
    pairs = [(of, to) for of in ('yado', 'kvm') for to in ('native', 'tcg') if of in engines and to in engines]
    head = ['measure', 'unit'] + [SHORT[e] for e in engines] + [f'{SHORT[a]} / {SHORT[b]}' for a, b in pairs] + ['native spread']
    out = ['| ' + ' | '.join(head) + ' |', '|---|---' + '|---:' * (len(head) - 2) + '|']
    for row in ROWS:
        if row.name not in results:
            continue
        cells = [row.text, row.unit] + [figure(median(results, row.name, e)) for e in engines]
        cells += [figure(ratio(results, row, a, b)) for a, b in pairs]
        noise = spread(results, row.name)
        cells.append('–' if noise != noise else f'{noise * 100:.0f} %')
        out.append('| ' + ' | '.join(cells) + ' |')
    for a, b in pairs:
        found = suite_ratios(results, a, b)
        if found:
            capped = ' (none above 1)' if b == 'native' else ''
            out.append(f'\nSuite ({len(found)} rows), geometric mean of {SHORT[a]} / {SHORT[b]}{capped}: '
                       f'**{figure(mean(results, a, b))}**; lowest: ' + ', '.join(f'{row.name} {figure(r)}' for r, row in found[:6]) + '.')
    return '\n'.join(out)


def bars_table(results):
    out = ['| bar | is | should be | aim | |', '|---|---:|---:|---:|---|']
    for bar in bars(results):
        wanted = f'≥ {bar.at_least:g}' if bar.at_least is not None else f'≤ {bar.at_most:g}'
        aim = '' if bar.aim is None else f'{bar.aim:g}'
        note = f' ({bar.note})' if bar.note else ''
        out.append(f'| {bar.text}{note} | {figure(bar.value)} | {wanted} | {aim} | {bar.verdict()} |')
    return '\n'.join(out)


def document(results, engines, about, failures):
    out = ['# Speed: ' + ', '.join(SHORT[e] for e in engines), '']
    out += [f'- {line}' for line in about]
    out += ['', 'Medians. Ratios say how many times as fast.', '', table(results, engines)]
    if 'yado' in engines:
        out += ['', bars_table(results)]
    if failures:
        out += ['', 'Failed:', ''] + [f'- {f}' for f in failures]
    return '\n'.join(out) + '\n'


def no_nan(value):
    if isinstance(value, dict):
        return {k: no_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [no_nan(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def figures(results, engines, about, failures):
    """All of it as plain data for JSON."""
    rows = {}
    for row in ROWS:
        if row.name in results:
            rows[row.name] = {'text': row.text, 'unit': row.unit, 'better': row.better, 'suite': row.suite,
                              'command': row.command, 'runs': results[row.name],
                              'median': {e: median(results, row.name, e) for e in engines},
                              'yado_of_native': ratio(results, row, 'yado', 'native'),
                              'yado_of_tcg': ratio(results, row, 'yado', 'tcg'),
                              'native_spread': spread(results, row.name)}
    return no_nan({'about': about, 'engines': engines, 'rows': rows,
                   'geometric_mean': {'yado_of_native': mean(results, 'yado', 'native'),
                                      'yado_of_tcg': mean(results, 'yado', 'tcg')},
                   'bars': [{'text': b.text, 'value': b.value, 'at_least': b.at_least, 'at_most': b.at_most, 'aim': b.aim,
                             'verdict': b.verdict()} for b in bars(results)], 'failures': failures})


# ---- the chart ----

COLOUR = {'native': '#7f8c8d', 'yado': '#1f77b4', 'tcg': '#d9822b', 'kvm': '#2e9e5b'}


def chart_data(results, engines):
    """Lines of (label, a value for each engine): speeds of native, then seconds."""
    speeds, seconds = [], []
    for row in ROWS:
        values = [median(results, row.name, e) for e in engines]
        if row.unit == 's' and row.name in results:
            seconds.append((row.text.replace('start to ', ''), values))
        elif row.suite or row.name in ('cpu1', 'cpu2'):
            speeds.append((row.text, [ratio(results, row, e, 'native') for e in engines]))
    means = [mean(results, e, 'native') for e in engines]
    if any(m == m for m in means):
        speeds.append(('MEAN of the suite', means))
    return [s for s in speeds if any(v == v for v in s[1])], [s for s in seconds if any(v == v for v in s[1])]


def quote(text):
    return '"' + text.replace('"', '').replace('\\', '') + '"'


def gnuplot_lines(rows, engines, ylabel, scale):
    """One plot of clustered columns."""
    data = ['$d << EOD'] + ['\t'.join([quote(label)] + [f'{v:.6g}' if v == v else 'NaN' for v in values])
                            for label, values in rows] + ['EOD']
    series = ', '.join(f'$d using {i + 2}:xtic(1) title "{SHORT[e]}" lc rgb "{COLOUR[e]}"' for i, e in enumerate(engines)
                       if any(values[i] == values[i] for _, values in rows)) # gnuplot refuses a column without any
    return data + [f'set ylabel "{ylabel}"', *scale, 'plot ' + series]


def chart(results, engines, folder, title):
    """folder/bench.svg and bench.png; the script stays beside them. False without gnuplot."""
    speeds, seconds = chart_data(results, engines)
    plots = [p for p in ((speeds, 'speed, native = 1 (logarithmic)', ['set logscale y', 'set yrange [0.004:10]', 'set bmargin 9']),
                         (seconds, 'seconds (less is better)', ['unset logscale y', 'set yrange [0:*]', 'set bmargin 3',
                                                          'set xtics norotate nomirror'])) if p[0]]
    gnuplot = shutil.which('gnuplot')
    if not gnuplot or not plots:
        return False
    body = ['set style data histograms', 'set style histogram clustered gap 1', 'set style fill solid 0.9 noborder',
            'set grid ytics lc rgb "#d0d0d0"', 'set xtics rotate by -38 nomirror font ",9"', 'set key top right horizontal samplen 2 width 2', 'set rmargin 6',
            'set datafile separator "\\t"', f'set multiplot layout {len(plots)},1 title "{title}"']
    for rows, ylabel, scale in plots:
        body += gnuplot_lines(rows, engines, ylabel, scale)
    body += ['unset multiplot']
    for kind, terminal in (('svg', 'svg size 1300,1000 enhanced font "sans,11" background "#ffffff"'),
                           ('png', 'pngcairo size 1300,1000 font "sans,11" background "#ffffff"')):
        script = os.path.join(folder, f'bench.{kind}.gp')
        with open(script, 'w', encoding='utf-8') as f:
            f.write('\n'.join(['set encoding utf8', f'set terminal {terminal}',
                               f'set output "{os.path.join(folder, "bench." + kind)}"'] + body) + '\n')
        subprocess.run([gnuplot, script], check=True)
        os.unlink(script)
    return True


def write(folder, results, engines, about, failures):
    """Every form of it; returns the Markdown."""
    text = document(results, engines, about, failures)
    with open(os.path.join(folder, 'bench.md'), 'w', encoding='utf-8') as f:
        f.write(text)
    with open(os.path.join(folder, 'bench.json'), 'w', encoding='utf-8') as f:
        json.dump(figures(results, engines, about, failures), f, indent=1)
    return text
