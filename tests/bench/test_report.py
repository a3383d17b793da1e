#!/usr/bin/env python3
"""bench/: figures are found in what programs print, ratios point the right way, bars pass and miss where they should."""
import json
import math
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'bench'))
# pylint: disable=wrong-import-position
import report
import rows

# Lines that the programs of Debian 12 really print.
PRINTED = {
    'cpu1': ('CPU speed:\n    events per second:  2032.81\n', 2032.81),
    'memory': ('2423.92 MiB transferred (2412.14 MiB/sec)\n', 2412.14),
    'sha256': ('+R:44443:sha256:0.520000\n+H:16384\n+F:25:sha256:1400296369.23\n', 1400.296),
    'aesgcm': ('+H:16384\r\n+F:25:AES-128-GCM:4839757395.35\r\n', 4839.757),
    'rsa': ('+R2:21651:2048:0.44\n+F2:2:2048:2777.272727:49206.818182\n', 2777.2727),
    'switch': ('stress-ng: metrc: [8556] switch           189936      1.00      0.04      0.46    189877.65      377118.28\n'
               'stress-ng: metrc: [8556] switch              5263.37 nanosecs per context switch\n', 189877.65),
    'gzip': ('rate 12.345\n', 12.345),
    'stop': ('quiet 0.198 0.033 busy 12.032 0.020 code 100663296\n', 12.032),
}


def results(yado=1.0, tcg=0.1):
    """Everything measured: native 100, yado and TCG as parts of its speed."""
    out = {}
    for row in rows.ROWS:
        slow = {'native': 1.0, 'yado': yado, 'tcg': tcg}
        out[row.name] = {e: [100 * f if row.better == 'more' else 100 / f] * 3 for e, f in slow.items()}
    out['two'] = {'native': [2.0], 'yado': [1.95]}
    out['idle'] = {'yado': [0.4], 'tcg': [3.0]}
    out['stop'] = {'yado': [20.0], 'native': [1.0]}
    return out


class Figures(unittest.TestCase):
    def test_found_in_the_output(self):
        for name, (output, value) in PRINTED.items():
            self.assertAlmostEqual(rows.BY_NAME[name].parse(output), value, places=2, msg=name)

    def test_none_is_an_error(self):
        for row in rows.ROWS:
            if row.command:
                with self.assertRaises(ValueError):
                    row.parse(f'{row.name}: command not found')

    def test_commands_take_seconds(self):
        for row in rows.ROWS:
            self.assertNotIn('{', row.command.format(s=2).replace('{ t', '').replace('{ print', ''))


class Ratios(unittest.TestCase):
    def test_more_and_less(self):
        found = {'gzip': {'yado': [50], 'native': [100]}, 'login': {'yado': [10, 12, 11], 'tcg': [66, 44, 55]}}
        self.assertAlmostEqual(report.ratio(found, rows.BY_NAME['gzip'], 'yado', 'native'), 0.5)
        self.assertAlmostEqual(report.ratio(found, rows.BY_NAME['login'], 'yado', 'tcg'), 5.0)
        self.assertTrue(math.isnan(report.ratio(found, rows.BY_NAME['gzip'], 'yado', 'tcg')))

    def test_geometric_mean_is_of_the_suite_alone(self):
        found = results(yado=0.5)
        found['cpu1']['yado'] = [1e9]
        found['gzip']['yado'], found['xz']['yado'] = [25], [100]
        self.assertAlmostEqual(report.mean(found, 'yado', 'native'), 0.5)
        self.assertEqual(report.suite_ratios(found, 'yado', 'native')[0][1].name, 'gzip')

    def test_faster_than_native_is_no_gain(self):
        found = results(yado=0.5, tcg=0.25)
        found['threads']['yado'] = [900]
        count = sum(row.suite for row in rows.ROWS)
        self.assertAlmostEqual(report.mean(found, 'yado', 'native'), 0.5 ** ((count - 1) / count))
        self.assertAlmostEqual(report.mean(found, 'yado', 'tcg'), 2 * 18 ** (1 / count))

    def test_spread(self):
        self.assertAlmostEqual(report.spread({'gzip': {'native': [90, 100, 120]}}, 'gzip'), 0.3)


class Bars(unittest.TestCase):
    def verdicts(self, found):
        return [bar.verdict() for bar in report.bars(found)]

    def test_all_pass(self):
        self.assertEqual({v.split(',')[0] for v in self.verdicts(results(yado=1.0, tcg=0.1))}, {'pass'})

    def test_each_missed(self):
        missed = self.verdicts(results(yado=0.3, tcg=0.2))
        self.assertEqual(missed[:8], ['MISS'] * 8)
        found = results()
        found['two']['yado'], found['idle']['yado'], found['stop']['yado'] = [1.8], [1.2], [51]
        self.assertEqual(self.verdicts(found)[8:], ['MISS'] * 3)

    def test_one_slow_row(self):
        found = results()
        found['sort']['yado'] = [15]
        bar = report.bars(found)[7]
        self.assertEqual((bar.verdict(), bar.note), ('MISS', rows.BY_NAME['sort'].text))

    def test_nothing_measured_is_no_pass(self):
        self.assertEqual(set(self.verdicts({})), {'not measured'})


class Written(unittest.TestCase):
    def test_forms(self):
        with tempfile.TemporaryDirectory() as folder:
            found = results()
            for name in rows.BOOT:
                del found[name]['native']
            text = report.write(folder, found, ['native', 'yado', 'tcg'], ['here'], ['xz, tcg: broken'])
            with open(os.path.join(folder, 'bench.json'), encoding='utf-8') as f:
                data = json.load(f)
            self.assertIn('| gzip | runs/s | 100 | 100 | 10.0 | 1.00 | 10.0 | 0 % |', text)
            self.assertIn('xz, tcg: broken', text)
            self.assertAlmostEqual(data['geometric_mean']['yado_of_tcg'], 10.0)
            self.assertEqual(data['rows']['gzip']['runs']['tcg'], [10.0] * 3)
            if report.chart(found, ['native', 'yado', 'tcg'], folder, 'test'):
                for name, magic in (('bench.png', b'\x89PNG'), ('bench.svg', b'<?xml')):
                    with open(os.path.join(folder, name), 'rb') as f:
                        self.assertTrue(f.read().startswith(magic), name)


unittest.main()
